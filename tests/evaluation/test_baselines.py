"""Non-learned baselines against brute force and a dense solution of Laplace's equation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion.evaluation.baselines import harmonic_inpaint, nearest_inpaint, nearest_known

ALL_BASELINES = pytest.mark.parametrize("inpaint", [nearest_inpaint, harmonic_inpaint])


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 12, 2)
    keep = rng.random((height, width)) < rng.choice([0.05, 0.3, 0.8])
    keep[rng.integers(height), rng.integers(width)] = True
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8), keep


@given(st.integers(0, 10**6))
def test_nearest_known_matches_brute_force(seed: int) -> None:
    _, keep = random_case(seed)
    rows, columns = nearest_known(keep)
    assert keep[rows, columns].all()
    at = np.argwhere(np.ones_like(keep))
    nearest = ((at[:, None] - np.argwhere(keep)) ** 2).sum(axis=2).min(axis=1)
    taken = (at[:, 0] - rows.ravel()) ** 2 + (at[:, 1] - columns.ravel()) ** 2
    assert np.array_equal(taken, nearest)


def dense_harmonic(image: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Solve densely: each unknown pixel is the mean of its neighbours in the frame."""
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
def test_harmonic_inpaint_solves_laplace(seed: int) -> None:
    image, keep = random_case(seed)
    exact = dense_harmonic(image, keep)
    assert np.abs(harmonic_inpaint(image, keep) - exact).max() <= 0.501  # rounded


def test_harmonic_inpaint_is_a_ramp_between_lines_and_level_at_the_frame() -> None:
    image, keep = np.full((5, 11, 3), 77, np.uint8), np.zeros((5, 11), bool)
    image[:, 1], image[:, 6], keep[:, [1, 6]] = 20, 120, True
    expected = [20, 20, 40, 60, 80, 100, 120, 120, 120, 120, 120]
    assert np.array_equal(harmonic_inpaint(image, keep)[..., 0], np.tile(np.uint8(expected), (5, 1)))


@ALL_BASELINES
@given(seed=st.integers(0, 10**6))
def test_baselines_keep_known_bytes_and_ignore_the_hole(inpaint, seed: int) -> None:  # type: ignore[no-untyped-def]
    image, keep = random_case(seed)
    inpainted = inpaint(image, keep)
    assert inpainted.dtype == np.uint8
    assert np.array_equal(inpainted[keep], image[keep])
    assert np.array_equal(inpainted, inpaint(image * keep[..., None], keep))
    low, high = image[keep].min(axis=0), image[keep].max(axis=0)
    assert (inpainted >= low).all() and (inpainted <= high).all()


@ALL_BASELINES
def test_baselines_name_wrong_arguments(inpaint) -> None:  # type: ignore[no-untyped-def]
    image = np.zeros((4, 5, 3), np.uint8)
    with pytest.raises(ValueError, match="keeps no pixel"):
        inpaint(image, np.zeros((4, 5), bool))
    with pytest.raises(ValueError, match=r"\(4, 5, 3\).*\(5, 4\)"):
        inpaint(image, np.ones((5, 4), bool))
    with pytest.raises(ValueError, match="float32"):
        inpaint(image.astype(np.float32), np.ones((4, 5), bool))
