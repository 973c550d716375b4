"""Correction under a prior: known errors are corrected, what the prior cannot judge stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from guided_diffusion.denoiser import Prediction
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.images.colour import to_srgb
from guided_diffusion.respace import get_named_beta_schedule
from guided_diffusion.shadow.field import ShadowField
from guided_diffusion.shadow.light import log_light
from guided_diffusion.shadow.palette import AXES
from guided_diffusion.shadow.prior_fit import (
    GRID,
    NFE,
    fit_under_prior,
    node_weights,
    residual,
    shrink,
    spread,
)

PROCESS = GaussianDiffusion(get_named_beta_schedule("cosine", 100))
SIZE, SEEN = (48, 64), (24, 32)


class Gaussian:
    """The ideal denoiser for independent pixels N(mean, deviation^2); remembers the times it was asked."""

    def __init__(self, mean: Tensor, deviation: float) -> None:
        self.mean, self.deviation, self.times = mean, deviation, list[int]()

    def __call__(self, x_t: Tensor, t: int, clean: Tensor | None = None) -> Prediction:
        self.times += [t] * len(x_t)
        a = PROCESS.alpha_bar(t)
        gain = a**0.5 * self.deviation**2 / (a * self.deviation**2 + 1 - a)
        x0 = self.mean + gain * (x_t - a**0.5 * self.mean)
        return Prediction(x0, x0, x0)


def scene() -> tuple[Tensor, Tensor, Tensor]:
    """Free and shaded light (3, H, W), and the matte: an umbra left of the middle."""
    draws = torch.Generator().manual_seed(0)
    blocks = torch.rand(3, SIZE[0] // 4, SIZE[1] // 4, generator=draws)  # a pixel that the prior sees is even
    free = 0.2 + 0.3 * blocks.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    matte = torch.special.ndtr((30 - torch.arange(SIZE[1]).float()) / 2).expand(SIZE)
    return free, free * (1 - matte * (1 - torch.exp(-true_field().offset))), matte


def true_field() -> ShadowField:
    return ShadowField(torch.full((3, *SIZE), 1.2), torch.zeros(3), torch.full((3,), -1.5))


def corrected(field: ShadowField, denoise: Gaussian, seed: int = 0) -> ShadowField:
    _, light, matte = scene()
    return fit_under_prior(light, matte, field, SEEN, denoise, PROCESS, torch.Generator().manual_seed(seed))


def knowing(deviation: float = 0.02) -> Gaussian:
    """A prior that knows the scene."""
    free, light, matte = scene()
    small = shrink(free, light, matte, SEEN)
    return Gaussian(2 * to_srgb(small.light) - 1, deviation)


def wrong(name: str) -> Tensor:
    """An error of the log gain (3, H, W)."""
    rows = torch.linspace(-1, 1, SIZE[0])[:, None].expand(SIZE)
    return {
        "dark": torch.full((3, *SIZE), -0.08),
        "red": torch.tensor([0.06, -0.03, -0.03])[:, None, None].expand(3, *SIZE),
        "tilted": (0.15 * rows).expand(3, *SIZE),
    }[name]


@pytest.mark.parametrize("name", ["dark", "red", "tilted"])
def test_fit_under_prior_corrects_a_wrong_light(name: str) -> None:
    truth, error = true_field(), wrong(name)
    result = corrected(ShadowField(truth.offset + error, truth.slope, truth.pivot), knowing())
    umbra = scene()[2] > 0.9
    left = (result.offset - truth.offset)[:, umbra]
    assert left.square().mean() < 0.15 * error[:, umbra].square().mean()


def test_fit_under_prior_keeps_slope_and_pivot() -> None:
    start = ShadowField(true_field().offset - 0.1, torch.tensor([-0.2, -0.1, 0.0]), true_field().pivot)
    result = corrected(start, knowing())
    assert torch.equal(result.slope, start.slope) and torch.equal(result.pivot, start.pivot)
    assert not torch.equal(result.offset, start.offset)


def taken_back(slope: float) -> float:
    """Share of an offset, 0.1 too small, that the fit corrects where gain depends on light."""
    free, _, matte = scene()
    truth = ShadowField(true_field().offset, torch.full((3,), slope), true_field().pivot)
    light = free * (1 - matte * (1 - torch.exp(-truth.gain(log_light(free)))))
    start = ShadowField(truth.offset - 0.1, truth.slope, truth.pivot)
    result = fit_under_prior(light, matte, start, SEEN, knowing(), PROCESS, torch.Generator().manual_seed(0))
    return float((result.offset - start.offset)[:, matte > 0.9].mean()) / 0.1


def test_fit_under_prior_corrects_alike_under_any_slope() -> None:
    """In the umbra a pixel's gain rises by as much as the offset, whatever the slope."""
    assert 0.8 < taken_back(0.0) < 1
    assert taken_back(-0.4) == pytest.approx(taken_back(0.0), rel=0.1)
    assert taken_back(0.3) == pytest.approx(taken_back(0.0), rel=0.1)


def test_fit_under_prior_keeps_the_field_under_a_flat_prior() -> None:
    start = ShadowField(true_field().offset + wrong("tilted"), true_field().slope, true_field().pivot)
    result = corrected(start, Gaussian(torch.zeros(3, *SEEN), 1e4))
    assert torch.allclose(result.offset, start.offset, atol=2e-4)


def test_fit_under_prior_moves_less_under_a_vaguer_prior() -> None:
    start = ShadowField(true_field().offset - 0.1, true_field().slope, true_field().pivot)
    moves = [(corrected(start, knowing(s)).offset - start.offset).mean() for s in (3.0, 0.3, 0.02)]
    assert 0 < moves[0] < moves[1] < moves[2]


def test_residual_equals_the_gaussian_prior_s() -> None:
    """(z - x0_hat) / noise-to-signal with x0_hat the posterior mean; its two noises cancel exactly."""
    z = torch.linspace(-1, 1, 3 * 4 * 4).reshape(3, 4, 4)
    for t in (5, 30, 60):
        a = PROCESS.alpha_bar(t)
        pull = residual(z, t, Gaussian(torch.tensor(0.3), 0.5), PROCESS, torch.Generator().manual_seed(t))
        wanted = (a * (1 - a)) ** 0.5 * (z - 0.3) / (a * 0.25 + 1 - a)
        assert torch.allclose(pull, wanted, atol=1e-5)


def test_fit_under_prior_spreads_its_nfe_over_time() -> None:
    denoise = knowing()
    corrected(true_field(), denoise)
    assert len(denoise.times) == NFE
    assert min(denoise.times) >= 10 and max(denoise.times) < 50  # a tenth to a half of the process
    counts = np.histogram(denoise.times, bins=4, range=(10, 50))[0]
    assert counts.min() >= 0.6 * counts.mean()


def test_fit_under_prior_draws_from_the_generator() -> None:
    class Rough(Gaussian):
        def __call__(self, x_t: Tensor, t: int, clean: Tensor | None = None) -> Prediction:
            return Prediction(x_t.clamp(-0.5, 0.5), x_t, x_t)  # not linear: noises do not cancel

    start = ShadowField(true_field().offset - 0.1, true_field().slope, true_field().pivot)
    first, same, other = (corrected(start, Rough(torch.zeros(3, *SEEN), 1.0), s).offset for s in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_node_weights_sum_to_zero_and_spread_goes_along_the_axes() -> None:
    matte = scene()[2]
    grid = node_weights(matte, SIZE)
    assert torch.allclose((grid * matte).sum(dim=(1, 2)), torch.zeros(GRID**2), atol=1e-3)
    assert torch.allclose(grid.sum(dim=0), torch.zeros(SIZE), atol=1e-5)  # an even grid changes nothing
    change = torch.zeros(1 + GRID**2, 3)
    change[0] = torch.tensor([1.0, 2.0, -1.0])
    along = AXES @ spread(change, grid)[:, 5, 7]
    assert torch.allclose(along, change[0] * torch.tensor([0.045, 0.04, 0.04]), atol=1e-6)
