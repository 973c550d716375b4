"""Denoiser: (x_t, t) -> Prediction. Hides the network: its 3 or 6 channels, timestep map, labels and
precision.

Papers: Ho et al. 2020 (eps prediction), Nichol & Dhariwal 2021 (learned variance, hybrid loss, respaced
time), Mayet et al. 2024 (arXiv 2410.09306, "TD-Paint": clean pixels beside noisy ones, a time per pixel).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.losses import (
    coarse_error,
    discretized_gaussian_log_likelihood,
    mean_flat,
    nats_to_bits,
    normal_kl,
)


@dataclass(frozen=True)
class Prediction:
    """A denoiser's prediction from x_t; every tensor is (B, C, H, W) float32."""

    x0: Tensor  # the clean image, clipped to [-1, 1] if the denoiser clips
    eps: Tensor  # the noise that goes with x0
    log_variance: Tensor  # of p(x_{t-1} | x_t)
    score: Tensor | None = None  # scaled gradient of log p(y | x_t), when guided


class Denoise(Protocol):
    """The contract that samplers rely on.

    Args:
        x: (B, C, H, W), noisy at time t.
        t: index of the respaced process.
        clean: None, or (B, 1, H, W): 1 where x is free of noise, 0 where it is at time t. Where it is 1 the
            prediction is x itself. Raises ValueError if this denoiser cannot take clean pixels.
    """

    def __call__(self, x: Tensor, t: int, clean: Tensor | None = None) -> Prediction: ...


@dataclass(frozen=True)
class Denoiser:
    """A network, and how its output is to be read."""

    network: nn.Module
    process: GaussianDiffusion
    timesteps: Tensor
    """(T,), the training time of each index of `process`; ascending, may be fractional."""
    predict_xstart: bool = False
    """The network predicts x0; otherwise eps."""
    learn_sigma: bool = True
    """The network returns 2C channels; the second half is v (Nichol & Dhariwal 2021, eq. 15)."""
    sigma_small: bool = False
    """The fixed variance is the posterior's; otherwise beta. Only without `learn_sigma`."""
    clip: bool = True
    """Clip x0 to [-1, 1]."""
    autocast: torch.dtype | None = None
    """The type to which torch narrows the arithmetic; None: none."""
    labels: Tensor | None = None
    """(B,) classes. x may hold n windows of each of the B images, (n * B, C, H, W)."""

    @torch.no_grad()
    def __call__(self, x: Tensor, t: int, clean: Tensor | None = None) -> Prediction:
        """Predict from x (B, C, H, W) at index t; the network sees time 0 at `clean` pixels (TD-Paint)."""
        if clean is None:
            out, v = self._network(x, self.timesteps[t : t + 1])
            return self._read(x, t, out, v)
        out, v = self._network(x, self.timesteps[t] * (1 - clean))
        p = self._read(x, t, out, v)
        x0 = torch.where(clean > 0, x, p.x0)
        return replace(p, x0=x0, eps=torch.where(clean > 0, self.process.eps_from_x0(x, t, x), p.eps))

    def _network(self, x: Tensor, times: Tensor) -> tuple[Tensor, Tensor | None]:
        label = () if self.labels is None else (self.labels.repeat(len(x) // len(self.labels)),)
        with nullcontext() if self.autocast is None else torch.autocast(x.device.type, self.autocast):
            out = self.network(x, times, *label)
        out = out.float().contiguous()
        return out.chunk(2, dim=1) if self.learn_sigma else (out, None)

    def _read(self, x: Tensor, t: int | Tensor, out: Tensor, v: Tensor | None) -> Prediction:
        process = self.process
        x0 = out if self.predict_xstart else process.x0_from_eps(x, t, out)
        raw = not self.predict_xstart and not self.clip
        if self.clip:
            x0 = x0.clamp(-1, 1)
        eps = out if raw else process.eps_from_x0(x, t, x0)
        if v is None:
            return Prediction(x0, eps, process.log_variance(x, t, large=not self.sigma_small))
        return Prediction(x0, eps, process.learned_log_variance(v, t))

    def loss(
        self,
        x0: Tensor,
        t: Tensor,
        noise: Tensor,
        clean_mask: Tensor | None = None,
        coarse: Sequence[int] = (),
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Per-image training losses, each (B,): mean squared error of eps (or x0), the bound in bits/dim,
        and the errors of coarser images, `coarse_error` by the factors `coarse`.

        x0 (B, C, H, W) in [-1, 1], t (B,) indices, noise like x0. The bound's gradient reaches only the
        variance (Nichol & Dhariwal section 3.1); it is zero for networks with a fixed variance.
        clean_mask (B, 1, H, W): where it is 1 the network sees x0 at time 0 and nothing counts; not 1
        everywhere.
        """
        x_t, times, unknown = self.process.q_sample(x0, t, noise), self.timesteps[t], None
        if clean_mask is not None:
            unknown = 1 - clean_mask
            x_t, times = torch.where(clean_mask > 0, x0, x_t), times[:, None, None, None] * unknown
        out, v = self._network(x_t, times)
        error = (x0 if self.predict_xstart else noise) - out
        simple = mean_flat(error**2, unknown)
        rough = coarse_error(error, coarse, unknown)
        if v is None:
            return simple, torch.zeros_like(simple), rough
        return simple, self._bound(x0, x_t, t, out.detach(), v, unknown), rough

    def _bound(
        self, x0: Tensor, x_t: Tensor, t: Tensor, out: Tensor, v: Tensor, unknown: Tensor | None
    ) -> Tensor:
        process = self.process
        true_mean = process.posterior_mean(x0, x_t, t)
        true_log_variance = process.log_variance(x_t, t, large=False)
        guess = self._read(x_t, t, out, v)
        mean = process.posterior_mean(guess.x0, x_t, t)
        kl = mean_flat(normal_kl(true_mean, true_log_variance, mean, guess.log_variance), unknown)
        likelihood = discretized_gaussian_log_likelihood(x0, mean, 0.5 * guess.log_variance)
        return nats_to_bits(torch.where(t == 0, -mean_flat(likelihood, unknown), kl))


def network_times(timesteps: Sequence[int], diffusion_steps: int, rescale: bool) -> Tensor:
    """The times the network sees for a respaced process: (T,) int64, or float32 rescaled to 0..1000.

    rescale: `rescale_timesteps`, t * 1000 / diffusion_steps, as in improved-diffusion.
    """
    times = torch.tensor(timesteps)
    return times.float() * (1000.0 / diffusion_steps) if rescale else times
