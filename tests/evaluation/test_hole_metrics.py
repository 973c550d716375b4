"""Metrics against values worked out by hand, and against a world whose posterior is known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from guided_diffusion.evaluation import hole_metrics
from guided_diffusion.evaluation.baselines import membrane_fill, nearest_fill
from guided_diffusion.images.masks import edge_distance

LEFT = np.broadcast_to(np.arange(16) < 8, (16, 16))  # the left half is known
FLOOR = math.sqrt(1 / 12)


def grey(plane: np.ndarray) -> np.ndarray:
    return np.repeat(np.clip(np.rint(plane), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def step(height: float) -> np.ndarray:
    """Flat at 100, `height` more on the right half."""
    return grey(np.where(LEFT, 100, 100 + height))


def box() -> np.ndarray:
    keep = np.ones((24, 24), bool)
    keep[6:17, 5:20] = False
    return keep


# gradients


def test_sobel_gives_the_slope_of_a_ramp() -> None:
    rows, columns = np.mgrid[:9, :9]
    inner = hole_metrics.sobel(grey(3 * rows + 5 * columns))[1:-1, 1:-1]
    assert np.allclose(inner, [3, 5])


def test_luminance_is_bt601() -> None:
    assert hole_metrics.luminance(np.array([[[100, 50, 200]]], np.uint8))[0, 0] == pytest.approx(82.05)


def test_the_ring_is_all_within_reach_of_the_other_side() -> None:
    keep = np.random.default_rng(0).random((13, 17)) < 0.9
    keep[:4] = True
    at = np.argwhere(np.ones_like(keep))
    far = ((at[:, None] - at) ** 2).sum(axis=2).astype(float)
    far[keep.ravel()[:, None] == keep.ravel()] = np.inf
    nearest = np.sqrt(far.min(axis=1)).reshape(keep.shape)
    distance = edge_distance(keep, 3.5)
    assert np.array_equal(distance, np.where(nearest <= 3.5, nearest, np.inf))
    assert np.array_equal(hole_metrics.ring(keep, 2), nearest <= 2)


def test_a_straight_ring_is_five_pixels_wide_on_both_sides() -> None:
    assert np.array_equal(hole_metrics.ring(LEFT)[0], np.abs(np.arange(16) - 7.5) < 5)
    assert not hole_metrics.ring(np.ones((4, 4), bool)).any()


def test_ring_metrics_of_a_step_by_hand() -> None:
    # A seam of 8 levels: Sobel says 4 in the two columns beside it, all of it across, of ten in the ring.
    filled, truth = step(8), step(0)
    assert hole_metrics.ring_gradient_mismatch(filled, truth, LEFT) == pytest.approx(4 * 2 / 10 / 2)
    assert hole_metrics.ring_gradient_error(filled, truth, LEFT) == pytest.approx(0.8)
    assert hole_metrics.ring_level_mismatch(filled, truth, LEFT) == pytest.approx(0.8 / FLOOR)
    assert hole_metrics.ring_level_mismatch(step(8), step(16), LEFT) == pytest.approx(0.5)


def test_streaks_have_the_right_gradients_in_the_wrong_direction() -> None:
    rows, columns = np.mgrid[:16, :16]
    truth, streaks = grey(100 + 4 * columns), grey(np.where(LEFT, 100 + 4 * columns, 132 + 4 * rows - 30))
    inside = 4 * (5 - 1) / 10  # across 4 too little, along 4 too much, from the second hole column on
    assert hole_metrics.ring_gradient_mismatch(streaks, truth, LEFT) > inside


def test_of_two_placements_of_one_texture_only_the_pixelwise_error_complains() -> None:
    rows, columns = np.mgrid[:16, :16]
    # The same stripes along the edge, two rows further down: other pixels, the same gradients in each column.
    stripes = 20 * ((rows // 2) % 2)
    truth, other = grey(100 + stripes), grey(100 + np.where(LEFT, stripes, 20 - stripes))
    clear = np.abs(columns - 7.5) > 1
    lengths = [np.sort(np.linalg.norm(hole_metrics.sobel(p), axis=-1)[clear]) for p in (truth, other)]
    assert np.allclose(*lengths)
    assert hole_metrics.ring_gradient_error(other, truth, LEFT) > 2 * hole_metrics.ring_gradient_mismatch(
        other, truth, LEFT
    )


def test_turning_the_picture_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    filled, truth = (rng.integers(0, 256, (24, 24, 3), dtype=np.uint8) for _ in range(2))
    keep = box()
    for measure in (
        hole_metrics.ring_gradient_mismatch,
        hole_metrics.ring_gradient_error,
        hole_metrics.ring_level_mismatch,
    ):
        turned = measure(np.rot90(filled), np.rot90(truth), np.rot90(keep))
        assert turned == pytest.approx(measure(filled, truth, keep))
        assert measure(truth, truth, keep) == 0
    for alone in (hole_metrics.seam_ratio, hole_metrics.texture_ratio):
        assert alone(np.rot90(filled), np.rot90(keep)) == pytest.approx(alone(filled, keep))


def test_the_seam_ratio_by_hand() -> None:
    rows, _ = np.mgrid[:16, :16]
    image = grey(2 * rows + np.where(LEFT, 0, 12))
    # Known pairs: 16 * 7 side by side of difference 0, 15 * 8 above each other of difference 2.
    known = 2 * 15 * 8 / (16 * 7 + 15 * 8)
    assert hole_metrics.seam_ratio(image, LEFT) == pytest.approx((12 + FLOOR) / (known + FLOOR))
    assert hole_metrics.seam_ratio(step(0), LEFT) == 1


# texture


def checkers(left: float, right: float, lift: float = 0) -> np.ndarray:
    rows, columns = np.mgrid[:16, :16]
    sign = 1 - 2 * ((rows + np.minimum(columns, 15 - columns)) % 2)  # a mirror image of itself
    return grey(100 + sign * np.where(LEFT, left, right) + np.where(LEFT, 0, lift))


def test_texture_of_a_fine_checkerboard_is_nearly_all_of_it() -> None:
    whole = hole_metrics.texture(
        grey(100 + 10 * (1 - 2 * (np.indices((33, 33)).sum(axis=0) % 2))), np.ones((33, 33))
    )
    assert np.abs(np.abs(whole[8:-8, 8:-8]) - 10).max() < 0.01


def test_texture_ratios_count_energy() -> None:
    same, twice = (
        hole_metrics.texture_ratio(checkers(10, 10), LEFT),
        hole_metrics.texture_ratio(checkers(10, 20), LEFT),
    )
    assert same == pytest.approx(1)
    assert twice == pytest.approx(4, rel=0.01)
    assert hole_metrics.texture_ratio_to_truth(checkers(10, 20), checkers(10, 10), LEFT) == pytest.approx(
        twice
    )
    assert hole_metrics.texture_ratio(checkers(10, 0), LEFT) < 0.01
    assert hole_metrics.texture_ratio(step(0), LEFT) == 1


def test_a_seam_is_not_texture() -> None:
    plain, lifted = (hole_metrics.texture_ratio(checkers(10, 10, lift), LEFT) for lift in (0, 50))
    assert lifted == pytest.approx(plain)


# a world whose posterior is known


def test_samples_of_the_exact_posterior_score_best_but_blurs_miss_less() -> None:
    """A Gaussian random field with exponential covariance: the fill can be drawn exactly (kriging)."""
    rng, keep = np.random.default_rng(0), box()
    at = np.argwhere(np.ones_like(keep))
    covariance = 25**2 * np.exp(-np.sqrt(((at[:, None] - at) ** 2).sum(axis=2)) / 4)
    known = keep.ravel()
    root = np.linalg.cholesky(covariance + 1e-6 * np.eye(known.size))
    weights = np.linalg.solve(covariance[np.ix_(known, known)], covariance[np.ix_(known, ~known)]).T
    scores: dict[str, list[tuple[float, ...]]] = {}
    for _ in range(12):
        truth, other = (128 + root @ rng.normal(size=known.size) for _ in range(2))
        mean, sample = truth.copy(), truth.copy()
        mean[~known] = 128 + weights @ (truth[known] - 128)
        drawn = weights @ (other[known] - 128)  # Matheron's rule
        sample[~known] = mean[~known] + other[~known] - 128 - drawn
        alone = np.where(known, truth, other)
        image, *fills = (grey(plane.reshape(keep.shape)) for plane in (truth, sample, mean, alone))
        for name, fill in zip(("sample", "mean", "alone"), fills, strict=True):
            scores.setdefault(name, []).append(all_of(fill, image, keep))
        scores.setdefault("nearest", []).append(all_of(nearest_fill(image, keep), image, keep))
        scores.setdefault("membrane", []).append(all_of(membrane_fill(image, keep), image, keep))
    told = {name: np.mean(values, axis=0) for name, values in scores.items()}
    mismatch, error, texture, seam = (
        {name: float(values[i]) for name, values in told.items()} for i in range(4)
    )
    best = mismatch.pop("sample")
    assert all(best < 0.8 * worse for worse in mismatch.values()), (best, mismatch)
    assert max(error["mean"], error["membrane"]) < 0.8 * error["sample"]  # why it is not the judge
    assert texture["sample"] == pytest.approx(1, abs=0.15)
    assert texture["membrane"] < 0.15 and texture["mean"] < 0.2
    assert seam["sample"] == pytest.approx(1, abs=0.15)
    assert seam["alone"] > 1.5 and seam["nearest"] < 0.3


def all_of(filled: np.ndarray, truth: np.ndarray, keep: np.ndarray) -> tuple[float, ...]:
    return (
        hole_metrics.ring_gradient_mismatch(filled, truth, keep),
        hole_metrics.ring_gradient_error(filled, truth, keep),
        hole_metrics.texture_ratio(filled, keep),
        hole_metrics.seam_ratio(filled, keep),
    )


# distances to the truth


def test_psnr_of_a_constant_difference() -> None:
    a, b = step(0), step(5)
    assert hole_metrics.psnr(a, b, ~LEFT) == pytest.approx(20 * math.log10(255 / 5))
    assert hole_metrics.psnr(b, a, np.ones((16, 16), bool)) == pytest.approx(
        20 * math.log10(255 / 5) + 3.0103, abs=1e-4
    )
    assert hole_metrics.psnr(a, b, LEFT) == math.inf
    assert math.isnan(hole_metrics.psnr(a, b, np.zeros((16, 16), bool)))


def test_lab_of_the_primaries() -> None:
    """CIE 15 values of the sRGB primaries for D65, as published in many tables."""
    known = {
        (255, 0, 0): (53.24, 80.09, 67.20),
        (0, 255, 0): (87.73, -86.18, 83.18),
        (0, 0, 255): (32.30, 79.19, -107.86),
        (255, 255, 255): (100, 0, 0),
        (128, 128, 128): (53.59, 0, 0),
        (10, 10, 10): (2.74, 0, 0),
        (0, 0, 0): (0, 0, 0),
    }
    image = np.array([list(known)], np.uint8)
    assert np.allclose(hole_metrics.srgb_to_lab(image)[0], list(known.values()), atol=0.02)


def test_lab_error_adds_the_channels_and_averages_the_pixels() -> None:
    red, grey_, hole = np.zeros((1, 2, 3), np.uint8), np.zeros((1, 2, 3), np.uint8), np.array([[True, True]])
    red[0, 0], grey_[0, 0] = (255, 0, 0), (128, 128, 128)
    assert hole_metrics.lab_error(red, grey_, hole) == pytest.approx((0.35 + 80.09 + 67.20) / 2, abs=0.02)
    assert hole_metrics.lab_error(red, grey_, np.array([[True, False]])) == pytest.approx(147.64, abs=0.04)
    assert hole_metrics.lab_error(red, grey_, np.array([[False, True]])) == 0


# intervals


def test_the_bootstrap_interval_of_a_mean_is_the_normal_one_for_many_values() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400).tolist()
    low, high = hole_metrics.bootstrap(values)
    half = 1.645 * np.std(values) / 20
    assert (low, high) == pytest.approx((np.mean(values) - half, np.mean(values) + half), abs=0.1 * half)
    assert hole_metrics.bootstrap(values) == (low, high)
    assert hole_metrics.bootstrap(values, seed=1) != (low, high)


def test_bootstrap_of_medians_infinities_and_nothing() -> None:
    assert hole_metrics.bootstrap([1, 1, 1, 1, 1000], np.median)[0] == 1
    assert hole_metrics.bootstrap([math.inf] * 3) == (math.inf, math.inf)
    with pytest.raises(ValueError, match="at least one"):
        hole_metrics.bootstrap([])
