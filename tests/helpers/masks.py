"""Masks with holes, chosen or random."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st


@st.composite
def masked_images(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image (H, W, 3) and its keep mask: a few unknown boxes, scattered pixels, all or none."""
    height, width, seed = draw(st.integers(1, 60)), draw(st.integers(1, 60)), draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    mask = np.ones((height, width), dtype=bool)
    kind = draw(st.sampled_from(["boxes", "scattered", "none", "all"]))
    for _ in range(3 if kind == "boxes" else 0):
        top, left = rng.integers(0, height), rng.integers(0, width)
        mask[top : top + rng.integers(1, 30), left : left + rng.integers(1, 30)] = False
    if kind == "scattered":
        mask = rng.random((height, width)) < 0.9
    if kind == "all":
        mask[:] = False
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8), mask


def keep_around(height: int, width: int, top: int, bottom: int, left: int, right: int) -> np.ndarray:
    """Make a keep mask, bool (height, width), with one unknown box."""
    mask = np.ones((height, width), dtype=bool)
    mask[top:bottom, left:right] = False
    return mask
