"""Coarse guidance: a coarse result gives a prediction its low frequencies, in its region, down to min_t."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from guided_diffusion.codec import PixelCodec
from guided_diffusion.denoiser import Prediction
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.inpainting.coarse_guidance import CoarseGuidedDenoiser
from guided_diffusion.respace import get_named_beta_schedule

PROCESS = GaussianDiffusion(get_named_beta_schedule("cosine", 10))


class Half:
    """A denoiser: x0 is half of x, and x itself where that is clean."""

    def __call__(self, x: Tensor, t: int, clean: Tensor | None = None) -> Prediction:
        x = x if clean is None else torch.where(clean > 0, 2 * x, x)
        return Prediction(x / 2, PROCESS.eps_from_x0(x, t, x / 2), torch.zeros_like(x))


def noise(seed: int) -> Tensor:
    return 0.3 * torch.randn(1, 3, 24, 36, generator=torch.Generator().manual_seed(seed)).clamp(-1.5, 1.5)


def box() -> Tensor:
    where = torch.zeros(1, 1, 24, 36)
    where[..., 6:20, 9:30] = 1
    return where


def guided(coarse: Tensor, region: Tensor, min_t: int = 4) -> CoarseGuidedDenoiser:
    return CoarseGuidedDenoiser(Half(), PROCESS, coarse, region, (6, 9), min_t, PixelCodec().clamp)


def test_coarse_level_replaces_the_level_of_x0() -> None:
    x, where = noise(0), torch.ones(1, 1, 24, 36)
    p = guided(x / 2 + 0.25, where)(x, 7)
    assert torch.allclose(p.x0, x / 2 + 0.25, atol=1e-6)
    assert torch.allclose(p.eps, PROCESS.eps_from_x0(x, 7, p.x0), atol=1e-5)


def test_block_means_follow_coarse_and_details_stay() -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 24), torch.linspace(-1, 1, 36), indexing="ij")
    smooth, fine = (0.5 * y * x).expand(1, 3, 24, 36), noise(1) / 4
    fine = fine - torch.nn.functional.interpolate(
        torch.nn.functional.interpolate(fine, (6, 9), mode="area"), (24, 36), mode="nearest"
    )  # without means
    p = guided(smooth, torch.ones(1, 1, 24, 36))(2 * fine, 7)
    assert (p.x0 - smooth - fine).abs()[..., 4:-4, 4:-4].max() < 1e-2


def test_only_the_region_follows_coarse() -> None:
    x, where = noise(2), box()
    dark, bright = (guided(torch.where(where > 0, noise(3), level), where)(x, 7) for level in (-1.0, 1.0))
    assert torch.equal(dark.x0, bright.x0)
    assert torch.equal(dark.x0 * (1 - where), x / 2 * (1 - where))
    assert not torch.allclose(dark.x0, x / 2, atol=0.05)


def test_coarse_reaches_the_edge_of_the_region() -> None:
    """Blocks that the edge cuts count their inner pixels alone."""
    x, where = noise(4), box()
    p = guided(x / 2 + 0.2, where)(x, 7)
    assert torch.allclose(p.x0, x / 2 + 0.2 * where, atol=1e-4)


@pytest.mark.parametrize(("t", "counts"), [(3, False), (4, True), (9, True)])
def test_coarse_counts_down_to_min_t(t: int, counts: bool) -> None:
    x = noise(5)
    p = guided(noise(6), box())(x, t)
    assert torch.equal(p.x0, x / 2) is not counts


def test_clean_is_passed_on() -> None:
    x, known = noise(7), 1 - box()
    p = guided(noise(8), box())(x, 7, known)
    assert torch.equal(p.x0 * known, x * known)
