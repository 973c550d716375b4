"""Window plan: each pixel is inpainted once, no coarser than need be, in few windows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guided_diffusion.images.masks import make_mask
from guided_diffusion.inpainting.connected_components import find_holes
from guided_diffusion.inpainting.window_plan import (
    PlannedWindow,
    full_resolution_window,
    single_window,
    window_per_hole,
)
from guided_diffusion.inpainting.windows import Window, choose_window
from tests.helpers.masks import keep_around, masked_images

SIZES = st.sampled_from([(8, 4), (16, 8), (16, 16), (24, 8)])  # (size, multiple)


def inpainted_once(parts: list[PlannedWindow], mask: np.ndarray) -> bool:
    times = np.zeros(mask.shape, dtype=int)
    for part in parts:
        times[part.window.slices] += part.fill_mask
    return bool((times == ~mask).all())


@settings(max_examples=200, deadline=None)
@given(masked_images(), SIZES)
def test_window_plans_inpaint_each_unknown_pixel_once(
    case: tuple[np.ndarray, np.ndarray], shape: tuple[int, int]
) -> None:
    mask, (size, multiple) = case[1], shape
    parts = window_per_hole(~mask, size, multiple)
    assert inpainted_once(parts, mask)
    assert len({part.window for part in parts}) == len(parts) <= len(find_holes(~mask).boxes)
    assert all(part.fill_mask.any() for part in parts)
    assert inpainted_once(single_window(~mask, size, multiple), mask)
    assert inpainted_once([full_resolution_window(part, mask.shape, size) for part in parts], mask)


@settings(max_examples=200, deadline=None)
@given(masked_images(), SIZES)
def test_window_per_hole_keeps_a_single_window_at_model_size(
    case: tuple[np.ndarray, np.ndarray], shape: tuple[int, int]
) -> None:
    mask, (size, multiple) = case[1], shape
    window = choose_window(~mask, size, multiple)
    if min(mask.shape) >= size and window.height == window.width == size and not mask.all():
        assert [part.window for part in window_per_hole(~mask, size, multiple)] == [window]


@settings(max_examples=60, deadline=None)
@given(masked_images(), SIZES)
def test_window_per_hole_is_no_coarser_than_for_each_hole_alone(
    case: tuple[np.ndarray, np.ndarray], shape: tuple[int, int]
) -> None:
    mask, (size, multiple) = case[1], shape
    holes, parts = find_holes(~mask), window_per_hole(~mask, size, multiple)
    for number, box in enumerate(holes.boxes):
        [alone] = window_per_hole(~keep_around(*mask.shape, *box), size, multiple)
        row, column, _ = holes.runs[np.flatnonzero(holes.of_run == number)[0]]
        [shared] = [part for part in parts if _holds(part, row, column)]
        assert scale(shared.window) <= scale(alone.window)


def _holds(part: PlannedWindow, row: int, column: int) -> bool:
    down, across = part.window.slices
    inside = down.start <= row < down.stop and across.start <= column < across.stop
    return inside and bool(part.fill_mask[row - down.start, column - across.start])


def scale(window: Window) -> float:
    """Compute image pixels per model pixel."""
    return min(window.height, window.width) / min(window.rows, window.cols)


def count(mask: np.ndarray, size: int = 64) -> int:
    return len(window_per_hole(~mask, size, 8))


def test_window_per_hole_by_hand() -> None:
    mask = keep_around(1536, 2048, 100, 120, 100, 130) & keep_around(
        1536, 2048, 90, 95, 100, 105
    )  # near each other
    mask &= keep_around(1536, 2048, 300, 640, 900, 1300)  # larger than the model
    mask &= keep_around(1536, 2048, 1530, 1536, 2040, 2048)  # in the corner
    assert [part.window for part in window_per_hole(~mask, 64, 8)] == [
        Window(73, 83, 64, 64, 64, 64),
        Window(70, 700, 800, 800, 64, 64),
        Window(1472, 1984, 64, 64, 64, 64),
    ]


@pytest.mark.parametrize(
    ("make", "maximum"),
    [
        (lambda rng: make_mask("ev2li", (300, 400), rng), 1),
        (lambda rng: make_mask("nn2", (300, 400), rng), 1),
        (lambda rng: make_mask("thin", (64, 64), rng), 1),
        (lambda rng: rng.random((300, 400)) < 0.9, 90),  # specks: 48 x 48 of them to a window, and some more
        (lambda rng: np.ones((300, 400), dtype=bool), 0),
        (lambda rng: np.zeros((300, 400), dtype=bool), 1),
    ],
)
def test_window_per_hole_shares_windows(
    make: Callable[[np.random.Generator], np.ndarray], maximum: int
) -> None:
    mask = make(np.random.default_rng(0))
    assert count(mask) <= maximum and inpainted_once(window_per_hole(~mask, 64, 8), mask)


def test_window_per_hole_separates_the_ends_of_a_strip() -> None:
    mask = keep_around(64, 3000, 10, 50, 0, 40) & keep_around(64, 3000, 10, 50, 2960, 3000)
    assert {part.window for part in window_per_hole(~mask, 64, 8)} == {
        Window(0, 0, 64, 64, 64, 64),
        Window(0, 2936, 64, 64, 64, 64),
    }


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((20, 30), Window(-22, -17, 64, 64, 64, 64)),
        ((1, 64), Window(-31, 0, 64, 64, 64, 64)),
        ((40, 300), Window(-12, 0, 64, 300, 64, 304)),  # 300 at multiples of 8
    ],
)
def test_window_per_hole_centres_small_images(shape: tuple[int, int], expected: Window) -> None:
    [part] = window_per_hole(np.ones(shape, dtype=bool), 64, 8)
    assert part.window == expected and part.fill_mask.shape == shape and part.fill_mask.all()


@settings(max_examples=100, deadline=None)
@given(masked_images(), st.sampled_from([8, 16, 24]))
def test_full_resolution_window_adds_half_a_model_size(
    case: tuple[np.ndarray, np.ndarray], size: int
) -> None:
    mask = case[1]
    height, width = (max(side, size) for side in mask.shape)
    for part in window_per_hole(~mask, size, 4):
        window = full_resolution_window(part, mask.shape, size).window
        assert not window.scaled and window.rows >= size <= window.cols
        rows, columns = (np.flatnonzero(part.fill_mask.any(axis=axis)) for axis in (1, 0))
        assert window.height == min(height, np.ptp(rows) + 1 + size)
        assert window.width == min(width, np.ptp(columns) + 1 + size)
