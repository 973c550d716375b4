"""Masks of the pixels that a network sees clean while it learns a time per pixel.

Paper: Mayet et al. 2024, "TD-Paint" (arXiv 2410.09306): strokes and boxes, or squares of one size.
Where we differ: a third of the images has no clean pixel (there a fifth), and fewer have squares, so that the
network also serves plain generation.
"""

from __future__ import annotations

import numpy as np

from guided_diffusion.images.masks import make_mask

SMALLEST = 8  # side of an image in pixels that strokes need
_STROKES, _ALL_NOISY = 0.6, 1 / 3  # shares of the images; the rest gets squares


def draw_clean_masks(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Bool (count, 1, size, size), True = clean; at least one pixel of each image is noisy."""
    return np.stack([_draw_mask(size, rng) for _ in range(count)])[:, None]


def _draw_mask(size: int, rng: np.random.Generator) -> np.ndarray:
    draw = rng.random()
    if draw < _STROKES:
        return make_mask("thick" if rng.random() < 0.5 else "thin", (size, size), rng)
    return np.zeros((size, size), dtype=bool) if draw < _STROKES + _ALL_NOISY else _draw_squares(size, rng)


def _draw_squares(size: int, rng: np.random.Generator) -> np.ndarray:
    """Mark a uniform share of the squares of a grid; their side is a power of two below the image's."""
    side = 2 ** int(rng.integers(np.ceil(np.log2(size))))
    across = -(-size // side)
    clean = rng.permutation(across**2) < rng.integers(across**2)  # at least one square is noisy
    return clean.reshape(across, across).repeat(side, 0).repeat(side, 1)[:size, :size]
