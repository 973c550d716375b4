"""ShadowField: images synthesised with a known gain give that gain back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from guided_diffusion.shadow.field import STEEPEST, ShadowField
from guided_diffusion.shadow.light import log_light

SIZE = (12, 20)
SLOPES = [-STEEPEST, -0.3, -0.1, 0.0, 0.25, STEEPEST]


def plane(*shape: int, low: float = 0.0, high: float = 1.0, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(low, high, shape)).float()


def field(slope: float, low: float = 0.8, high: float = 2.0) -> ShadowField:
    slopes = torch.tensor([slope, 0.8 * slope, slope])
    return ShadowField(plane(3, *SIZE, low=low, high=high), slopes, plane(3, low=-3, high=-1.5, seed=1))


@pytest.mark.parametrize("slope", SLOPES)
def test_gain_and_umbra_gain_agree(slope: float) -> None:
    shadow = field(slope, low=-0.3)  # some gains are held at 0
    dark = plane(3, *SIZE, low=-6, high=0, seed=2)
    gain = shadow.umbra_gain(dark)
    assert (gain >= 0).all() and (gain == 0).any() == ((shadow.gain(dark + gain)) == 0).any()
    assert torch.allclose(shadow.gain(dark + gain), gain, atol=2e-6)


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 0.9, 0.99, 1.0])
def test_transmission_is_exact_at_every_alpha(slope: float, alpha: float) -> None:
    free = plane(3, *SIZE, seed=3) ** 2
    shadow, matte = field(slope, low=-0.5), torch.full(SIZE, alpha)  # some gains are held at 0
    truth = 1 - alpha + alpha * torch.exp(-shadow.gain(log_light(free)))
    result = shadow.transmission(free * truth, matte)
    assert torch.allclose(result, truth, atol=1e-4)
    assert (result > 0).all() and (result <= 1).all()


def test_transmission_falls_with_the_matte_from_one() -> None:
    light = plane(3, *SIZE)
    assert torch.equal(field(-0.2).transmission(light, torch.zeros(SIZE)), torch.ones(3, *SIZE))
    shares = [field(-0.2).transmission(light, torch.full(SIZE, alpha)) for alpha in (0.2, 0.6, 1.0)]
    assert (shares[0] > shares[1]).all() and (shares[1] > shares[2]).all()


def test_transmission_without_slope_ignores_the_light() -> None:
    shadow = ShadowField(torch.full((3, *SIZE), 1.2), torch.zeros(3), torch.zeros(3))
    for light in (torch.zeros(3, *SIZE), torch.ones(3, *SIZE)):
        share = shadow.transmission(light, torch.full(SIZE, 0.25))
        assert torch.allclose(share, torch.tensor(0.75 + 0.25 * np.exp(-1.2)).float())


def test_transmission_of_many_mattes_equals_that_of_single_mattes() -> None:
    shadow, light = field(-0.25), plane(3, *SIZE)
    grey = ShadowField(shadow.offset[:1], shadow.slope[:1], shadow.pivot[:1])
    mattes = plane(5, *SIZE, seed=4)
    together = grey.transmission(light[:1], mattes)
    for matte, result in zip(mattes, together, strict=True):
        assert torch.allclose(grey.transmission(light[:1], matte)[0], result, atol=1e-6)


def test_to_grey_averages_the_channels() -> None:
    shadow, dark = field(-0.2), plane(3, *SIZE, low=-5, high=-1).mean(0).expand(3, -1, -1)
    gain = shadow.to_grey().umbra_gain(dark)
    assert torch.equal(gain[0], gain[1]) and torch.equal(gain[0], gain[2])
    slope = shadow.slope.mean()
    expected = shadow.offset.mean(0) + slope * (dark[0] - shadow.pivot.mean())
    assert torch.allclose(gain[0], expected.clamp_min(0), atol=1e-6)


@pytest.mark.parametrize("size", [(30, 61), (5, 7), (1, 1), SIZE])
def test_resize_keeps_constants_slope_and_pivot(size: tuple[int, int]) -> None:
    even = ShadowField(torch.full((3, *SIZE), 1.3), torch.tensor([0.1, 0.2, -0.3]), torch.zeros(3))
    result = even.resize(size)
    assert result.offset.shape == (3, *size) and torch.allclose(result.offset, torch.tensor(1.3))
    assert result.slope is even.slope and result.pivot is even.pivot


def test_resize_keeps_positions() -> None:
    ramp = torch.linspace(0.5, 11.5, 12)[:, None].expand(3, 12, 20) / 12  # the centres' share of the height
    result = ShadowField(ramp, torch.zeros(3), torch.zeros(3)).resize((48, 40)).offset[0, :, 3]
    expected = (torch.arange(48) + 0.5) / 48
    assert torch.allclose(result[2:-2], expected[2:-2], atol=1e-6)
