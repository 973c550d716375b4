"""Logarithms of light, and blurs against direct sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from guided_diffusion.images.colour import DARK
from guided_diffusion.shadow.light import blur, local_mean, log_light


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


def test_log_light_of_black_is_finite() -> None:
    assert log_light(torch.zeros(1)).item() == pytest.approx(math.log(DARK), abs=1e-6)
    assert log_light(torch.ones(1)).item() == pytest.approx(math.log(1 + DARK), abs=1e-6)


@pytest.mark.parametrize("sigma", [0.3, 0.7, 2.0, 9.0])
def test_blur_equals_the_double_sum(sigma: float) -> None:
    given = planes(2, 7, 11)
    result = blur(given, sigma)
    for plane, expected in zip(result, given, strict=True):
        assert np.allclose(plane, smeared(expected.numpy(), sigma), atol=1e-6)
    assert torch.allclose(blur(given[0], sigma), result[0])


def test_local_mean_is_the_weighted_mean_of_near_pixels() -> None:
    given, weight = planes(3, 9, 8), planes(9, 8, seed=1) ** 2
    near = smeared(weight.numpy(), 1.5)
    for plane, result in zip(given, local_mean(given, weight, 1.5), strict=True):
        assert np.allclose(result, smeared((plane * weight).numpy(), 1.5) / near, atol=1e-5)


def test_local_mean_keeps_constants_up_to_the_frame() -> None:
    assert torch.allclose(local_mean(torch.full((6, 30), 0.7), torch.ones(6, 30), 3.0), torch.tensor(0.7))


def test_local_mean_is_zero_where_no_weight_is_near() -> None:
    weight = torch.zeros(5, 40)
    weight[:, :4] = 1
    result = local_mean(torch.full((5, 40), 2.0), weight, 1.0)
    assert torch.allclose(result[:, :5], torch.tensor(2.0)) and not result[:, 20:].any()
