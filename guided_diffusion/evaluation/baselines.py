"""Non-learned inpainting methods: what a learned prior has to beat.

Images are uint8 (H, W, 3), keep-masks bool (H, W) with True = known. Known bytes come back unchanged.
"""

from __future__ import annotations

import numpy as np

MAX_RESIDUAL = 1e-6  # 8-bit levels by which a pixel of the hole may miss Laplace's equation


def nearest_inpaint(image: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Give each unknown pixel the colour of the nearest known pixel (Euclidean, between centres).

    Any of several equally near pixels may be chosen.

    Args:
        image: uint8 (H, W, 3).
        keep: bool (H, W), True = known.

    Raises:
        ValueError: if the shapes do not fit, or nothing is known.
    """
    _check(image, keep)
    rows, columns = nearest_known(keep)
    return image[rows, columns]


def nearest_known(keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column, int (H, W) each, of the known pixel nearest to each pixel.

    Exact and separable (Felzenszwalb & Huttenlocher 2012, eq. 2): first along columns, then along each row.
    At least one pixel must be known.
    """
    height, width = keep.shape
    row_in_column = _nearest_in_columns(keep)
    row_numbers = np.arange(height)[:, None]
    has_known = row_in_column >= 0
    down = np.where(has_known, (row_in_column - row_numbers) ** 2, np.iinfo(np.int64).max // 4)
    across = (np.arange(width)[:, None] - np.arange(width)) ** 2
    columns = np.stack([(across + row).argmin(axis=1) for row in down])
    return row_in_column[row_numbers, columns], columns


def _nearest_in_columns(keep: np.ndarray) -> np.ndarray:
    """Row of the nearest known pixel in the same column, int64 (H, W); -1 in columns without any."""
    height = keep.shape[0]
    row_numbers = np.arange(height)[:, None]
    above = np.maximum.accumulate(np.where(keep, row_numbers, -1), axis=0)
    below = np.minimum.accumulate(np.where(keep, row_numbers, height)[::-1], axis=0)[::-1]
    take_above = (above >= 0) & ((below == height) | (row_numbers - above <= below - row_numbers))
    return np.where(take_above, above, np.where(below < height, below, -1))


def harmonic_inpaint(image: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Inpaint by solving Laplace's equation in the hole, with the known pixels as boundary values.

    Each unknown pixel is the mean of its neighbours above, below, left and right (those within the frame: the
    frame reflects), rounded at the end. Solved by conjugate gradients, per channel, until the largest
    residual is at most MAX_RESIDUAL.

    Args:
        image: uint8 (H, W, 3).
        keep: bool (H, W), True = known.

    Raises:
        ValueError: if the shapes do not fit, or nothing is known.
    """
    _check(image, keep)
    hole = ~keep[..., None]
    u = nearest_inpaint(image, keep).astype(np.float64)  # (H, W, 3), exact on the known pixels
    residual = -_laplacian(u) * hole
    direction = residual.copy()
    power = (residual**2).sum(axis=(0, 1))  # (3,)
    while np.abs(residual).max() > MAX_RESIDUAL:
        curvature = _laplacian(direction) * hole
        step = _ratio(power, (direction * curvature).sum(axis=(0, 1)))
        u += step * direction
        residual -= step * curvature
        previous, power = power, (residual**2).sum(axis=(0, 1))
        direction = residual + _ratio(power, previous) * direction
    return np.where(hole, np.rint(u), image).astype(np.uint8)


def _laplacian(u: np.ndarray) -> np.ndarray:
    """Negative Laplacian (H, W, 3): number of neighbours in the frame times u, minus their sum."""
    out = np.zeros_like(u)
    for axis in (0, 1):
        rise = np.diff(u, axis=axis)
        ahead, behind = [slice(None)] * 2, [slice(None)] * 2
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        out[tuple(ahead)] += rise
        out[tuple(behind)] -= rise
    return out


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Ratio a / b per channel; 0 for a channel that is already solved."""
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def _check(image: np.ndarray, keep: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[:2] != keep.shape:
        raise ValueError(
            f"image {image.dtype} {image.shape} and keep-mask {keep.shape} do not fit; "
            "give uint8 (H, W, 3) and bool (H, W)"
        )
    if not keep.any():
        raise ValueError("the mask keeps no pixel, so there is nothing to inpaint from; keep at least one")
