"""A sketch gives a prediction its low frequencies, where and as long as it is meant to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from guided_diffusion.denoiser import Prediction
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.inpainting.coarse_guidance import CoarseGuidedDenoiser
from guided_diffusion.respace import get_named_beta_schedule

PROCESS = GaussianDiffusion(get_named_beta_schedule("cosine", 10))


class Half:
    """x0 is half of x; it can be told what is clean."""

    def __call__(self, x: Tensor, t: int) -> Prediction:
        return Prediction(x / 2, PROCESS.eps_from_x0(x, t, x / 2), torch.zeros_like(x))

    def given(self, x: Tensor, t: int, known: Tensor) -> Prediction:
        return self(torch.where(known > 0, 2 * x, x), t)


def noise(seed: int) -> Tensor:
    return 0.3 * torch.randn(1, 3, 24, 36, generator=torch.Generator().manual_seed(seed)).clamp(-1.5, 1.5)


def box() -> Tensor:
    where = torch.zeros(1, 1, 24, 36)
    where[..., 6:20, 9:30] = 1
    return where


def sketched(sketch: Tensor, where: Tensor, until: int = 4) -> CoarseGuidedDenoiser:
    return CoarseGuidedDenoiser(Half(), PROCESS, sketch, where, (6, 9), until)


def test_a_level_is_taken_over_and_the_rest_kept() -> None:
    x, where = noise(0), torch.ones(1, 1, 24, 36)
    p = sketched(x / 2 + 0.25, where)(x, 7)
    assert torch.allclose(p.x0, x / 2 + 0.25, atol=1e-6)
    assert torch.allclose(p.eps, PROCESS.eps_from_x0(x, 7, p.x0), atol=1e-5)


def test_means_of_blocks_come_near_the_sketch_and_what_is_finer_stays() -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 24), torch.linspace(-1, 1, 36), indexing="ij")
    smooth, fine = (0.5 * y * x).expand(1, 3, 24, 36), noise(1) / 4
    fine = fine - torch.nn.functional.interpolate(
        torch.nn.functional.interpolate(fine, (6, 9), mode="area"), (24, 36), mode="nearest"
    )  # without means
    p = sketched(smooth, torch.ones(1, 1, 24, 36))(2 * fine, 7)
    assert (p.x0 - smooth - fine).abs()[..., 4:-4, 4:-4].max() < 1e-2


def test_only_the_hole_is_drawn_and_only_from_the_sketch_within_it() -> None:
    x, where = noise(2), box()
    one, other = (sketched(torch.where(where > 0, noise(3), level), where)(x, 7) for level in (-1.0, 1.0))
    assert torch.equal(one.x0, other.x0)
    assert torch.equal(one.x0 * (1 - where), x / 2 * (1 - where))
    assert not torch.allclose(one.x0, x / 2, atol=0.05)


def test_a_sketch_inside_the_hole_reaches_its_edge() -> None:
    """Blocks that the edge cuts count their inner pixels alone."""
    x, where = noise(4), box()
    p = sketched(x / 2 + 0.2, where)(x, 7)
    assert torch.allclose(p.x0, x / 2 + 0.2 * where, atol=1e-4)


@pytest.mark.parametrize(("t", "heard"), [(3, False), (4, True), (9, True)])
def test_it_is_heard_while_there_is_much_noise(t: int, heard: bool) -> None:
    x = noise(5)
    p = sketched(noise(6), box())(x, t)
    assert torch.equal(p.x0, x / 2) is not heard


def test_what_is_clean_is_passed_on() -> None:
    x, known = noise(7), 1 - box()
    p = sketched(noise(8), box()).given(x, 7, known)
    assert torch.equal(p.x0 * known, x * known)
