"""Light: sRGB's published values and blurs against direct sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from guided_diffusion.shadow.light import DARK, blur, local_mean, log_light, to_linear, to_srgb


def planes(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape)).float()


def smeared(plane: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of (H, W) as a plain double sum; nothing lies beyond the frame."""
    reach = max(1, math.ceil(3 * sigma))
    weights = {d: math.exp(-(d**2) / (2 * sigma**2)) for d in range(-reach, reach + 1)}
    total = sum(weights.values()) ** 2
    out = np.zeros(plane.shape)
    for (row, column), _ in np.ndenumerate(plane):
        for (r, c), value in np.ndenumerate(plane):
            if abs(r - row) <= reach and abs(c - column) <= reach:
                out[row, column] += value * weights[r - row] * weights[c - column] / total
    return out


@pytest.mark.parametrize("levels", [256, 65536])
def test_every_level_survives_the_round_trip(levels: int) -> None:
    level = torch.arange(levels)
    assert torch.equal((to_srgb(to_linear(level / (levels - 1))) * (levels - 1)).round().long(), level)


@pytest.mark.parametrize(
    ("srgb", "linear"),  # the last four: IEC 61966-2-1 worked out by hand
    [(0, 0), (1, 1), (0.04045, 0.0031308), (0.02, 0.02 / 12.92), (0.5, 0.2140411), (188 / 255, 0.5028865)],
)
def test_known_values(srgb: float, linear: float) -> None:
    assert to_linear(torch.tensor(srgb)).item() == pytest.approx(linear, abs=2e-6)
    assert to_srgb(torch.tensor(linear)).item() == pytest.approx(srgb, abs=2e-5)


def test_too_much_light_is_clipped_and_too_little_is_black() -> None:
    assert torch.allclose(to_srgb(torch.tensor([-0.1, 1.7, math.inf])), torch.tensor([0.0, 1.0, 1.0]))
    dim = to_linear(torch.tensor([-0.2, 1.3]))
    assert dim[0] <= 0 and dim[1] > 1


def test_the_logarithm_of_black_is_finite() -> None:
    assert log_light(torch.zeros(1)).item() == pytest.approx(math.log(DARK), abs=1e-6)
    assert log_light(torch.ones(1)).item() == pytest.approx(math.log(1 + DARK), abs=1e-6)


@pytest.mark.parametrize("sigma", [0.3, 0.7, 2.0, 9.0])
def test_blur_is_the_double_sum(sigma: float) -> None:
    given = planes(2, 7, 11)
    found = blur(given, sigma)
    for plane, expected in zip(found, given, strict=True):
        assert np.allclose(plane, smeared(expected.numpy(), sigma), atol=1e-6)
    assert torch.allclose(blur(given[0], sigma), found[0])


def test_local_mean_is_the_weighted_mean_of_what_is_near() -> None:
    given, weight = planes(3, 9, 8), planes(9, 8, seed=1) ** 2
    near = smeared(weight.numpy(), 1.5)
    for plane, found in zip(given, local_mean(given, weight, 1.5), strict=True):
        assert np.allclose(found, smeared((plane * weight).numpy(), 1.5) / near, atol=1e-5)


def test_local_mean_keeps_constants_up_to_the_frame() -> None:
    assert torch.allclose(local_mean(torch.full((6, 30), 0.7), torch.ones(6, 30), 3.0), torch.tensor(0.7))


def test_local_mean_is_nothing_where_nothing_is_near() -> None:
    weight = torch.zeros(5, 40)
    weight[:, :4] = 1
    found = local_mean(torch.full((5, 40), 2.0), weight, 1.0)
    assert torch.allclose(found[:, :5], torch.tensor(2.0)) and not found[:, 20:].any()
