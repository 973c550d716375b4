"""Quality of an inpainted hole: pure functions of images uint8 (H, W, 3) and keep-masks bool (H, W).

A hole has many right answers. PSNR, LAB error and `ring_gradient_error` compare with the ground truth pixel
by pixel, and so favour a blur: for a texture of variance v, a flat result has the squared error v, another
sample of the same texture 2v. `ring_gradient_mismatch`, `seam_ratio` and `texture_ratio` compare statistics:
any right answer scores well, a blur does not.

Arguments that recur:
    inpainted: the result, uint8 (H, W, 3).
    ground_truth: the true image, uint8 (H, W, 3).
    keep: bool (H, W), True = known, False = hole.
    width: distance from the hole's edge, pixels.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from guided_diffusion.evaluation.bootstrap import mean_where
from guided_diffusion.images.colour import srgb_to_lab
from guided_diffusion.images.masks import edge_distance

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
# The two below define measures; see docs/reports/prior.md, "Measures".
RING = 5  # pixels on either side of the hole's edge
NEIGHBOURHOOD = 10  # pixels around the hole: the hole should have the texture of this neighbourhood
ROUNDING = 1 / 12  # variance that rounding to whole levels adds


def luminance(image: np.ndarray) -> np.ndarray:
    """Compute the luma of BT.601, float64 (H, W), 0..255."""
    return image @ LUMA


def sobel(image: np.ndarray) -> np.ndarray:
    """Compute the gradient of the luminance, float64 (H, W, 2): levels per pixel (down, right)."""
    return slopes(luminance(image))


def slopes(plane: np.ndarray) -> np.ndarray:
    """Compute the gradient of a plane (H, W), float64 (H, W, 2): its units per pixel (down, right).

    Sobel kernels ([1 2 1] across, [-1 0 1] along) divided by 8, so that a ramp gives its slope. Beyond the
    frame the last value is repeated.
    """
    y = np.pad(plane, 1, mode="edge")
    smooth_across = y[:, :-2] + 2 * y[:, 1:-1] + y[:, 2:]  # (H+2, W)
    smooth_down = y[:-2] + 2 * y[1:-1] + y[2:]  # (H, W+2)
    return (
        np.stack([smooth_across[2:] - smooth_across[:-2], smooth_down[:, 2:] - smooth_down[:, :-2]], -1) / 8
    )


def ring(keep: np.ndarray, width: float = RING) -> np.ndarray:
    """Select the pixels within `width` of the hole's edge on both sides, bool (H, W)."""
    return edge_distance(keep, width) <= width


def ring_gradient_mismatch(
    inpainted: np.ndarray, ground_truth: np.ndarray, keep: np.ndarray, width: int = RING
) -> float:
    """Compare the distributions of gradients around the hole's edge; 0 is best, levels per pixel.

    Sobel gradients of both images are split into |across| and |along| the edge. For each side, each whole
    distance from the edge and each component they are compared as distributions: mean |sorted(inpainted) -
    sorted(ground_truth)|, the 1-Wasserstein distance, weighted by pixels. A seam (too much across), streaks
    (too little across) and a blur (too little of both) all count. Another sample of the same texture hardly
    does. Where a posterior is known exactly, its samples score best. NaN without an edge.
    """
    distance = np.ceil(edge_distance(keep, width))
    actual, expected = (_across_and_along(sobel(image), keep) for image in (inpainted, ground_truth))
    total, pixels = 0.0, 0
    for side in (keep, ~keep):
        for step in range(1, width + 1):
            at = side & (distance == step)
            total += float(np.abs(np.sort(actual[at], axis=0) - np.sort(expected[at], axis=0)).sum()) / 2
            pixels += int(at.sum())
    return total / pixels if pixels else float("nan")


def _across_and_along(gradient: np.ndarray, keep: np.ndarray, sigma: float = 2.0) -> np.ndarray:
    """Magnitude of a gradient's components across and along the hole's edge, (H, W, 2).

    "Across" is the direction in which the mask, blurred by `sigma` pixels, changes.
    """
    down, right = np.gradient(blur(keep.astype(float), sigma, "edge"))
    length = np.maximum(np.hypot(down, right), 1e-12)
    gy, gx = np.moveaxis(gradient, -1, 0)
    return np.abs(np.stack([gy * down + gx * right, gy * right - gx * down], axis=-1)) / length[..., None]


def ring_level_mismatch(
    inpainted: np.ndarray, ground_truth: np.ndarray, keep: np.ndarray, width: int = RING
) -> float:
    """Compare the mean Sobel magnitude over the ring: |inpainted - true| / true; 0 is best.

    Blind to streaks, and to a seam that makes up for a blur. NaN without an edge.
    """
    actual, expected = (
        mean_where(np.linalg.norm(sobel(image), axis=-1), ring(keep, width))
        for image in (inpainted, ground_truth)
    )
    return abs(actual - expected) / max(expected, ROUNDING**0.5)


def ring_gradient_error(
    inpainted: np.ndarray, ground_truth: np.ndarray, keep: np.ndarray, width: int = RING
) -> float:
    """Mean length of the difference of the gradient vectors over the ring, levels per pixel; 0 is best.

    A pixel-by-pixel distortion, so it favours a blur (see the head of this file). NaN without an edge.
    """
    return mean_where(np.linalg.norm(sobel(inpainted) - sobel(ground_truth), axis=-1), ring(keep, width))


def seam_ratio(inpainted: np.ndarray, keep: np.ndarray, width: int = NEIGHBOURHOOD) -> float:
    """Mean gradient across the hole's edge / mean gradient in the known neighbourhood; 1 = no seam.

    Gradients are |differences| of luminance between horizontal or vertical neighbours. Across the edge they
    are those of a known and an unknown pixel; in the neighbourhood, those of two known pixels within `width`
    of the hole. Needs no ground truth. Rounding noise is added to both means, so that flat over flat is 1.
    NaN without an edge.
    """
    y, near = luminance(inpainted), keep & ring(keep, width)
    at_edge: list[np.ndarray] = []
    nearby: list[np.ndarray] = []
    for axis in (0, 1):
        rise = np.abs(np.diff(y, axis=axis))
        at_edge.append(rise[np.diff(keep, axis=axis)])
        nearby.append(rise[np.logical_and(*_neighbours(near, axis))])
    across, beside = np.concatenate(at_edge), np.concatenate(nearby)
    if not across.size or not beside.size:
        return float("nan")
    floor = ROUNDING**0.5
    return float((across.mean() + floor) / (beside.mean() + floor))


def _neighbours(a: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    return (a[1:], a[:-1]) if axis == 0 else (a[:, 1:], a[:, :-1])


def texture(image: np.ndarray, member: np.ndarray, sigma: float = 1.5) -> np.ndarray:
    """Subtract from the luminance its Gaussian blur of `sigma` pixels; float64 (H, W), 0 outside `member`.

    The blur averages over member pixels only, so that nothing outside them (a seam, say) counts as texture.
    """
    weight = member.astype(float)
    y = luminance(image)
    mean = blur(y * weight, sigma, "constant") / np.maximum(blur(weight, sigma, "constant"), 1e-12)
    return (y - mean) * weight


def blur(
    plane: np.ndarray, sigma: float, frame: Literal["edge", "constant"], reach: int | None = None
) -> np.ndarray:
    """Blur a plane (H, W) with a Gaussian.

    Args:
        plane: (H, W).
        sigma: standard deviation, pixels.
        frame: beyond the frame lies the last value ("edge") or 0 ("constant").
        reach: radius at which the kernel is cut, pixels; by default 4 sigma.
    """
    reach = int(np.ceil(4 * sigma)) if reach is None else reach
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(plane, reach, mode=frame)
    height, width = plane.shape
    down = sum(k * padded[i : i + height] for i, k in enumerate(kernel))
    return sum(k * down[:, i : i + width] for i, k in enumerate(kernel))


def texture_ratio(inpainted: np.ndarray, keep: np.ndarray, width: int = NEIGHBOURHOOD) -> float:
    """Texture energy in the hole / texture energy of the known pixels within `width` of it; 1 is best.

    Energy is the mean square of `texture`, plus ROUNDING, so that flat over flat is 1. Only the neighbourhood
    is used, because further away another material may begin. NaN without an edge.
    """
    inside, outside = texture(inpainted, ~keep), texture(inpainted, keep)
    return _energy(inside, ~keep) / _energy(outside, keep & ring(keep, width))


def texture_ratio_to_ground_truth(inpainted: np.ndarray, ground_truth: np.ndarray, keep: np.ndarray) -> float:
    """Texture energy in the hole / that of the ground truth there; 1 is best. NaN without a hole."""
    return _energy(texture(inpainted, ~keep), ~keep) / _energy(texture(ground_truth, ~keep), ~keep)


def _energy(plane: np.ndarray, at: np.ndarray) -> float:
    return mean_where(plane**2, at) + ROUNDING


def psnr(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """10 log10(255^2 / mean square difference) in dB over the pixels of `mask` and all channels.

    Infinity if the images are equal there, NaN if the mask is empty.
    """
    squares = mean_where(((a.astype(float) - b) ** 2).mean(axis=2), mask)
    return float("inf") if squares == 0 else float(10 * np.log10(255**2 / squares))


def lab_error(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """Mean of |dL| + |da| + |db| over the pixels of `mask`: the shadow-removal papers' "LAB RMSE".

    The channels are summed, not averaged. NaN if the mask is empty.
    """
    return mean_where(np.abs(srgb_to_lab(a) - srgb_to_lab(b)).sum(axis=2), mask)
