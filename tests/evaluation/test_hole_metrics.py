"""Metrics against values worked out by hand, and in a world whose posterior is known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from guided_diffusion.evaluation import hole_metrics
from guided_diffusion.evaluation.baselines import harmonic_inpaint, nearest_inpaint
from guided_diffusion.images.colour import srgb_to_lab
from guided_diffusion.images.masks import edge_distance

LEFT = np.broadcast_to(np.arange(16) < 8, (16, 16))  # the left half is known
FLOOR = math.sqrt(1 / 12)


def grey(plane: np.ndarray) -> np.ndarray:
    return np.repeat(np.clip(np.rint(plane), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def step(height: float) -> np.ndarray:
    """Draw a step: 100, and `height` more in the right half."""
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


def test_ring_matches_brute_force_distance() -> None:
    keep = np.random.default_rng(0).random((13, 17)) < 0.9
    keep[:4] = True
    at = np.argwhere(np.ones_like(keep))
    far = ((at[:, None] - at) ** 2).sum(axis=2).astype(float)
    far[keep.ravel()[:, None] == keep.ravel()] = np.inf
    nearest = np.sqrt(far.min(axis=1)).reshape(keep.shape)
    distance = edge_distance(keep, 3.5)
    assert np.array_equal(distance, np.where(nearest <= 3.5, nearest, np.inf))
    assert np.array_equal(hole_metrics.ring(keep, 2), nearest <= 2)


def test_ring_is_five_pixels_wide_on_both_sides_of_a_straight_edge() -> None:
    assert np.array_equal(hole_metrics.ring(LEFT)[0], np.abs(np.arange(16) - 7.5) < 5)
    assert not hole_metrics.ring(np.ones((4, 4), bool)).any()


def test_ring_metrics_of_a_step_by_hand() -> None:
    # A seam of 8 levels: Sobel says 4 in the two columns beside it, all of it across, of ten in the ring.
    inpainted, ground_truth = step(8), step(0)
    assert hole_metrics.ring_gradient_mismatch(inpainted, ground_truth, LEFT) == pytest.approx(4 * 2 / 10 / 2)
    assert hole_metrics.ring_gradient_error(inpainted, ground_truth, LEFT) == pytest.approx(0.8)
    assert hole_metrics.ring_level_mismatch(inpainted, ground_truth, LEFT) == pytest.approx(0.8 / FLOOR)
    assert hole_metrics.ring_level_mismatch(step(8), step(16), LEFT) == pytest.approx(0.5)


def test_ring_gradient_mismatch_sees_streaks() -> None:
    rows, columns = np.mgrid[:16, :16]
    ground_truth, streaks = (
        grey(100 + 4 * columns),
        grey(np.where(LEFT, 100 + 4 * columns, 132 + 4 * rows - 30)),
    )
    inside = 4 * (5 - 1) / 10  # across 4 too little, along 4 too much, from the second hole column on
    assert hole_metrics.ring_gradient_mismatch(streaks, ground_truth, LEFT) > inside


def test_ring_gradient_mismatch_accepts_another_placement_of_a_texture() -> None:
    rows, columns = np.mgrid[:16, :16]
    # The same stripes along the edge, two rows further down: other pixels, the same gradients in each column.
    stripes = 20 * ((rows // 2) % 2)
    ground_truth, other = grey(100 + stripes), grey(100 + np.where(LEFT, stripes, 20 - stripes))
    clear = np.abs(columns - 7.5) > 1
    lengths = [np.sort(np.linalg.norm(hole_metrics.sobel(p), axis=-1)[clear]) for p in (ground_truth, other)]
    assert np.allclose(*lengths)
    assert hole_metrics.ring_gradient_error(
        other, ground_truth, LEFT
    ) > 2 * hole_metrics.ring_gradient_mismatch(other, ground_truth, LEFT)


def test_ring_metrics_are_invariant_to_rotation() -> None:
    rng = np.random.default_rng(1)
    inpainted, ground_truth = (rng.integers(0, 256, (24, 24, 3), dtype=np.uint8) for _ in range(2))
    keep = box()
    for measure in (
        hole_metrics.ring_gradient_mismatch,
        hole_metrics.ring_gradient_error,
        hole_metrics.ring_level_mismatch,
    ):
        turned = measure(np.rot90(inpainted), np.rot90(ground_truth), np.rot90(keep))
        assert turned == pytest.approx(measure(inpainted, ground_truth, keep))
        assert measure(ground_truth, ground_truth, keep) == 0
    for alone in (hole_metrics.seam_ratio, hole_metrics.texture_ratio):
        assert alone(np.rot90(inpainted), np.rot90(keep)) == pytest.approx(alone(inpainted, keep))


def test_seam_ratio_by_hand() -> None:
    rows, _ = np.mgrid[:16, :16]
    image = grey(2 * rows + np.where(LEFT, 0, 12))
    # Known pairs: 16 * 7 side by side of difference 0, 15 * 8 above each other of difference 2.
    known = 2 * 15 * 8 / (16 * 7 + 15 * 8)
    assert hole_metrics.seam_ratio(image, LEFT) == pytest.approx((12 + FLOOR) / (known + FLOOR))
    assert hole_metrics.seam_ratio(step(0), LEFT) == 1


# texture


def checkers(left: float, right: float, step: float = 0) -> np.ndarray:
    rows, columns = np.mgrid[:16, :16]
    sign = 1 - 2 * ((rows + np.minimum(columns, 15 - columns)) % 2)  # a mirror image of itself
    return grey(100 + sign * np.where(LEFT, left, right) + np.where(LEFT, 0, step))


def test_texture_keeps_nearly_all_of_a_fine_checkerboard() -> None:
    fine = hole_metrics.texture(
        grey(100 + 10 * (1 - 2 * (np.indices((33, 33)).sum(axis=0) % 2))), np.ones((33, 33))
    )
    assert np.abs(np.abs(fine[8:-8, 8:-8]) - 10).max() < 0.01


def test_texture_ratio_counts_energy() -> None:
    same, twice = (
        hole_metrics.texture_ratio(checkers(10, 10), LEFT),
        hole_metrics.texture_ratio(checkers(10, 20), LEFT),
    )
    assert same == pytest.approx(1)
    assert twice == pytest.approx(4, rel=0.01)
    assert hole_metrics.texture_ratio_to_ground_truth(
        checkers(10, 20), checkers(10, 10), LEFT
    ) == pytest.approx(twice)
    assert hole_metrics.texture_ratio(checkers(10, 0), LEFT) < 0.01
    assert hole_metrics.texture_ratio(step(0), LEFT) == 1


def test_texture_ratio_ignores_a_seam() -> None:
    flat, stepped = (hole_metrics.texture_ratio(checkers(10, 10, step), LEFT) for step in (0, 50))
    assert stepped == pytest.approx(flat)


# a world whose posterior is known


def test_ring_gradient_mismatch_is_best_for_samples_of_the_exact_posterior() -> None:
    """In a Gaussian random field the hole can be sampled exactly (kriging); a blur has the smaller error."""
    rng, keep = np.random.default_rng(0), box()
    at = np.argwhere(np.ones_like(keep))
    covariance = 25**2 * np.exp(-np.sqrt(((at[:, None] - at) ** 2).sum(axis=2)) / 4)
    known = keep.ravel()
    root = np.linalg.cholesky(covariance + 1e-6 * np.eye(known.size))
    weights = np.linalg.solve(covariance[np.ix_(known, known)], covariance[np.ix_(known, ~known)]).T
    scores: dict[str, list[tuple[float, ...]]] = {}
    for _ in range(12):
        ground_truth, other = (128 + root @ rng.normal(size=known.size) for _ in range(2))
        mean, sample = ground_truth.copy(), ground_truth.copy()
        mean[~known] = 128 + weights @ (ground_truth[known] - 128)
        drawn = weights @ (other[known] - 128)  # Matheron's rule
        sample[~known] = mean[~known] + other[~known] - 128 - drawn
        alone = np.where(known, ground_truth, other)
        image, *results = (grey(plane.reshape(keep.shape)) for plane in (ground_truth, sample, mean, alone))
        for name, result in zip(("sample", "mean", "alone"), results, strict=True):
            scores.setdefault(name, []).append(all_of(result, image, keep))
        scores.setdefault("nearest", []).append(all_of(nearest_inpaint(image, keep), image, keep))
        scores.setdefault("harmonic", []).append(all_of(harmonic_inpaint(image, keep), image, keep))
    means = {name: np.mean(values, axis=0) for name, values in scores.items()}
    mismatch, error, texture, seam = (
        {name: float(values[i]) for name, values in means.items()} for i in range(4)
    )
    best = mismatch.pop("sample")
    assert all(best < 0.8 * worse for worse in mismatch.values()), (best, mismatch)
    assert max(error["mean"], error["harmonic"]) < 0.8 * error["sample"]  # why that metric does not decide
    assert texture["sample"] == pytest.approx(1, abs=0.15)
    assert texture["harmonic"] < 0.15 and texture["mean"] < 0.2
    assert seam["sample"] == pytest.approx(1, abs=0.15)
    assert seam["alone"] > 1.5 and seam["nearest"] < 0.3


def all_of(inpainted: np.ndarray, ground_truth: np.ndarray, keep: np.ndarray) -> tuple[float, ...]:
    return (
        hole_metrics.ring_gradient_mismatch(inpainted, ground_truth, keep),
        hole_metrics.ring_gradient_error(inpainted, ground_truth, keep),
        hole_metrics.texture_ratio(inpainted, keep),
        hole_metrics.seam_ratio(inpainted, keep),
    )


# distances to the ground truth


def test_psnr_of_a_constant_difference() -> None:
    a, b = step(0), step(5)
    assert hole_metrics.psnr(a, b, ~LEFT) == pytest.approx(20 * math.log10(255 / 5))
    assert hole_metrics.psnr(b, a, np.ones((16, 16), bool)) == pytest.approx(
        20 * math.log10(255 / 5) + 3.0103, abs=1e-4
    )
    assert hole_metrics.psnr(a, b, LEFT) == math.inf
    assert math.isnan(hole_metrics.psnr(a, b, np.zeros((16, 16), bool)))


def test_srgb_to_lab_of_the_primaries() -> None:
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
    assert np.allclose(srgb_to_lab(image)[0], list(known.values()), atol=0.02)


def test_lab_error_sums_channels_and_averages_pixels() -> None:
    red, grey_, hole = np.zeros((1, 2, 3), np.uint8), np.zeros((1, 2, 3), np.uint8), np.array([[True, True]])
    red[0, 0], grey_[0, 0] = (255, 0, 0), (128, 128, 128)
    assert hole_metrics.lab_error(red, grey_, hole) == pytest.approx((0.35 + 80.09 + 67.20) / 2, abs=0.02)
    assert hole_metrics.lab_error(red, grey_, np.array([[True, False]])) == pytest.approx(147.64, abs=0.04)
    assert hole_metrics.lab_error(red, grey_, np.array([[False, True]])) == 0
