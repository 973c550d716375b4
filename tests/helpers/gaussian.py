"""A prior whose every answer is known: x0 ~ N(mean, covariance) over the pixels of a (1, 1, D) image.

The posterior of x0 given x_t is Gaussian with known moments, and so is the exact reverse step: a sampler that
is right returns the prior, or the known conditional.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guided_diffusion.denoiser import Prediction
from guided_diffusion.gaussian_diffusion import GaussianDiffusion


@dataclass(frozen=True)
class GaussianDenoiser:
    """The ideal denoiser of that prior. mean (D,), covariance (D, D); x is (B, 1, 1, D)."""

    process: GaussianDiffusion
    mean: Tensor
    covariance: Tensor

    def __call__(self, x: Tensor, t: int, clean: Tensor | None = None) -> Prediction:
        if clean is not None:
            raise ValueError("GaussianDenoiser cannot be told what is clean")
        a = self.process.alpha_bar(t)
        eye = torch.eye(len(self.mean))
        gain = a**0.5 * self.covariance @ torch.linalg.inv(a * self.covariance + (1 - a) * eye)
        spread = self.covariance - a**0.5 * gain @ self.covariance  # of x0 given x_t
        x0 = self.mean + (x - a**0.5 * self.mean) @ gain.T
        reverse = (
            self.process.posterior_variance[t] + self.process.posterior_mean_coef1[t] ** 2 * spread.diagonal()
        )
        log_variance = reverse.clamp(min=1e-20).log().expand_as(x)
        return Prediction(x0, self.process.eps_from_x0(x, t, x0), log_variance)


def pixels(*values: float) -> Tensor:
    """Values as one image (1, 1, 1, D)."""
    return torch.tensor(values)[None, None, None]
