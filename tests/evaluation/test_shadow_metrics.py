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
    bootstrap_by_scene,
    imresize,
    region_ssim,
    score,
    shadow_levels,
    texture_correlation,
)
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
        places = [left + k for k in range(math.ceil(width) + 2)]
        weights = [h(u - p) for p in places]
        values = [line[mirror[(p - 1) % (2 * old)] - 1] for p in places]
        out.append(np.dot(weights, values) / sum(weights))
    return np.array(out)


@pytest.mark.parametrize(("old", "new"), [(40, 17), (17, 40), (25, 16), (9, 4), (3, 8), (16, 16)])
def test_imresize_is_matlabs(old: int, new: int) -> None:
    line = noise(0, old)
    assert np.allclose(imresize(np.stack([line, line]), (2, new))[1], resize_line(line, new))
    assert np.allclose(
        imresize(np.stack([line, line], 1)[..., None], (new, 2))[:, 0, 0], resize_line(line, new)
    )


@pytest.mark.parametrize("shape", [(48, 64), (200, 90), (10, 12)])
def test_pillow_has_the_same_kernel_but_cuts_it_at_the_frame(shape: tuple[int, int]) -> None:
    plane = noise(1, *shape).astype(np.float32)
    ours = imresize(plane, (32, 32))
    pillow = np.array(Image.fromarray(plane).resize((32, 32), Image.Resampling.BICUBIC))
    reach = math.ceil(2 * max(1, 32 / min(shape))) + 1
    inner = (slice(reach, -reach),) * 2
    assert np.abs(ours - pillow)[inner].max() < 1e-6
    assert np.abs(ours - pillow).max() > 0.01


# which pixels count


def test_a_mask_is_resized_as_matlab_resizes_bytes() -> None:
    mask = noise(2, 300, 280) > 0.97
    levels = 255.0 * mask
    for axis in (0, 1):  # 300 is reduced more than 280
        levels = np.apply_along_axis(resize_line, axis, levels, SIDE)
        levels = np.clip(np.floor(levels + 0.5), 0, 255)
    assert np.array_equal(shadow_levels(mask), levels)
    assert np.array_equal(shadow_levels(mask.astype(np.uint8) * 255), levels)


def test_the_counted_shadow_grows_and_no_dust_counts() -> None:
    mask = np.zeros((480, 640), bool)
    mask[:, 320:] = True  # the edge falls between columns 127 and 128 of 256
    levels = shadow_levels(mask)
    grown = np.flatnonzero((levels > 0).all(axis=0))
    assert grown[0] in (126, 127) and grown[-1] == SIDE - 1
    assert np.flatnonzero((levels >= 128).all(axis=0))[0] == 128
    assert np.array_equal(shadow_levels(DISC), 255.0 * DISC)
    assert not shadow_levels(np.zeros((100, 90), bool)).any()
    assert (shadow_levels(np.ones((100, 90), bool)) == 255).all()


def test_stored_ones_and_stored_greys_count_as_in_the_benchmark() -> None:
    assert np.array_equal(shadow_levels(DISC.astype(np.uint8)) > 0, DISC)
    assert np.array_equal(shadow_levels(np.where(DISC, 255, 3).astype(np.uint8)) > 0, np.ones_like(DISC))


def test_the_true_measures_look_at_the_mask_before_it_grew() -> None:
    faint = np.zeros_like(DISC)
    faint[:10] = True
    truth = np.full((SIDE, SIDE, 3), 100, np.uint8)
    mask = np.where(DISC, 255, np.where(faint, 1, 0)).astype(np.uint8)
    told = score(truth + 20 * DISC[..., None].astype(np.uint8), truth, mask)
    assert told["pixels_s"] == (DISC | faint).sum()
    assert told["psnr_s_true"] == pytest.approx(20 * math.log10(255 / 20))
    assert told["lab_s"] == pytest.approx(told["lab_s_true"] * DISC.sum() / told["pixels_s"], rel=1e-3)


# the field's measures, by hand


def test_a_constant_difference_inside_by_hand() -> None:
    truth = np.full((SIDE, SIDE, 3), 100, np.uint8)
    told = score(truth + 20 * DISC[..., None].astype(np.uint8), truth, DISC)
    lightness = np.diff(hole_metrics.srgb_to_lab(np.array([[[100] * 3, [120] * 3]], np.uint8))[0, :, 0])[0]
    share = DISC.mean()
    true = 20 * math.log10(255 / 20)
    assert told["lab_s"] == told["lab_s_true"] == pytest.approx(lightness, abs=1e-3)
    assert told["lab_ns"] == 0
    assert told["lab_all"] == pytest.approx(share * lightness, abs=1e-3)
    assert told["psnr_s_true"] == pytest.approx(true)
    assert told["psnr_s"] == pytest.approx(true - 10 * math.log10(share))  # what black elsewhere is worth
    assert told["psnr_all"] == pytest.approx(told["psnr_s"])
    assert told["psnr_ns"] == math.inf
    assert told["ssim_ns"] == pytest.approx(1) == told["ssim3_ns"]
    assert told["ssim_s"] < 1
    assert told["pixels_s"] == DISC.sum()
    assert "texture" not in told
    edge = hole_metrics.ring(DISC, BAND)
    assert told["lab_band"] == pytest.approx(lightness * (edge & DISC).sum() / edge.sum(), abs=1e-3)


def test_lab_adds_channels_as_metrics_does_and_pools_by_pixels() -> None:
    a, b = (noise(seed, SIDE, SIDE, 3) * 255 for seed in (3, 4))
    a, b = a.astype(np.uint8), b.astype(np.uint8)
    told = score(a, b, DISC)
    assert told["lab_s"] == pytest.approx(hole_metrics.lab_error(a, b, DISC))
    assert told["lab_ns"] == pytest.approx(hole_metrics.lab_error(a, b, ~DISC))
    shadow, rest = told["pixels_s"], SIDE**2 - told["pixels_s"]
    pooled = (told["lab_s"] * shadow + told["lab_ns"] * rest) / SIDE**2
    assert told["lab_all"] == pytest.approx(pooled)
    assert told["psnr_s_true"] == pytest.approx(hole_metrics.psnr(a, b, DISC))
    assert score(a, b, DISC, lab="d50")["lab_s"] != pytest.approx(told["lab_s"], rel=1e-3)


def test_lab_for_d50_of_the_primaries() -> None:
    """As ICC software gives them (Lindbloom's calculator, Bradford)."""
    known = {
        (255, 0, 0): (54.29, 80.81, 69.89),
        (0, 255, 0): (87.82, -79.28, 80.99),
        (0, 0, 255): (29.57, 68.30, -112.03),
        (255, 255, 255): (100, 0, 0),
    }
    image = np.array([list(known)], np.uint8)
    assert np.allclose(hole_metrics.srgb_to_lab(image, "d50")[0], list(known.values()), atol=0.03)


def test_sizes_may_differ() -> None:
    rows, columns = np.mgrid[:512, :512]
    large = grey(100 + 50 * np.sin(rows / 40) * np.cos(columns / 40))
    small = np.rint(imresize(large / 1.0, (384, 300))).clip(0, 255).astype(np.uint8)
    told = score(small, large, DISC.repeat(3, 0).repeat(2, 1))
    assert told["lab_all"] < 0.5 and told["ssim_all"] > 0.99


def naive_ssim(a: np.ndarray, b: np.ndarray, across: bool) -> float:
    """Window by window; a, b (H, W, 3) in 0..1; `across`: MATLAB's ssim of a volume H x W x 3."""
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


def test_ssim_of_regions_is_that_of_blackened_frames_in_both_ways() -> None:
    truth = 0.6 * noise(5, 12, 14, 3) + 0.2
    found = truth + 0.2 * noise(6, 12, 14, 3) - 0.1
    inside = np.indices((12, 14)).sum(axis=0) < 12
    told = region_ssim(found, truth, inside)
    for name, region in (("s", inside), ("ns", ~inside), ("all", np.ones_like(inside))):
        a, b = found * region[..., None], truth * region[..., None]
        assert told[f"ssim_{name}"] == pytest.approx(naive_ssim(a, b, across=False))
        assert told[f"ssim3_{name}"] == pytest.approx(naive_ssim(a, b, across=True))


# texture


def lit_and_shaded(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A textured grey ground, uint8, and the same under a smoothly varying shadow within DISC."""
    linear = 0.25 + 0.2 * noise(seed, SIDE, SIDE)
    rows, columns = np.indices((SIDE, SIDE))
    gain = np.where(DISC, 0.35 * np.exp(np.sin(rows / 30) * np.cos(columns / 40)), 1.0)
    free, shadow = (255 * (1.055 * x ** (1 / 2.4) - 0.055) for x in (linear, linear * gain))
    return grey(free), grey(shadow)


def test_relighting_keeps_the_texture_and_repainting_does_not() -> None:
    free, shadow = lit_and_shaded(7)
    other, _ = lit_and_shaded(8)
    assert score(free, free, DISC, shadow)["texture"] > 0.99
    assert score(shadow, free, DISC, shadow)["texture"] == pytest.approx(1)
    assert abs(score(other, free, DISC, shadow)["texture"]) < 0.05


def test_texture_looks_at_the_umbra_alone() -> None:
    free, shadow = lit_and_shaded(9)
    deep = DISC & (edge_distance(DISC, BAND) >= BAND)
    spoilt = np.where(deep[..., None], free, noise(10, SIDE, SIDE, 1) * 255).astype(np.uint8)
    sharp = np.where(DISC[..., None], free, 0)
    assert score(sharp, free, DISC, shadow)["texture"] == pytest.approx(
        score(free, free, DISC, shadow)["texture"]
    )
    assert score(spoilt, free, DISC, shadow)["texture"] > 0.8  # its rim reaches in through the high-pass


def test_a_thin_shadow_has_its_deepest_pixels_for_umbra() -> None:
    image, inside = noise(11, 64, 64, 3), np.zeros((64, 64), bool)
    inside[30:35] = True  # five rows: depths 1 2 3 2 1, so that UMBRA pixels are at least 2 deep
    assert UMBRA == 100
    depth = edge_distance(inside, BAND)
    other = image.copy()
    other[[30, 34]] = noise(12, 2, 64, 3)
    assert 0.5 < texture_correlation(other, image, inside, depth) < 1
    other[[31, 33]] = noise(13, 2, 64, 3)
    assert texture_correlation(other, image, inside, depth) < 0.5  # the deepest row alone would not do


def test_what_is_undefined_is_nan() -> None:
    free, shadow = lit_and_shaded(14)
    flat = np.full_like(free, 90)
    assert math.isnan(score(flat, free, DISC, shadow)["texture"])
    told = score(shadow, free, np.zeros_like(DISC), shadow)
    undefined = {key for key, value in told.items() if math.isnan(value)}
    assert undefined == {"lab_s", "lab_s_true", "psnr_s_true", "lab_band", "texture"}
    told = score(shadow, free, np.ones_like(DISC), shadow)
    undefined = {key for key, value in told.items() if math.isnan(value)}
    assert undefined == {"lab_ns", "lab_band"}
    speck = np.zeros_like(DISC)
    speck[100, 100] = True
    assert math.isnan(score(shadow, free, speck, shadow)["texture"])
    assert score(np.zeros_like(free), np.zeros_like(free), DISC)["psnr_all"] == math.inf


# intervals


def test_copies_of_a_scene_add_nothing() -> None:
    values = noise(15, 12).tolist()
    names = [f"s{i:02d}" for i in range(12)]
    alone = bootstrap_by_scene(values, names)
    assert alone == pytest.approx(hole_metrics.bootstrap(values))
    assert bootstrap_by_scene(values * 5, names * 5) == pytest.approx(alone)
    narrow = hole_metrics.bootstrap(values * 5)
    assert narrow[1] - narrow[0] < 0.6 * (alone[1] - alone[0])


def test_weights_count_pixels() -> None:
    values, names = [1.0, 5.0, 2.0], ["a", "b", "b"]
    low, high = bootstrap_by_scene(values, names, [1.0, 3.0, 1.0])
    assert (low, high) == (1.0, pytest.approx((15 + 2) / 4))  # drawn: aa, ab, ba or bb
    assert all(map(math.isnan, bootstrap_by_scene([1.0, 2.0], ["a", "a"])))
