"""How well a shadow is lifted: the field's measures, and the honest ones that the field leaves out.

The field's (the MATLAB script shared by G2R, ShadowFormer and their successors): everything at 256x256 by
MATLAB's imresize; LAB "RMSE" is a mean of |dL| + |da| + |db|; PSNR and SSIM of a region are those of whole
frames that are black elsewhere, so a small region gains 10 log10(1 / its share) dB.
Ours: PSNR over the shadow's own pixels, LAB over the band where penumbrae lie, and how much of the texture
that lay in the shadow is still there.

Images are uint8 (H, W, 3). A *shadow mask* is bool (H, W), True = shadow, or the stored uint8 values.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from guided_diffusion.evaluation import hole_metrics
from guided_diffusion.evaluation.hole_metrics import Illuminant
from guided_diffusion.images.masks import edge_distance
from guided_diffusion.scenes.materials import to_linear

SIDE = 256  # the benchmark squashes every frame to SIDE x SIDE
BAND = 8  # pixels at SIDE on either side of the shadow's edge: the penumbra band
UMBRA = 100  # pixels: with fewer deeper than BAND, the umbra begins nearer to the edge
TEXTURE_SIGMA = 3.0  # pixels at SIDE: what is finer is texture, what is coarser may be light
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of linear sRGB light (IEC 61966-2-1)
DARK = 2e-3  # linear light added before the logarithm: about seven levels of eight bits at the dark end


def score(
    pred: np.ndarray,
    free: np.ndarray,
    mask: np.ndarray,
    shadow: np.ndarray | None = None,
    lab: Illuminant = "d65",
) -> dict[str, float]:
    """All measures of one prediction; the arrays may differ in size.

    The field's, each for s (in the shadow), ns (outside) and all: lab_*, psnr_* (dB), ssim3_* (MATLAB's,
    which takes red, green and blue for slices of a volume) and ssim_* (per channel, then the mean).
    pixels_s: pixels that count as shadow, out of SIDE * SIDE; a mean weighted by it is the field's "PP".
    Ours, where the mask itself is (`shadow_levels` of a half and more): lab_s_true, psnr_s_true over the
    shadow's pixels alone; lab_band where |distance to the edge| <= BAND; texture: `texture_correlation` with
    the input image, if `shadow` is given.
    What has no pixels, or no texture, is NaN; what is without error has infinite PSNR.
    """
    found, truth = (imresize(image / 255, (SIDE, SIDE)) for image in (pred, free))
    levels = shadow_levels(mask)
    counted, inside = levels > 0, levels >= 128
    regions = {"s": counted, "ns": ~counted, "all": np.ones_like(counted)}
    squares = ((found - truth) ** 2).mean(axis=2)
    lab_found, lab_truth = (hole_metrics.srgb_to_lab(255 * x.clip(0, 1), lab) for x in (found, truth))
    distance = np.abs(lab_found - lab_truth).sum(axis=2)
    told = {f"lab_{name}": _mean(distance, region) for name, region in regions.items()}
    told |= {f"psnr_{name}": _decibel((squares * region).mean()) for name, region in regions.items()}
    told |= region_ssim(found, truth, counted)
    told["pixels_s"] = float(counted.sum())
    depth = edge_distance(inside, BAND)
    told["lab_s_true"] = _mean(distance, inside)
    told["psnr_s_true"] = _decibel(_mean(squares, inside))
    told["lab_band"] = _mean(distance, depth <= BAND)
    if shadow is not None:
        given = imresize(shadow / 255, (SIDE, SIDE))
        told["texture"] = texture_correlation(found, given, inside, depth)
    return told


def _mean(values: np.ndarray, at: np.ndarray) -> float:
    return float(values[at].mean()) if at.any() else float("nan")


def _decibel(mean_square: float) -> float:
    """-10 log10 of a mean square of values 0..1; infinity for 0."""
    return float("inf") if mean_square == 0 else float(-10 * np.log10(mean_square))


# MATLAB's imresize


def imresize(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """MATLAB's imresize(array, size) of doubles (H, W[, C]): bicubic, antialiased, not clipped. Float64.

    Keys' kernel (1981) with a = -0.5, widened by the factor of reduction; beyond the frame the image is
    mirrored (Pillow, with the same kernel, cuts the kernel there instead).
    """
    for axis, (old, new) in enumerate(zip(array.shape[:2], size, strict=True)):
        if old != new:
            array = np.moveaxis(np.tensordot(_resizing(old, new), array, (1, axis)), 0, axis)
    return np.asarray(array, dtype=float)


@lru_cache(maxsize=32)
def _resizing(old: int, new: int) -> np.ndarray:
    """The matrix (new, old) that resizes one axis."""
    scale = min(1.0, new / old)
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    reach = int(np.ceil(2 / scale)) + 1
    at = np.floor(centre).astype(int)[:, None] + np.arange(-reach, reach + 1)  # (new, taps)
    weights = _keys(scale * (centre[:, None] - at))
    mirrored = np.minimum(at % (2 * old), (-1 - at) % (2 * old))
    matrix = np.zeros((new, old))
    np.add.at(matrix, (np.arange(new)[:, None], mirrored), weights / weights.sum(axis=1, keepdims=True))
    return matrix


def _keys(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def shadow_levels(mask: np.ndarray) -> np.ndarray:
    """A shadow mask at SIDE x SIDE as MATLAB makes it, float64 of whole values 0..255.

    Stored masks are resized in uint8, rounded and clipped after each axis, the more reduced one first; so
    a pixel is not 0 (the benchmark's "shadow") from half a level on, and never by the dust of floating point.
    """
    levels = mask * 255.0 if mask.dtype == np.bool_ else mask.astype(float)
    for axis in sorted((0, 1), key=lambda axis: SIDE / mask.shape[axis]):
        size = (SIDE, levels.shape[1]) if axis == 0 else (levels.shape[0], SIDE)
        levels = np.floor(imresize(levels, size) + 0.5).clip(0, 255)
    return levels


# SSIM


def region_ssim(a: np.ndarray, b: np.ndarray, counted: np.ndarray) -> dict[str, float]:
    """SSIM (Wang et al. 2004) of frames that are black outside the region, in both ways that `score` tells.

    Windowed means are linear: those of the rest are those of the whole less those of the shadow.
    """
    a, b = (np.ascontiguousarray(x.transpose(2, 0, 1)) for x in (a, b))
    planes = np.stack([a, b, a * a, b * b, a * b])  # (5, 3, S, S)
    whole, shadow = _windowed(planes), _windowed(planes * counted)
    told = {}
    for name, means in (("s", shadow), ("ns", whole - shadow), ("all", whole)):
        told[f"ssim_{name}"] = _ssim(means)
        told[f"ssim3_{name}"] = _ssim(np.tensordot(_ACROSS, means, (1, 1)).swapaxes(0, 1))
    return told


def _windowed(planes: np.ndarray) -> np.ndarray:
    """(5, 3, S, S) under the 11x11 Gaussian window of sigma 1.5; the frame is repeated."""
    return np.stack([[hole_metrics.blur(plane, 1.5, "edge", reach=5) for plane in x] for x in planes])


# The same window across the three channels, the first and the last repeated beyond: (to, from).
_ACROSS = np.stack(
    [hole_metrics.blur(np.eye(3)[[c]].repeat(11, 0), 1.5, "edge", reach=5)[5] for c in range(3)], 1
)


def _ssim(means: np.ndarray) -> float:
    """From windowed means of a, b, a^2, b^2, ab, the first axis; values 0..1."""
    mean_a, mean_b, aa, bb, ab = means
    c1, c2 = 0.01**2, 0.03**2
    squares = mean_a**2 + mean_b**2
    product = mean_a * mean_b
    ratio = (2 * product + c1) * (2 * (ab - product) + c2) / ((squares + c1) * (aa + bb - squares + c2))
    return float(ratio.mean())


# Texture


def texture_correlation(found: np.ndarray, given: np.ndarray, inside: np.ndarray, depth: np.ndarray) -> float:
    """Pearson's correlation, over the umbra, of what is finer than TEXTURE_SIGMA in two images.

    `found` and `given` are float (H, W, 3), sRGB 0..1; `inside` bool, True = shadow; `depth` is the distance
    to the shadow's edge, infinite beyond BAND. Of log(linear-light luminance + DARK) is taken away its
    Gaussian mean over the shadow's pixels alone. Relighting by any smooth factor only adds something smooth
    to the logarithm, so it leaves 1; repainting comes near 0.
    Umbra: the pixels at least BAND from the edge. In a shadow too thin for UMBRA of them, those at least as
    deep as the UMBRA-th deepest (all, if there are fewer). NaN below two pixels, and where either is flat.
    """
    umbra = _umbra(inside, depth)
    if umbra.sum() < 2:
        return float("nan")
    a, b = (_fine(image, inside)[umbra] for image in (found, given))
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


# Means


def bootstrap_by_scene(
    values: Sequence[float], scenes: Sequence[str], weights: Sequence[float] | None = None
) -> tuple[float, float]:
    """90 % interval of the (weighted) mean over images when whole scenes are drawn.

    The cluster bootstrap (Davison & Hinkley 1997, section 3.8): images of one scene are alike, and so
    count for less than as many scenes. NaN, NaN with fewer than two scenes.
    """
    names, which = np.unique(np.asarray(scenes), return_inverse=True)
    if len(names) < 2:
        return float("nan"), float("nan")
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
    shares = np.bincount(which, weight)
    sums = np.bincount(which, np.asarray(values, dtype=float) * weight)

    def mean(drawn: np.ndarray, axis: int) -> np.ndarray:
        at = drawn.astype(int)
        return sums[at].sum(axis) / shares[at].sum(axis)

    return hole_metrics.bootstrap(range(len(names)), mean)
