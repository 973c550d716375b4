"""Patterns of blocks: which cell a point of a surface lies in, and how far the nearest joint is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from guided_diffusion.scenes.textures import Points

# Points -> cell column and row (whole numbers as float32) and distance to the nearest joint axis, each (N,).
Pattern = Callable[[Points], tuple[np.ndarray, np.ndarray, np.ndarray]]


def grid_pattern(rng: np.random.Generator, width: float, height: float, shift: float) -> Pattern:
    """Lay rows of `width` x `height` cells, each moved by `shift` cells (0 stack bond, .5 running bond)."""
    w, h, s = np.float32(width), np.float32(height), np.float32(shift)
    ou, ov = (np.float32(x) for x in rng.uniform(0, 64, 2))

    def pattern(p: Points) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        y = p.v / h + ov
        row = np.floor(y)
        x = p.u / w + ou + np.mod(row * s, np.float32(1))
        column = np.floor(x)
        x -= column
        y -= row
        gap = np.minimum(np.minimum(x, 1 - x) * w, np.minimum(y, 1 - y) * h)
        return column, row, gap

    return pattern


def herringbone_pattern(rng: np.random.Generator, side: float) -> Pattern:
    """Lay blocks of 2 x 1 squares of `side` in turn along and across."""
    s = np.float32(side)
    ou, ov = (np.float32(x) for x in rng.uniform(0, 64, 2))

    def pattern(p: Points) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x, y = p.u / s + ou, p.v / s + ov
        i, j = np.floor(x), np.floor(y)
        x -= i
        y -= j
        kind = np.mod(i - j, np.float32(4))
        far = np.float32(9)
        left = np.where(kind == 1, far, x)
        right = np.where(kind == 0, far, 1 - x)
        bottom = np.where(kind == 2, far, y)
        top = np.where(kind == 3, far, 1 - y)
        gap = np.minimum(np.minimum(left, right), np.minimum(bottom, top)) * s
        return i - (kind == 1), j - (kind == 2), gap

    return pattern


def hexagon_pattern(rng: np.random.Generator, side: float) -> Pattern:
    """Lay regular hexagons, `side` from flat to flat."""
    s = np.float32(side)
    tall = np.float32(3**0.5)
    ou, ov = (np.float32(x) for x in rng.uniform(0, 64, 2))

    def pattern(p: Points) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x, y = p.u / s + ou, (p.v / s + ov) / tall
        ia, ja = np.rint(x), np.rint(y)
        ib, jb = np.floor(x), np.floor(y)
        ax, ay = np.abs(x - ia), np.abs(y - ja) * tall
        bx, by = np.abs(x - ib - 0.5), np.abs(y - jb - np.float32(0.5)) * tall
        first = ax * ax + ay * ay < bx * bx + by * by
        dx, dy = np.where(first, ax, bx), np.where(first, ay, by)
        gap = (0.5 - np.maximum(dx, 0.5 * dx + np.float32(0.8660254) * dy)) * s
        return np.where(first, ia, ib), np.where(first, ja, jb) * 2 + first, gap

    return pattern
