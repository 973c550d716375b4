"""Quality of shadow removal: the measures of the papers, and additional ones that their protocol hides.

The papers' measures follow the MATLAB script shared by G2R, ShadowFormer and their successors: everything at
256x256 by MATLAB's imresize; LAB "RMSE" is a mean of |dL| + |da| + |db|; PSNR and SSIM of a region are those
of whole frames that are black elsewhere, so a small region gains 10 log10(1 / its area fraction) dB.
Additional: PSNR over the shadow's own pixels, LAB over the band where penumbrae lie, and how much of the
texture of the shadowed ground is preserved. docs/reports/evaluation.md defines them for readers.

Images are uint8 (H, W, 3). A *shadow mask* is bool (H, W), True = shadow, or the stored uint8 values.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from guided_diffusion.evaluation import hole_metrics
from guided_diffusion.evaluation.bootstrap import mean_where
from guided_diffusion.images.colour import DARK, LUMINANCE, Illuminant, srgb_to_lab, to_linear
from guided_diffusion.images.masks import edge_distance

SIDE = 256  # pixels: the benchmark resizes every image to SIDE x SIDE
# The three below define measures; see docs/reports/evaluation.md.
BAND = 8  # pixels at SIDE on either side of the shadow's edge: the penumbra band
UMBRA = 100  # pixels: in a shadow with fewer pixels deeper than BAND, its UMBRA deepest ones are the umbra
TEXTURE_SIGMA = 3.0  # pixels at SIDE: finer detail is texture, coarser may be light


def score(
    pred: np.ndarray,
    shadow_free: np.ndarray,
    mask: np.ndarray,
    shadow: np.ndarray | None = None,
    lab: Illuminant = "d65",
) -> dict[str, float]:
    """Compute all measures of one prediction. The arrays may differ in size.

    Args:
        pred: the prediction, uint8 (H, W, 3).
        shadow_free: the ground truth, uint8 (H, W, 3).
        mask: the shadow mask, bool (H, W) or the stored uint8 values.
        shadow: the input image, uint8 (H, W, 3); adds `texture`.
        lab: the white point of LAB.

    Returns:
        Measure -> value. A measure without pixels, or without texture, is NaN; without any error PSNR is
        infinite. Of the papers, each for s (shadow), ns (outside) and all:
            lab_*: "RMSE" in LAB.
            psnr_*: dB.
            ssim3_*: MATLAB's SSIM, which takes red, green and blue for slices of a volume.
            ssim_*: SSIM per channel, then the mean.
            pixels_s: number of pixels that count as shadow, out of SIDE * SIDE; means weighted by it are the
                papers' "PP".
        Additional, on the mask itself (`shadow_levels` of a half and more):
            lab_s_true, psnr_s_true: over the shadow's pixels alone.
            lab_band: LAB where |distance to the edge| <= BAND.
            texture: `texture_correlation` with the input.
    """
    actual, true = (imresize(image / 255, (SIDE, SIDE)) for image in (pred, shadow_free))
    levels = shadow_levels(mask)
    counted, inside = levels > 0, levels >= 128
    regions = {"s": counted, "ns": ~counted, "all": np.ones_like(counted)}
    squares = ((actual - true) ** 2).mean(axis=2)
    lab_actual, lab_true = (srgb_to_lab(255 * x.clip(0, 1), lab) for x in (actual, true))
    distance = np.abs(lab_actual - lab_true).sum(axis=2)
    measures = {f"lab_{name}": mean_where(distance, region) for name, region in regions.items()}
    measures |= {f"psnr_{name}": _decibel((squares * region).mean()) for name, region in regions.items()}
    measures |= region_ssim(actual, true, counted)
    measures["pixels_s"] = float(counted.sum())
    depth = edge_distance(inside, BAND)
    measures["lab_s_true"] = mean_where(distance, inside)
    measures["psnr_s_true"] = _decibel(mean_where(squares, inside))
    measures["lab_band"] = mean_where(distance, depth <= BAND)
    if shadow is not None:
        original = imresize(shadow / 255, (SIDE, SIDE))
        measures["texture"] = texture_correlation(actual, original, inside, depth)
    return measures


def _decibel(mean_square: float) -> float:
    """Convert a mean square of values 0..1 to PSNR, -10 log10 of it; infinity for 0."""
    return float("inf") if mean_square == 0 else float(-10 * np.log10(mean_square))


# MATLAB's imresize


def imresize(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize doubles (H, W[, C]) as MATLAB's imresize(array, size): bicubic, antialiased, not clipped.

    Keys' kernel (1981) with a = -0.5, widened by the factor of reduction; beyond the frame the image is
    mirrored (Pillow, with the same kernel, cuts the kernel there instead). Returns float64.
    """
    for axis, (old, new) in enumerate(zip(array.shape[:2], size, strict=True)):
        if old != new:
            array = np.moveaxis(np.tensordot(_resize_matrix(old, new), array, (1, axis)), 0, axis)
    return np.asarray(array, dtype=float)


@lru_cache(maxsize=32)
def _resize_matrix(old: int, new: int) -> np.ndarray:
    """Build the matrix (new, old) that resizes an axis."""
    scale = min(1.0, new / old)
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    reach = int(np.ceil(2 / scale)) + 1
    at = np.floor(centre).astype(int)[:, None] + np.arange(-reach, reach + 1)  # (new, taps)
    weights = _keys_kernel(scale * (centre[:, None] - at))
    mirrored = np.minimum(at % (2 * old), (-1 - at) % (2 * old))
    matrix = np.zeros((new, old))
    np.add.at(matrix, (np.arange(new)[:, None], mirrored), weights / weights.sum(axis=1, keepdims=True))
    return matrix


def _keys_kernel(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def shadow_levels(mask: np.ndarray) -> np.ndarray:
    """Resize a shadow mask to SIDE x SIDE as MATLAB does, float64 of whole values 0..255.

    MATLAB resizes stored masks in uint8, rounding and clipping after each axis, the more reduced axis first.
    So a pixel is not 0 (the benchmark's "shadow") from half a level on, and never through floating-point
    rounding.
    """
    levels = mask * 255.0 if mask.dtype == np.bool_ else mask.astype(float)
    for axis in sorted((0, 1), key=lambda axis: SIDE / mask.shape[axis]):
        size = (SIDE, levels.shape[1]) if axis == 0 else (levels.shape[0], SIDE)
        levels = np.floor(imresize(levels, size) + 0.5).clip(0, 255)
    return levels


# SSIM


def region_ssim(a: np.ndarray, b: np.ndarray, counted: np.ndarray) -> dict[str, float]:
    """Compute SSIM (Wang et al. 2004) of frames that are black outside a region.

    Windowed means are linear: those of the rest are those of the whole minus those of the shadow.

    Args:
        a, b: float (S, S, 3), sRGB 0..1.
        counted: bool (S, S), True = counts as shadow.

    Returns:
        ssim_* and ssim3_* as described in `score`, for s, ns and all.
    """
    a, b = (np.ascontiguousarray(x.transpose(2, 0, 1)) for x in (a, b))
    planes = np.stack([a, b, a * a, b * b, a * b])  # (5, 3, S, S)
    whole, shadow = _windowed(planes), _windowed(planes * counted)
    measures = {}
    for name, means in (("s", shadow), ("ns", whole - shadow), ("all", whole)):
        measures[f"ssim_{name}"] = _ssim(means)
        measures[f"ssim3_{name}"] = _ssim(np.tensordot(_ACROSS, means, (1, 1)).swapaxes(0, 1))
    return measures


def _windowed(planes: np.ndarray) -> np.ndarray:
    """Average (5, 3, S, S) under the 11x11 Gaussian window of sigma 1.5; the frame is repeated."""
    return np.stack([[hole_metrics.blur(plane, 1.5, "edge", reach=5) for plane in x] for x in planes])


# The same window across the three channels, the first and the last repeated beyond: (to, from).
_ACROSS = np.stack(
    [hole_metrics.blur(np.eye(3)[[c]].repeat(11, 0), 1.5, "edge", reach=5)[5] for c in range(3)], 1
)


def _ssim(means: np.ndarray) -> float:
    """Compute SSIM from windowed means of a, b, a^2, b^2, ab (first axis); values 0..1."""
    mean_a, mean_b, aa, bb, ab = means
    c1, c2 = 0.01**2, 0.03**2
    squares = mean_a**2 + mean_b**2
    product = mean_a * mean_b
    ratio = (2 * product + c1) * (2 * (ab - product) + c2) / ((squares + c1) * (aa + bb - squares + c2))
    return float(ratio.mean())


# Texture


def texture_correlation(
    actual: np.ndarray, original: np.ndarray, inside: np.ndarray, depth: np.ndarray
) -> float:
    """Correlate, over the umbra, the detail finer than TEXTURE_SIGMA of two images (Pearson).

    Detail is log(linear-light luminance + DARK) minus its Gaussian mean over the shadow's pixels alone.
    Relighting by any smooth factor only adds something smooth to the logarithm, so it leaves 1; repainting
    comes near 0.
    The umbra is the pixels at least BAND from the edge. In a shadow too thin for UMBRA of them, it is the
    pixels at least as deep as the UMBRA-th deepest (all pixels, if there are fewer).

    Args:
        actual, original: float (H, W, 3), sRGB 0..1.
        inside: bool (H, W), True = shadow.
        depth: distance to the shadow's edge, pixels (H, W), infinite beyond BAND.

    Returns:
        A correlation in [-1, 1]; NaN if the umbra has fewer than two pixels or an image is flat there.
    """
    umbra = _umbra(inside, depth)
    if umbra.sum() < 2:
        return float("nan")
    a, b = (_fine(image, inside)[umbra] for image in (actual, original))
    a, b = a - a.mean(), b - b.mean()
    energy = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / energy if energy > 1e-9 else float("nan")


def _umbra(inside: np.ndarray, depth: np.ndarray) -> np.ndarray:
    depths = np.sort(depth[inside])[::-1]
    if not depths.size:
        return inside
    return inside & (depth >= min(BAND, depths[min(UMBRA, depths.size) - 1]))


def _fine(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    weight = inside.astype(float)
    light = np.log(to_linear(image.clip(0, 1)) @ LUMINANCE + DARK) * weight
    mean = hole_metrics.blur(light, TEXTURE_SIGMA, "constant")
    return light - mean / np.maximum(hole_metrics.blur(weight, TEXTURE_SIGMA, "constant"), 1e-12) * weight
