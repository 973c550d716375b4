"""Shadow measures against MATLAB's algorithms written out loop by loop, closed forms, and Pillow."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.evaluation import hole_metrics
from guided_diffusion.evaluation.shadow_metrics import (
    BAND,
    SIDE,
    UMBRA,
    imresize,
    region_ssim,
    score,
    shadow_levels,
    texture_correlation,
)
from guided_diffusion.images.colour import srgb_to_lab
from guided_diffusion.images.masks import edge_distance

DISC = np.hypot(*(np.indices((SIDE, SIDE)) - 120.0)) < 60  # True = shadow


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape)


def grey(plane: np.ndarray) -> np.ndarray:
    return np.repeat(np.rint(plane).astype(np.uint8)[..., None], 3, axis=2)


# imresize


def cubic(x: float) -> float:
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def resize_line(line: np.ndarray, new: int) -> np.ndarray:
    """MATLAB's `contributions` and `imresizemex`, in their one-based coordinates."""
    old, out = len(line), []
    scale = new / old
    width, h = (4 / scale, lambda x: scale * cubic(scale * x)) if scale < 1 else (4.0, cubic)
    mirror = [*range(1, old + 1), *range(old, 0, -1)]
    for x in range(1, new + 1):
        u = x / scale + 0.5 * (1 - 1 / scale)
        left = math.floor(u - width / 2)
        positions = [left + k for k in range(math.ceil(width) + 2)]
        weights = [h(u - p) for p in positions]
        values = [line[mirror[(p - 1) % (2 * old)] - 1] for p in positions]
        out.append(np.dot(weights, values) / sum(weights))
    return np.array(out)


@pytest.mark.parametrize(("old", "new"), [(40, 17), (17, 40), (25, 16), (9, 4), (3, 8), (16, 16)])
def test_imresize_matches_matlab(old: int, new: int) -> None:
    line = noise(0, old)
    assert np.allclose(imresize(np.stack([line, line]), (2, new))[1], resize_line(line, new))
    assert np.allclose(
        imresize(np.stack([line, line], 1)[..., None], (new, 2))[:, 0, 0], resize_line(line, new)
    )


@pytest.mark.parametrize("shape", [(48, 64), (200, 90), (10, 12)])
def test_imresize_differs_from_pillow_only_at_the_frame(shape: tuple[int, int]) -> None:
    plane = noise(1, *shape).astype(np.float32)
    ours = imresize(plane, (32, 32))
    pillow = np.array(Image.fromarray(plane).resize((32, 32), Image.Resampling.BICUBIC))
    reach = math.ceil(2 * max(1, 32 / min(shape))) + 1
    inner = (slice(reach, -reach),) * 2
    assert np.abs(ours - pillow)[inner].max() < 1e-6
    assert np.abs(ours - pillow).max() > 0.01


# which pixels count


def test_shadow_levels_match_matlab_on_bytes() -> None:
    mask = noise(2, 300, 280) > 0.97
    levels = 255.0 * mask
    for axis in (0, 1):  # 300 is reduced more than 280
        levels = np.apply_along_axis(resize_line, axis, levels, SIDE)
        levels = np.clip(np.floor(levels + 0.5), 0, 255)
    assert np.array_equal(shadow_levels(mask), levels)
    assert np.array_equal(shadow_levels(mask.astype(np.uint8) * 255), levels)


def test_shadow_levels_grow_the_shadow_but_not_by_rounding() -> None:
    mask = np.zeros((480, 640), bool)
    mask[:, 320:] = True  # the edge falls between columns 127 and 128 of 256
    levels = shadow_levels(mask)
    grown = np.flatnonzero((levels > 0).all(axis=0))
    assert grown[0] in (126, 127) and grown[-1] == SIDE - 1
    assert np.flatnonzero((levels >= 128).all(axis=0))[0] == 128
    assert np.array_equal(shadow_levels(DISC), 255.0 * DISC)
    assert not shadow_levels(np.zeros((100, 90), bool)).any()
    assert (shadow_levels(np.ones((100, 90), bool)) == 255).all()


def test_shadow_levels_count_ones_and_greys_as_the_benchmark() -> None:
    assert np.array_equal(shadow_levels(DISC.astype(np.uint8)) > 0, DISC)
    assert np.array_equal(shadow_levels(np.where(DISC, 255, 3).astype(np.uint8)) > 0, np.ones_like(DISC))


def test_score_true_measures_use_the_mask_before_it_grew() -> None:
    faint = np.zeros_like(DISC)
    faint[:10] = True
    ground_truth = np.full((SIDE, SIDE, 3), 100, np.uint8)
    mask = np.where(DISC, 255, np.where(faint, 1, 0)).astype(np.uint8)
    measures = score(ground_truth + 20 * DISC[..., None].astype(np.uint8), ground_truth, mask)
    assert measures["pixels_s"] == (DISC | faint).sum()
    assert measures["psnr_s_true"] == pytest.approx(20 * math.log10(255 / 20))
    assert measures["lab_s"] == pytest.approx(
        measures["lab_s_true"] * DISC.sum() / measures["pixels_s"], rel=1e-3
    )


# the papers' measures, by hand


def test_score_of_a_constant_difference_inside_by_hand() -> None:
    ground_truth = np.full((SIDE, SIDE, 3), 100, np.uint8)
    measures = score(ground_truth + 20 * DISC[..., None].astype(np.uint8), ground_truth, DISC)
    lightness = np.diff(srgb_to_lab(np.array([[[100] * 3, [120] * 3]], np.uint8))[0, :, 0])[0]
    share = DISC.mean()
    true = 20 * math.log10(255 / 20)
    assert measures["lab_s"] == measures["lab_s_true"] == pytest.approx(lightness, abs=1e-3)
    assert measures["lab_ns"] == 0
    assert measures["lab_all"] == pytest.approx(share * lightness, abs=1e-3)
    assert measures["psnr_s_true"] == pytest.approx(true)
    assert measures["psnr_s"] == pytest.approx(true - 10 * math.log10(share))  # what black elsewhere is worth
    assert measures["psnr_all"] == pytest.approx(measures["psnr_s"])
    assert measures["psnr_ns"] == math.inf
    assert measures["ssim_ns"] == pytest.approx(1) == measures["ssim3_ns"]
    assert measures["ssim_s"] < 1
    assert measures["pixels_s"] == DISC.sum()
    assert "texture" not in measures
    edge = hole_metrics.ring(DISC, BAND)
    assert measures["lab_band"] == pytest.approx(lightness * (edge & DISC).sum() / edge.sum(), abs=1e-3)


def test_score_lab_agrees_with_hole_metrics_and_pools_by_pixels() -> None:
    a, b = (noise(seed, SIDE, SIDE, 3) * 255 for seed in (3, 4))
    a, b = a.astype(np.uint8), b.astype(np.uint8)
    measures = score(a, b, DISC)
    assert measures["lab_s"] == pytest.approx(hole_metrics.lab_error(a, b, DISC))
    assert measures["lab_ns"] == pytest.approx(hole_metrics.lab_error(a, b, ~DISC))
    shadow, rest = measures["pixels_s"], SIDE**2 - measures["pixels_s"]
    pooled = (measures["lab_s"] * shadow + measures["lab_ns"] * rest) / SIDE**2
    assert measures["lab_all"] == pytest.approx(pooled)
    assert measures["psnr_s_true"] == pytest.approx(hole_metrics.psnr(a, b, DISC))
    assert score(a, b, DISC, lab="d50")["lab_s"] != pytest.approx(measures["lab_s"], rel=1e-3)


def test_srgb_to_lab_for_d50_of_the_primaries() -> None:
    """Reference values of ICC software (Lindbloom's calculator, Bradford)."""
    known = {
        (255, 0, 0): (54.29, 80.81, 69.89),
        (0, 255, 0): (87.82, -79.28, 80.99),
        (0, 0, 255): (29.57, 68.30, -112.03),
        (255, 255, 255): (100, 0, 0),
    }
    image = np.array([list(known)], np.uint8)
    assert np.allclose(srgb_to_lab(image, "d50")[0], list(known.values()), atol=0.03)


def test_score_accepts_different_sizes() -> None:
    rows, columns = np.mgrid[:512, :512]
    large = grey(100 + 50 * np.sin(rows / 40) * np.cos(columns / 40))
    small = np.rint(imresize(large / 1.0, (384, 300))).clip(0, 255).astype(np.uint8)
    measures = score(small, large, DISC.repeat(3, 0).repeat(2, 1))
    assert measures["lab_all"] < 0.5 and measures["ssim_all"] > 0.99


def naive_ssim(a: np.ndarray, b: np.ndarray, across: bool) -> float:
    """Compute SSIM window by window; a, b (H, W, 3) in 0..1; `across`: as MATLAB's ssim of a volume."""
    kernel = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = kernel[:, None, None] * kernel[None, :, None] * (kernel if across else np.eye(11)[5])
    window /= window.sum()
    a, b = (np.pad(x, 5, mode="edge") for x in (a, b))
    values = []
    for i, j, c in product(*(range(side - 10) for side in a.shape)):
        x, y = (p[i : i + 11, j : j + 11, c : c + 11] for p in (a, b))
        mx, my = (window * x).sum(), (window * y).sum()
        vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
        cov = (window * (x - mx) * (y - my)).sum()
        luminance = (2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4)
        values.append(luminance * (2 * cov + 9e-4) / (vx + vy + 9e-4))
    return float(np.mean(values))


def test_region_ssim_matches_ssim_of_blackened_frames() -> None:
    ground_truth = 0.6 * noise(5, 12, 14, 3) + 0.2
    actual = ground_truth + 0.2 * noise(6, 12, 14, 3) - 0.1
    inside = np.indices((12, 14)).sum(axis=0) < 12
    measures = region_ssim(actual, ground_truth, inside)
    for name, region in (("s", inside), ("ns", ~inside), ("all", np.ones_like(inside))):
        a, b = actual * region[..., None], ground_truth * region[..., None]
        assert measures[f"ssim_{name}"] == pytest.approx(naive_ssim(a, b, across=False))
        assert measures[f"ssim3_{name}"] == pytest.approx(naive_ssim(a, b, across=True))


# texture


def lit_and_shadowed(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A textured grey ground, uint8, and the same under a smoothly varying shadow within DISC."""
    linear = 0.25 + 0.2 * noise(seed, SIDE, SIDE)
    rows, columns = np.indices((SIDE, SIDE))
    gain = np.where(DISC, 0.35 * np.exp(np.sin(rows / 30) * np.cos(columns / 40)), 1.0)
    shadow_free, shadow = (255 * (1.055 * x ** (1 / 2.4) - 0.055) for x in (linear, linear * gain))
    return grey(shadow_free), grey(shadow)


def test_score_texture_survives_relighting_but_not_repainting() -> None:
    shadow_free, shadow = lit_and_shadowed(7)
    other, _ = lit_and_shadowed(8)
    assert score(shadow_free, shadow_free, DISC, shadow)["texture"] > 0.99
    assert score(shadow, shadow_free, DISC, shadow)["texture"] == pytest.approx(1)
    assert abs(score(other, shadow_free, DISC, shadow)["texture"]) < 0.05


def test_score_texture_uses_the_umbra_alone() -> None:
    shadow_free, shadow = lit_and_shadowed(9)
    deep = DISC & (edge_distance(DISC, BAND) >= BAND)
    spoilt = np.where(deep[..., None], shadow_free, noise(10, SIDE, SIDE, 1) * 255).astype(np.uint8)
    sharp = np.where(DISC[..., None], shadow_free, 0)
    assert score(sharp, shadow_free, DISC, shadow)["texture"] == pytest.approx(
        score(shadow_free, shadow_free, DISC, shadow)["texture"]
    )
    assert (
        score(spoilt, shadow_free, DISC, shadow)["texture"] > 0.8
    )  # its rim reaches in through the high-pass


def test_texture_correlation_of_a_thin_shadow_uses_its_deepest_pixels() -> None:
    image, inside = noise(11, 64, 64, 3), np.zeros((64, 64), bool)
    inside[30:35] = True  # five rows: depths 1 2 3 2 1, so that UMBRA pixels are at least 2 deep
    assert UMBRA == 100
    depth = edge_distance(inside, BAND)
    other = image.copy()
    other[[30, 34]] = noise(12, 2, 64, 3)
    assert 0.5 < texture_correlation(other, image, inside, depth) < 1
    other[[31, 33]] = noise(13, 2, 64, 3)
    assert texture_correlation(other, image, inside, depth) < 0.5  # the deepest row alone would not do


def test_score_is_nan_where_undefined() -> None:
    shadow_free, shadow = lit_and_shadowed(14)
    flat = np.full_like(shadow_free, 90)
    assert math.isnan(score(flat, shadow_free, DISC, shadow)["texture"])
    measures = score(shadow, shadow_free, np.zeros_like(DISC), shadow)
    undefined = {key for key, value in measures.items() if math.isnan(value)}
    assert undefined == {"lab_s", "lab_s_true", "psnr_s_true", "lab_band", "texture"}
    measures = score(shadow, shadow_free, np.ones_like(DISC), shadow)
    undefined = {key for key, value in measures.items() if math.isnan(value)}
    assert undefined == {"lab_ns", "lab_band"}
    speck = np.zeros_like(DISC)
    speck[100, 100] = True
    assert math.isnan(score(shadow, shadow_free, speck, shadow)["texture"])
    assert score(np.zeros_like(shadow_free), np.zeros_like(shadow_free), DISC)["psnr_all"] == math.inf
