"""Windows over a larger image: they agree with the whole where they must, and leave no seams."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from guided_diffusion.denoiser import Denoise, Prediction
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.inpainting.tiled_denoiser import TiledDenoiser
from guided_diffusion.operators import Mask
from guided_diffusion.respace import get_named_beta_schedule
from guided_diffusion.samplers import Noise, Problem, Sampler, sample
from guided_diffusion.samplers.ddnm import DDNM
from guided_diffusion.samplers.ddpm import DDPM
from guided_diffusion.samplers.repaint import RePaint
from guided_diffusion.scheduler import JumpSchedule
from tests.helpers.gaussian import GaussianDenoiser


class Pointwise:
    """A denoiser that looks at one pixel at a time; remembers the shapes it saw."""

    def __init__(self) -> None:
        self.shapes = list[tuple[int, ...]]()

    def __call__(self, x: Tensor, t: int, clean: Tensor | None = None) -> Prediction:
        self.shapes.append(tuple(x.shape))
        return Prediction(x.sin(), x + t, -x.abs())


class Mean:
    """A denoiser whose answer is its window's mean: neighbouring windows disagree."""

    def __call__(self, x: Tensor, t: int, clean: Tensor | None = None) -> Prediction:
        flat = x.mean(dim=(2, 3), keepdim=True).expand_as(x)
        return Prediction(flat, flat, flat)


def image(height: int, width: int, count: int = 1) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("height", "width", "stride"), [(8, 8, 8), (21, 8, 5), (16, 30, 8), (19, 23, 1)])
def test_tiled_pointwise_denoiser_equals_the_whole(height: int, width: int, stride: int) -> None:
    x = image(height, width, 2)
    whole, tiled = Pointwise()(x, 7), TiledDenoiser(Pointwise(), 8, stride)(x, 7)
    for name in ("x0", "eps", "log_variance"):
        assert torch.allclose(getattr(tiled, name), getattr(whole, name), atol=1e-5)
    assert tiled.score is None


def test_tiled_denoiser_evaluates_each_window_once_in_batches() -> None:
    denoise = Pointwise()
    tiled = TiledDenoiser(denoise, 8, 4)
    tiled(image(32, 24, 3), 0)
    corners = tiled.corners(32, 24)
    assert len(corners) == len(set(corners)) == 7 * 5
    assert sum(shape[0] for shape in denoise.shapes) == 3 * len(corners)
    assert all(shape[0] <= 16 and shape[1:] == (3, 8, 8) for shape in denoise.shapes)


def test_corners_cover_the_image_and_stay_within() -> None:
    for height, width, stride in ((8, 9, 8), (31, 17, 7), (40, 8, 3)):
        seen = torch.zeros(height, width, dtype=torch.bool)
        for i, j in TiledDenoiser(Mean(), 8, stride).corners(height, width):
            assert 0 <= i <= height - 8 and 0 <= j <= width - 8
            seen[i : i + 8, j : j + 8] = True
        assert seen.all()


def test_tiled_denoiser_blends_disagreeing_windows() -> None:
    x = torch.zeros(1, 3, 16, 48)
    x[..., 24:] = 1
    row = TiledDenoiser(Mean(), 16, 8)(x, 0).x0[0, 0, 8]
    assert row[0] == 0 and row[-1] == 1
    assert (
        row.diff() >= -1e-6
    ).all() and row.diff().max() < 0.12  # half a window's width for each step of 1/2


def test_tiled_denoiser_keeps_images_of_a_batch_apart() -> None:
    x, tiled = image(20, 26, 2), TiledDenoiser(Mean(), 8, 5)
    together = tiled(x, 3).x0
    assert torch.allclose(together, torch.cat([tiled(x[:1], 3).x0, tiled(x[1:], 3).x0]), atol=1e-6)


def test_tiled_denoiser_omits_windows_beyond_the_region() -> None:
    where = torch.zeros(32, 32, dtype=torch.bool)
    where[3, 3] = True
    denoise, x = Pointwise(), image(32, 32)
    tiled = TiledDenoiser(denoise, 8, 8, where)
    p = tiled(x, 1)
    assert tiled.corners(32, 32) == [(0, 0)] and denoise.shapes == [(1, 3, 8, 8)]
    assert torch.allclose(p.x0[..., :8, :8], x[..., :8, :8].sin(), atol=1e-6)
    assert not p.x0[..., 8:, :].any()
    nothing = TiledDenoiser(denoise, 8, 8, torch.zeros(32, 32, dtype=torch.bool))(x, 1)
    assert not nothing.x0.any() and len(denoise.shapes) == 1


def test_tiled_denoiser_explains_sizes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="a side of 7 pixels is shorter than the window of 8; enlarge"):
        TiledDenoiser(Mean(), 8, 4)(image(7, 20), 0)
    for stride in (0, 9):
        with pytest.raises(ValueError, match=f"stride {stride} is not within 1 and the window's size 8"):
            TiledDenoiser(Mean(), 8, stride)


def test_tiled_denoiser_blends_the_score() -> None:
    x = image(16, 30)

    def guided(x: Tensor, t: int, clean: Tensor | None = None) -> Prediction:
        return replace(Pointwise()(x, t), score=x.cos())

    p = TiledDenoiser(guided, 8, 4)(x, 2)
    assert p.score is not None and torch.allclose(p.score, x.cos(), atol=1e-5)
    assert torch.allclose(p.x0, x.sin(), atol=1e-5)


def test_tiled_denoiser_passes_clean_pixels_to_each_window() -> None:
    class Masked(Pointwise):
        def __call__(self, x: Tensor, t: int, clean: Tensor | None = None) -> Prediction:
            assert clean is not None
            return super().__call__(x * clean, t)

    x, clean = image(16, 30), (image(16, 30)[:, :1] > 0).float()
    assert torch.allclose(TiledDenoiser(Masked(), 8, 4)(x, 0, clean).x0, (x * clean).sin(), atol=1e-5)


@pytest.mark.parametrize("sampler", [RePaint(JumpSchedule(jump_length=2, jump_n_sample=2)), DDPM(), DDNM()])
def test_tiled_sampling_equals_one_window_for_independent_pixels(sampler: Sampler) -> None:
    """The ideal denoiser of a Gaussian prior, known in closed form; in overlapping windows and over all."""
    process = GaussianDiffusion(get_named_beta_schedule("cosine", 12))
    y, keep = image(16, 24), torch.ones(1, 1, 16, 24)
    keep[..., 3:14, 4:20] = 0

    def run(denoise: Denoise) -> Tensor:
        noise = Noise([torch.Generator().manual_seed(1)], y.shape[1:])
        *_, last = sample(sampler, Problem(y, Mask(keep), denoise, process, noise))
        return last.x

    def prior(width: int) -> GaussianDenoiser:
        return GaussianDenoiser(process, torch.full((width,), 0.3), 0.2 * torch.eye(width))

    tiled = run(TiledDenoiser(prior(8), 8, 4, keep[0, 0] == 0))
    assert torch.allclose(tiled, run(prior(24)), atol=1e-4)
    assert not torch.allclose(tiled * (1 - keep), y * (1 - keep), atol=0.1)
