"""How good a filled hole is: pure functions of images uint8 (H, W, 3) and keep-masks bool (H, W).

A hole has many right answers. PSNR, LAB error and `ring_gradient_error` compare with the one that was there,
pixel by pixel, and so favour a blur: of a texture of variance v the flat fill misses by v, another true
sample by 2v. `ring_gradient_mismatch`, `seam_ratio` and `texture_ratio` compare statistics: any right answer
scores well, a blur does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from guided_diffusion.images.masks import edge_distance
from guided_diffusion.scenes.materials import to_linear

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
RING = 5  # pixels
NEIGHBOURHOOD = 10  # pixels around the hole that tell what texture is expected in it
ROUNDING = 1 / 12  # variance that rounding to whole levels adds


def luminance(image: np.ndarray) -> np.ndarray:
    """Luma of BT.601, float64 (H, W), 0..255."""
    return image @ LUMA


def sobel(image: np.ndarray) -> np.ndarray:
    """Gradient of the luminance, float64 (H, W, 2): levels per pixel down and right; see `slopes`."""
    return slopes(luminance(image))


def slopes(plane: np.ndarray) -> np.ndarray:
    """Gradient of a plane (H, W), float64 (H, W, 2): its units per pixel down and right.

    Sobel kernels ([1 2 1] across, [-1 0 1] along) over 8, so a ramp gives its slope; the frame is repeated.
    """
    y = np.pad(plane, 1, mode="edge")
    smooth_across = y[:, :-2] + 2 * y[:, 1:-1] + y[:, 2:]  # (H+2, W)
    smooth_down = y[:-2] + 2 * y[1:-1] + y[2:]  # (H, W+2)
    return (
        np.stack([smooth_across[2:] - smooth_across[:-2], smooth_down[:, 2:] - smooth_down[:, :-2]], -1) / 8
    )


def ring(keep: np.ndarray, width: float = RING) -> np.ndarray:
    """The pixels within `width` of the hole's edge on both sides, bool (H, W)."""
    return edge_distance(keep, width) <= width


def ring_gradient_mismatch(
    filled: np.ndarray, truth: np.ndarray, keep: np.ndarray, width: int = RING
) -> float:
    """How far the gradients around the hole's edge are from the expected; 0 is best, levels per pixel.

    Sobel gradients of both images are split into |across| and |along| the edge and compared as
    distributions, separately on each side, at each whole distance from the edge and for both components:
    mean |sorted(filled) - sorted(truth)|, the 1-Wasserstein distance, weighted by pixels. A seam (too much
    across), streaks (too little across), a blur (too little of both) all count; another sample of the same
    texture hardly does. Where a posterior is known exactly, its samples score best. NaN without an edge.
    """
    distance = np.ceil(edge_distance(keep, width))
    found, expected = (_across_and_along(sobel(image), keep) for image in (filled, truth))
    total, pixels = 0.0, 0
    for side in (keep, ~keep):
        for step in range(1, width + 1):
            at = side & (distance == step)
            total += float(np.abs(np.sort(found[at], axis=0) - np.sort(expected[at], axis=0)).sum()) / 2
            pixels += int(at.sum())
    return total / pixels if pixels else float("nan")


def _across_and_along(gradient: np.ndarray, keep: np.ndarray, sigma: float = 2.0) -> np.ndarray:
    """Size of a gradient's components across and along the hole's edge, (H, W, 2).

    Across is the way in which the mask, blurred by `sigma` pixels, changes.
    """
    down, right = np.gradient(blur(keep.astype(float), sigma, "edge"))
    length = np.maximum(np.hypot(down, right), 1e-12)
    gy, gx = np.moveaxis(gradient, -1, 0)
    return np.abs(np.stack([gy * down + gx * right, gy * right - gx * down], axis=-1)) / length[..., None]


def ring_level_mismatch(filled: np.ndarray, truth: np.ndarray, keep: np.ndarray, width: int = RING) -> float:
    """|mean Sobel magnitude over the ring - the true image's| / the true image's; 0 is best.

    Sees neither streaks nor a seam that makes up for a blur. NaN without an edge.
    """
    found, expected = (
        _mean(np.linalg.norm(sobel(image), axis=-1), ring(keep, width)) for image in (filled, truth)
    )
    return abs(found - expected) / max(expected, ROUNDING**0.5)


def ring_gradient_error(filled: np.ndarray, truth: np.ndarray, keep: np.ndarray, width: int = RING) -> float:
    """Mean length over the ring of the difference of the gradient vectors, levels per pixel; 0 = the truth.

    A distortion, pixel against pixel: see the head of this file for what that favours. NaN without an edge.
    """
    return _mean(np.linalg.norm(sobel(filled) - sobel(truth), axis=-1), ring(keep, width))


def seam_ratio(filled: np.ndarray, keep: np.ndarray, width: int = NEIGHBOURHOOD) -> float:
    """Mean gradient across the hole's edge over the mean gradient of the known neighbourhood; 1 = no seam.

    Gradients are |difference| of luminance between pixels side by side or above each other: over the edge are
    those of a known and an unknown pixel, in the neighbourhood those of two known ones within `width` of the
    hole. Needs no truth. Rounding noise is added to both, so that flat over flat is 1. NaN without an edge.
    """
    y, near = luminance(filled), keep & ring(keep, width)
    over: list[np.ndarray] = []
    known: list[np.ndarray] = []
    for axis in (0, 1):
        rise = np.abs(np.diff(y, axis=axis))
        over.append(rise[np.diff(keep, axis=axis)])
        both = np.logical_and(*_neighbours(near, axis))
        known.append(rise[both])
    across, beside = np.concatenate(over), np.concatenate(known)
    if not across.size or not beside.size:
        return float("nan")
    floor = ROUNDING**0.5
    return float((across.mean() + floor) / (beside.mean() + floor))


def _neighbours(a: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    return (a[1:], a[:-1]) if axis == 0 else (a[:, 1:], a[:, :-1])


def texture(image: np.ndarray, member: np.ndarray, sigma: float = 1.5) -> np.ndarray:
    """Luminance less its Gaussian blur of `sigma` pixels, float64 (H, W), within `member` (0 elsewhere).

    The blur averages over member pixels only, so that nothing beyond them (a seam, say) counts as texture.
    """
    weight = member.astype(float)
    y = luminance(image)
    mean = blur(y * weight, sigma, "constant") / np.maximum(blur(weight, sigma, "constant"), 1e-12)
    return (y - mean) * weight


def blur(
    plane: np.ndarray, sigma: float, frame: Literal["edge", "constant"], reach: int | None = None
) -> np.ndarray:
    """Gaussian blur of (H, W), cut at `reach` pixels, by default at 4 sigma.

    Beyond the frame lies the last value ("edge") or 0 ("constant").
    """
    reach = int(np.ceil(4 * sigma)) if reach is None else reach
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    wide = np.pad(plane, reach, mode=frame)
    height, width = plane.shape
    down = sum(k * wide[i : i + height] for i, k in enumerate(kernel))
    return sum(k * down[:, i : i + width] for i, k in enumerate(kernel))


def texture_ratio(filled: np.ndarray, keep: np.ndarray, width: int = NEIGHBOURHOOD) -> float:
    """Texture energy in the hole over that of the known pixels within `width` of it; 1 is best.

    Energy: mean square of `texture`, plus ROUNDING, so that flat over flat is 1. Only the neighbourhood is
    compared with, since far away another material may begin. NaN without an edge.
    """
    inside, outside = texture(filled, ~keep), texture(filled, keep)
    return _energy(inside, ~keep) / _energy(outside, keep & ring(keep, width))


def texture_ratio_to_truth(filled: np.ndarray, truth: np.ndarray, keep: np.ndarray) -> float:
    """Texture energy in the hole over the true image's there; as `texture_ratio`. NaN without a hole."""
    return _energy(texture(filled, ~keep), ~keep) / _energy(texture(truth, ~keep), ~keep)


def _energy(plane: np.ndarray, at: np.ndarray) -> float:
    return _mean(plane**2, at) + ROUNDING


def psnr(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """10 log10(255^2 / mean square difference) in dB over the pixels of `mask` and all channels.

    Infinity if they are equal there, NaN if the mask is empty.
    """
    squares = _mean(((a.astype(float) - b) ** 2).mean(axis=2), mask)
    return float("inf") if squares == 0 else float(10 * np.log10(255**2 / squares))


def lab_error(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """Mean of |dL| + |da| + |db| over the pixels of `mask`: the shadow-removal papers' "LAB RMSE".

    The channels are summed, not averaged. NaN if the mask is empty.
    """
    return _mean(np.abs(srgb_to_lab(a) - srgb_to_lab(b)).sum(axis=2), mask)


Illuminant = Literal["d65", "d50"]

# sRGB primaries to CIE XYZ, and the white (2 degrees). D65 with the digits that scikit-image uses; D50 as ICC
# profiles have it, adapted by Bradford's matrix (Lindbloom), which MATLAB's makecform('srgb2lab') follows.
_XYZ: dict[Illuminant, tuple[np.ndarray, np.ndarray]] = {
    "d65": (
        np.array(
            [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
        ),
        np.array([0.95047, 1.0, 1.08883]),
    ),
    "d50": (
        np.array(
            [
                [0.4360747, 0.3850649, 0.1430804],
                [0.2225045, 0.7168786, 0.0606169],
                [0.0139322, 0.0971045, 0.7141733],
            ]
        ),
        np.array([0.96422, 1.0, 0.82521]),
    ),
}


def srgb_to_lab(image: np.ndarray, illuminant: Illuminant = "d65") -> np.ndarray:
    """(H, W, 3) sRGB 0..255 to CIE L*a*b*, float64: L 0..100, a and b about -108..98 (CIE 15)."""
    primaries, white = _XYZ[illuminant]
    xyz = to_linear(image / 255) @ primaries.T / white
    x, y, z = np.moveaxis(np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _mean(values: np.ndarray, at: np.ndarray) -> float:
    return float(values[at].mean()) if at.any() else float("nan")


def bootstrap(
    values: Sequence[float],
    statistic: Callable[..., np.ndarray] = np.mean,
    n: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """90 % interval of `statistic` (np.mean or np.median) over images: the percentile bootstrap.

    Efron & Tibshirani 1993, section 13.3, with `n` resamples. Raises ValueError without values.
    """
    if not len(values):
        raise ValueError("there are no values to take an interval of; give at least one image")
    drawn = np.random.default_rng(seed).integers(0, len(values), (n, len(values)))
    told = statistic(np.asarray(values, dtype=float)[drawn], axis=1)
    low, high = np.quantile(told, [0.05, 0.95], method="nearest")  # "nearest" also takes infinities
    return float(low), float(high)
