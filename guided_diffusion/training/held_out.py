"""How well a denoiser finds the noise in images it never saw, by time, and its bound on their likelihood.

Papers: Ho et al. 2020 (arXiv 2006.11239; simple loss), Nichol & Dhariwal 2021 (arXiv 2102.09672; bound in
bits/dim). Where we differ: times are stratified, finely where there is little noise: there the bound lies.
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

_FINE, _COARSE = 6, 3  # strata of the first third of the times, beside t = 0, and of each other third


@dataclass(frozen=True)
class HeldOut:
    """Losses of N images, one time from each of K strata: simple, bound (N, K); widths (K,) in times.

    simple: mean squared error of eps. bound: the term of the time drawn, in bits/dim. prior: (N,), what is
    left of the image in x_T, in bits/dim. third: (K,), from 0 for strata of the least noisy times to 2.
    """

    simple: np.ndarray
    bound: np.ndarray
    widths: np.ndarray
    third: np.ndarray
    prior: np.ndarray

    @property
    def error(self) -> np.ndarray:
        """(N,): mean squared error of eps over all times, each weighing the same."""
        return self.simple @ self.widths / self.widths.sum()

    @property
    def error_by_third(self) -> np.ndarray:
        """(N, 3): the same over each third of the times, from the least noisy on."""
        shares = np.stack([np.where(self.third == i, self.widths, 0) for i in range(3)], axis=1)
        return self.simple @ (shares / shares.sum(0))

    @property
    def bits(self) -> np.ndarray:
        """(N,): the variational bound, bits/dim."""
        return self.bound @ self.widths + self.prior


def strata(times: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges (K + 1,) of ranges of times from 0 to `times`, and the third (K,) that each lies in.

    t = 0, where the likelihood is, is a range of its own. Raises ValueError for fewer than three times.
    """
    if times < 3:
        raise ValueError(f"{times} times have no thirds; give at least 3")
    cuts = [round(times / 3), round(2 * times / 3)]
    fine = np.geomspace(1, cuts[0], _FINE)
    coarse = [np.linspace(*ends, _COARSE + 1) for ends in ((cuts[0], cuts[1]), (cuts[1], times))]
    edges = np.unique(np.rint(np.concatenate([[0], fine, *coarse])).astype(int))
    return edges, np.digitize(edges[:-1], cuts)


@torch.no_grad()
def measure(denoiser: Denoiser, images: Iterable[Tensor], seed: int = 0) -> HeldOut:
    """Losses of `denoiser`, which predicts eps and does not clip, on images (C, H, W) in [-1, 1].

    The times and noises of image i are drawn from (seed, i) alone: the same for all denoisers of one
    process, so that differences are of pairs. Raises ValueError without images.
    """
    edges, third = strata(denoiser.process.num_timesteps)
    told = [_one(denoiser, image, edges, [seed, i]) for i, image in enumerate(images)]
    if not told:
        raise ValueError("there are no images to measure on; give at least one")
    simple, bound, prior = (np.stack(parts) for parts in zip(*told, strict=True))
    return HeldOut(simple, bound, np.diff(edges), third, prior)


def _one(
    denoiser: Denoiser, image: Tensor, edges: np.ndarray, seed: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, float]:
    rng = np.random.default_rng(seed)
    t = torch.from_numpy(rng.integers(edges[:-1], edges[1:]))
    noise = torch.from_numpy(rng.standard_normal((len(t), *image.shape), dtype=np.float32))
    device = denoiser.timesteps.device
    x0 = image.expand(noise.shape).to(device)
    losses = denoiser.loss(x0, t.to(device), noise.to(device))
    simple, bound = (part.double().cpu().numpy() for part in losses[:2])
    return simple, bound, prior_bits(denoiser.process, image)


def prior_bits(process: GaussianDiffusion, image: Tensor) -> float:
    """KL of q(x_T | x_0) from N(0, 1), bits/dim: what the image still tells when the walk begins."""
    kept = torch.tensor(process.alpha_bar(process.num_timesteps - 1), dtype=torch.float64)
    zero = torch.zeros((), dtype=torch.float64)
    kl = normal_kl(kept.sqrt() * image[None].double(), (1 - kept).log(), zero, zero)
    return nats_to_bits(mean_flat(kl)).item()
