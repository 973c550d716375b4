"""Synthetic shadows against closed forms and the measured ranges."""

from __future__ import annotations

import numpy as np
import pytest

from guided_diffusion.scenes.shadows import (
    COVERAGE,
    Shape,
    cast,
    combine,
    draw_mask,
    draw_shadow,
    draw_transmission,
)


def _fields(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(0.05, 1, (9, 7, 3)), rng.uniform(0, 1, (9, 7)), rng.uniform(0.1, 0.9, (9, 7, 3))


def test_cast_with_slope_1_is_the_identity_of_the_contract() -> None:
    free, matte, transmission = _fields(0)
    m = matte[..., None]
    assert np.allclose(cast(free, matte, transmission), free * (1 - m + m * transmission), rtol=1e-6)


@pytest.mark.parametrize("slope", [0.8, 1.2])
def test_cast_slope_is_the_log_log_regression_of_free_on_umbra(slope: float) -> None:
    free = np.random.default_rng(1).uniform(0.1, 0.8, (12, 12, 3))
    umbra = cast(free, np.ones((12, 12)), np.full((12, 12, 3), 0.2), slope)
    for channel in range(3):
        x, y = np.log(umbra[..., channel]).ravel(), np.log(free[..., channel]).ravel()
        assert np.polyfit(x, y, 1)[0] == pytest.approx(slope, rel=1e-3)
        assert x.mean() == pytest.approx(y.mean() + np.log(0.2), abs=1e-5)


def test_combine_keeps_the_product_of_the_factors() -> None:
    (_, m1, t1), (_, m2, t2) = _fields(2), _fields(3)
    matte, transmission = combine((m1, t1), (m2, t2))
    expected = (1 - m1[..., None] * (1 - t1)) * (1 - m2[..., None] * (1 - t2))
    assert np.allclose(1 - matte[..., None] * (1 - transmission), expected, atol=1e-5)
    assert matte.min() >= 0 and matte.max() <= 1


def test_draw_transmission_has_the_measured_percentiles() -> None:
    rng = np.random.default_rng(4)
    t = np.stack([draw_transmission(rng) for _ in range(4000)])
    assert np.median(t[:, 1]) == pytest.approx(0.27, rel=0.05)
    assert np.percentile(t[:, 1], [16, 84]) == pytest.approx(0.27 * np.exp([-0.45, 0.45]), rel=0.06)
    assert t[:, 1].min() >= 0.08 and t[:, 1].max() <= 0.6 + 1e-6
    red, blue = t[:, 0] / t[:, 1], t[:, 2] / t[:, 1]
    assert 0.7 <= red.min() < 0.71 and 1.02 < red.max() <= 1.0301
    assert 0.9499 <= blue.min() < 0.97 and 1.48 < blue.max() <= 1.5001


def test_shape_covers_its_area() -> None:
    n = 200
    axis = ((np.arange(n) + 0.5) / n - 0.5).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    none = np.zeros((0, 2))
    capsule = Shape(np.array([[-0.2, 0.0, 0.2, 0.1, 0.1]]), none).cover(x, y, 1 / n)
    assert capsule.mean() == pytest.approx(np.pi * 0.01 + 0.2 * np.hypot(0.4, 0.1), rel=0.01)
    triangle = np.array([[-0.4, -0.3], [0.4, -0.3], [0.1, 0.4]])
    assert Shape(np.zeros((0, 5)), triangle).cover(x, y, 1 / n).mean() == pytest.approx(0.28, rel=0.01)


def test_shadow_matte_has_soft_edges_of_the_stated_width() -> None:
    shares, widest = [], []
    for index in range(30):
        shadow = draw_shadow(np.random.default_rng([5, index]))
        assert 0.002 <= shadow.soft[0] <= shadow.soft[1] <= 0.025
        matte = shadow.matte(96, 96)
        shares.append(matte.mean())
        # The steepest slope of a step blurred by sigma is 1/(sigma sqrt(2 pi)); the pixel box widens it.
        steepest = max(np.abs(np.diff(matte, axis=0)).max(), np.abs(np.diff(matte, axis=1)).max())
        widest.append(steepest * np.sqrt(2 * np.pi * ((shadow.soft[0] * 96) ** 2 + 1 / 12)))
    assert max(widest) < 1.15
    assert COVERAGE[0] * 0.9 < min(shares) and max(shares) < COVERAGE[1] * 1.1


def test_shadow_transmission_has_the_drawn_spread_and_no_detail() -> None:
    ratios = []
    for index in range(40):
        shadow = draw_shadow(np.random.default_rng([6, index]))
        field = np.log(shadow.transmission(64, 64)[..., 1] / shadow.colour[1])
        ratios.append(field.std() / shadow.field_gain)
        assert np.abs(np.diff(field, axis=0)).max() < 0.5 * shadow.field_gain
    assert 0.4 < np.median(ratios) < 1.2


def test_draw_mask_grows_and_shrinks_within_the_stated_pixels() -> None:
    matte = np.zeros((256, 256), np.float32)
    matte[:, :128] = 1
    columns = [int(draw_mask(np.random.default_rng([7, k]), matte)[128].sum()) for k in range(60)]
    assert min(columns) >= 125 and max(columns) <= 133
    assert min(columns) < 128 < max(columns)
