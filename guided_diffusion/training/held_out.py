"""Losses of a denoiser on held-out images: error of the predicted noise by time, and the variational bound.

Papers: Ho et al. 2020 (arXiv 2006.11239; simple loss), Nichol & Dhariwal 2021 (arXiv 2102.09672; bound in
bits/dim). Where we differ: times are stratified, most finely at low noise, where most of the bound lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from guided_diffusion.denoiser import Denoiser
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.losses import mean_flat, nats_to_bits, normal_kl

_FINE, _COARSE = 6, 3  # strata of the first third of the times (besides t = 0), and of each other third


@dataclass(frozen=True)
class HeldOutLosses:
    """Losses of N images, each at one time from each of K strata."""

    simple: np.ndarray
    """Mean squared error of eps, (N, K)."""
    bound: np.ndarray
    """Term of the variational bound at the drawn time, bits/dim, (N, K)."""
    widths: np.ndarray
    """Number of times in each stratum, (K,)."""
    third: np.ndarray
    """Third of the times that each stratum lies in, (K,): 0 = least noise, 2 = most."""
    prior: np.ndarray
    """Information about the image that is left in x_T, bits/dim, (N,)."""

    @property
    def error(self) -> np.ndarray:
        """Mean squared error of eps over all times with equal weights, (N,)."""
        return self.simple @ self.widths / self.widths.sum()

    @property
    def error_by_third(self) -> np.ndarray:
        """Mean squared error of eps over each third of the times, from the least noisy, (N, 3)."""
        shares = np.stack([np.where(self.third == i, self.widths, 0) for i in range(3)], axis=1)
        return self.simple @ (shares / shares.sum(0))

    @property
    def bits(self) -> np.ndarray:
        """Variational bound, bits/dim, (N,)."""
        return self.bound @ self.widths + self.prior


def strata(times: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges (K + 1,) of the strata of times 0 to `times`, and the third (K,) that each stratum lies in.

    t = 0, the likelihood term, is a stratum by itself. Raises ValueError for fewer than three times.
    """
    if times < 3:
        raise ValueError(f"{times} times have no thirds; give at least 3")
    cuts = [round(times / 3), round(2 * times / 3)]
    fine = np.geomspace(1, cuts[0], _FINE)
    coarse = [np.linspace(*ends, _COARSE + 1) for ends in ((cuts[0], cuts[1]), (cuts[1], times))]
    edges = np.unique(np.rint(np.concatenate([[0], fine, *coarse])).astype(int))
    return edges, np.digitize(edges[:-1], cuts)


@torch.no_grad()
def measure(denoiser: Denoiser, images: Iterable[Tensor], seed: int = 0) -> HeldOutLosses:
    """Measure the losses of a denoiser.

    Times and noise of image i depend on (seed, i) alone. Denoisers of the same process are therefore compared
    pairwise, on the same draws. Raises ValueError if there are no images.

    Args:
        denoiser: predicts eps and does not clip.
        images: each (C, H, W), in [-1, 1].
    """
    edges, third = strata(denoiser.process.num_timesteps)
    losses = [_measure_image(denoiser, image, edges, [seed, i]) for i, image in enumerate(images)]
    if not losses:
        raise ValueError("there are no images to measure on; give at least one")
    simple, bound, prior = (np.stack(terms) for terms in zip(*losses, strict=True))
    return HeldOutLosses(simple, bound, np.diff(edges), third, prior)


def _measure_image(
    denoiser: Denoiser, image: Tensor, edges: np.ndarray, seed: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Simple loss (K,), bound (K,) and prior term of one image."""
    rng = np.random.default_rng(seed)
    t = torch.from_numpy(rng.integers(edges[:-1], edges[1:]))
    noise = torch.from_numpy(rng.standard_normal((len(t), *image.shape), dtype=np.float32))
    device = denoiser.timesteps.device
    x0 = image.expand(noise.shape).to(device)
    losses = denoiser.loss(x0, t.to(device), noise.to(device))
    simple, bound = (term.double().cpu().numpy() for term in losses[:2])
    return simple, bound, prior_bits(denoiser.process, image)


def prior_bits(process: GaussianDiffusion, image: Tensor) -> float:
    """KL divergence of q(x_T | x_0) from N(0, 1), bits/dim: information about the image left in x_T."""
    alpha_bar = torch.tensor(process.alpha_bar(process.num_timesteps - 1), dtype=torch.float64)
    zero = torch.zeros((), dtype=torch.float64)
    kl = normal_kl(alpha_bar.sqrt() * image[None].double(), (1 - alpha_bar).log(), zero, zero)
    return nats_to_bits(mean_flat(kl)).item()
