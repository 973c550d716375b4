"""Baseline fills against brute force and a dense solution of Laplace's equation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion.evaluation.baselines import membrane_fill, nearest_fill, nearest_known

BOTH = pytest.mark.parametrize("fill", [nearest_fill, membrane_fill])


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 12, 2)
    keep = rng.random((height, width)) < rng.choice([0.05, 0.3, 0.8])
    keep[rng.integers(height), rng.integers(width)] = True
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8), keep


@given(st.integers(0, 10**6))
def test_the_nearest_known_pixel_is_as_near_as_any(seed: int) -> None:
    _, keep = random_case(seed)
    rows, columns = nearest_known(keep)
    assert keep[rows, columns].all()
    at = np.argwhere(np.ones_like(keep))
    least = ((at[:, None] - np.argwhere(keep)) ** 2).sum(axis=2).min(axis=1)
    taken = (at[:, 0] - rows.ravel()) ** 2 + (at[:, 1] - columns.ravel()) ** 2
    assert np.array_equal(taken, least)


def dense_membrane(image: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Each unknown pixel = the mean of its neighbours in the frame, by one dense solve."""
    height, width = keep.shape
    matrix, target = np.eye(keep.size), image.reshape(-1, 3).astype(float)
    for y, x in np.argwhere(~keep):
        row = y * width + x
        around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        inside = [(v, u) for v, u in around if 0 <= v < height and 0 <= u < width]
        target[row] = 0
        for v, u in inside:
            matrix[row, v * width + u] = -1 / len(inside)
    return np.linalg.solve(matrix, target).reshape(height, width, 3)


@given(st.integers(0, 10**6))
def test_the_membrane_solves_laplace(seed: int) -> None:
    image, keep = random_case(seed)
    exact = dense_membrane(image, keep)
    assert np.abs(membrane_fill(image, keep) - exact).max() <= 0.501  # rounded


def test_a_membrane_between_two_lines_is_a_ramp_and_at_the_frame_it_is_level() -> None:
    image, keep = np.full((5, 11, 3), 77, np.uint8), np.zeros((5, 11), bool)
    image[:, 1], image[:, 6], keep[:, [1, 6]] = 20, 120, True
    expected = [20, 20, 40, 60, 80, 100, 120, 120, 120, 120, 120]
    assert np.array_equal(membrane_fill(image, keep)[..., 0], np.tile(np.uint8(expected), (5, 1)))


@BOTH
@given(seed=st.integers(0, 10**6))
def test_known_bytes_stay_and_the_hole_decides_nothing(fill, seed: int) -> None:  # type: ignore[no-untyped-def]
    image, keep = random_case(seed)
    filled = fill(image, keep)
    assert filled.dtype == np.uint8
    assert np.array_equal(filled[keep], image[keep])
    assert np.array_equal(filled, fill(image * keep[..., None], keep))
    low, high = image[keep].min(axis=0), image[keep].max(axis=0)
    assert (filled >= low).all() and (filled <= high).all()


@BOTH
def test_errors_say_what_is_wrong(fill) -> None:  # type: ignore[no-untyped-def]
    image = np.zeros((4, 5, 3), np.uint8)
    with pytest.raises(ValueError, match="keeps no pixel"):
        fill(image, np.zeros((4, 5), bool))
    with pytest.raises(ValueError, match=r"\(4, 5, 3\).*\(5, 4\)"):
        fill(image, np.ones((5, 4), bool))
    with pytest.raises(ValueError, match="float32"):
        fill(image.astype(np.float32), np.ones((4, 5), bool))
