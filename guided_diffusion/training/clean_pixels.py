"""Which pixels of an image the network is given clean, when it learns a time per pixel.

Paper: Mayet et al. 2024, "TD-Paint" (arXiv 2410.09306): strokes and boxes, or squares of one size.
Where we differ: a third of the images has nothing clean (there a fifth), at the cost of the
squares, so that one network serves plain generation too.
"""

from __future__ import annotations

import numpy as np

from guided_diffusion.images.masks import make_mask

SMALLEST = 8  # pixels a side that strokes need
_STROKES, _NOTHING = 0.6, 1 / 3  # shares of the images; the rest gets squares


def draw_known(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Bool (count, 1, size, size), True = given clean; no image is clean all over."""
    return np.stack([_one(size, rng) for _ in range(count)])[:, None]


def _one(size: int, rng: np.random.Generator) -> np.ndarray:
    draw = rng.random()
    if draw < _STROKES:
        return make_mask("thick" if rng.random() < 0.5 else "thin", (size, size), rng)
    return np.zeros((size, size), dtype=bool) if draw < _STROKES + _NOTHING else _squares(size, rng)


def _squares(size: int, rng: np.random.Generator) -> np.ndarray:
    """A uniform share of the squares of a grid; their side is a power of two below the image's."""
    side = 2 ** int(rng.integers(np.ceil(np.log2(size))))
    across = -(-size // side)
    known = rng.permutation(across**2) < rng.integers(across**2)  # one square at least is unknown
    return known.reshape(across, across).repeat(side, 0).repeat(side, 1)[:size, :size]
