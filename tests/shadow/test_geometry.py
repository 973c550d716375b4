"""The surroundings that are used to remove a shadow, and distances to the shadow's edge."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion.shadow.relight import SIDE, find_surroundings, signed_distance


@given(
    size=st.tuples(st.integers(1, 700), st.integers(1, 700)),
    box=st.tuples(*[st.floats(0, 1)] * 4),
    reach=st.integers(1, 60),
)
def test_find_surroundings_holds_the_reach_and_lit_ground(
    size: tuple[int, int], box: tuple[float, float, float, float], reach: int
) -> None:
    (top, bottom), (left, right) = (
        sorted(min(int(part * side), side - 1) for part in box[axis::2]) for axis, side in enumerate(size)
    )
    shadow = np.zeros(size, bool)
    shadow[top : bottom + 1, left : right + 1] = True
    longest = max(bottom - top, right - left) + 1
    margin = max(reach, longest)
    for axis, (window, first, last) in enumerate(
        zip(find_surroundings(shadow, reach), (top, left), (bottom, right), strict=True)
    ):
        assert 0 <= window.start <= max(0, first - margin)
        assert size[axis] >= window.stop >= min(size[axis], last + 1 + margin)
        assert window.stop - window.start >= min(size[axis], SIDE)


# distances


def by_search(shadow: np.ndarray) -> np.ndarray:
    """Distance to the border between pixels, positive inside, by comparing all pixels."""
    at = np.argwhere(np.ones_like(shadow))
    apart = np.sqrt(((at[:, None] - at) ** 2).sum(axis=2))
    apart[shadow.ravel()[:, None] == shadow.ravel()] = np.inf
    return (np.where(shadow, 1, -1).ravel() * (apart.min(axis=1) - 0.5)).reshape(shadow.shape)


def test_signed_distance_equals_a_search_over_all_pixels() -> None:
    rows, columns = np.indices((36, 44))
    shadow = (np.hypot(rows - 12, columns - 14) < 9) | ((rows > 20) & (columns > 30))
    truth, measured = by_search(shadow), signed_distance(shadow, 100.0).numpy()
    assert np.abs(measured - truth).max() < 0.8  # near the edge its stairs are smoothed
    far = np.abs(truth) > 16
    assert far.any() and np.abs(measured - truth)[far].max() < 0.1
    assert (measured[np.abs(truth) > 1] * truth[np.abs(truth) > 1] > 0).all()


def test_signed_distance_of_a_slanted_edge_is_smoother_than_its_stairs() -> None:
    rows, columns = np.indices((40, 40))
    line = (columns - 0.37 * rows - 12.3) / np.hypot(1, 0.37)
    near = np.abs(line) < 3
    near[:4], near[-4:] = False, False
    off = [(d - line)[near].std() for d in (signed_distance(line > 0, 50.0).numpy(), by_search(line > 0))]
    assert off[0] < 0.75 * off[1]


def test_signed_distance_stays_within_reach() -> None:
    for mask, expected in ((np.ones((9, 9), bool), 7.0), (np.zeros((9, 9), bool), -7.0)):
        assert np.allclose(signed_distance(mask, 7.0), expected)
