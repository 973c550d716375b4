"""Which windows an image's holes get: each pixel is filled once, no coarser than need be, in few windows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guided_diffusion.images.masks import make_mask
from guided_diffusion.inpainting.connected_components import find_holes
from guided_diffusion.inpainting.window_plan import Part, each_hole, native, whole
from guided_diffusion.inpainting.windows import Window, choose_window
from tests.inpainting.test_windows import hole, masked_pictures

SIZES = st.sampled_from([(8, 4), (16, 8), (16, 16), (24, 8)])  # (size, multiple)


def filled_once(parts: list[Part], mask: np.ndarray) -> bool:
    times = np.zeros(mask.shape, dtype=int)
    for part in parts:
        times[part.window.slices] += part.own
    return bool((times == ~mask).all())


@settings(max_examples=200, deadline=None)
@given(masked_pictures(), SIZES)
def test_every_unknown_pixel_is_filled_once(
    case: tuple[np.ndarray, np.ndarray], shape: tuple[int, int]
) -> None:
    mask, (size, multiple) = case[1], shape
    parts = each_hole(mask, size, multiple)
    assert filled_once(parts, mask)
    assert len({part.window for part in parts}) == len(parts) <= len(find_holes(~mask).boxes)
    assert all(part.own.any() for part in parts)
    assert filled_once(whole(mask, size, multiple), mask)
    assert filled_once([native(part, mask.shape, size) for part in parts], mask)


@settings(max_examples=200, deadline=None)
@given(masked_pictures(), SIZES)
def test_one_window_at_model_size_is_taken_as_it_is(
    case: tuple[np.ndarray, np.ndarray], shape: tuple[int, int]
) -> None:
    mask, (size, multiple) = case[1], shape
    window = choose_window(mask, size, multiple)
    if min(mask.shape) >= size and window.height == window.width == size and not mask.all():
        assert [part.window for part in each_hole(mask, size, multiple)] == [window]


@settings(max_examples=60, deadline=None)
@given(masked_pictures(), SIZES)
def test_no_hole_is_seen_coarser_than_alone(
    case: tuple[np.ndarray, np.ndarray], shape: tuple[int, int]
) -> None:
    mask, (size, multiple) = case[1], shape
    holes, parts = find_holes(~mask), each_hole(mask, size, multiple)
    for number, box in enumerate(holes.boxes):
        [alone] = each_hole(hole(*mask.shape, *box), size, multiple)
        row, column, _ = holes.runs[np.flatnonzero(holes.of_run == number)[0]]
        [mine] = [part for part in parts if _owns(part, row, column)]
        assert scale(mine.window) <= scale(alone.window)


def _owns(part: Part, row: int, column: int) -> bool:
    down, across = part.window.slices
    inside = down.start <= row < down.stop and across.start <= column < across.stop
    return inside and bool(part.own[row - down.start, column - across.start])


def scale(window: Window) -> float:
    """Pixels of the image to one that the model sees."""
    return min(window.height, window.width) / min(window.rows, window.cols)


def count(mask: np.ndarray, size: int = 64) -> int:
    return len(each_hole(mask, size, 8))


def test_holes_by_hand() -> None:
    mask = hole(1536, 2048, 100, 120, 100, 130) & hole(1536, 2048, 90, 95, 100, 105)  # near each other
    mask &= hole(1536, 2048, 300, 640, 900, 1300)  # larger than the model
    mask &= hole(1536, 2048, 1530, 1536, 2040, 2048)  # in the corner
    assert [part.window for part in each_hole(mask, 64, 8)] == [
        Window(73, 83, 64, 64, 64, 64),
        Window(70, 700, 800, 800, 64, 64),
        Window(1472, 1984, 64, 64, 64, 64),
    ]


@pytest.mark.parametrize(
    ("make", "most"),
    [
        (lambda rng: make_mask("ev2li", (300, 400), rng), 1),
        (lambda rng: make_mask("nn2", (300, 400), rng), 1),
        (lambda rng: make_mask("thin", (64, 64), rng), 1),
        (lambda rng: rng.random((300, 400)) < 0.9, 90),  # specks: 48 x 48 of them to a window, and some more
        (lambda rng: np.ones((300, 400), dtype=bool), 0),
        (lambda rng: np.zeros((300, 400), dtype=bool), 1),
    ],
)
def test_masks_of_many_holes_get_few_windows(
    make: Callable[[np.random.Generator], np.ndarray], most: int
) -> None:
    mask = make(np.random.default_rng(0))
    assert count(mask) <= most and filled_once(each_hole(mask, 64, 8), mask)


def test_holes_at_the_ends_of_a_strip_do_not_share_one_long_window() -> None:
    mask = hole(64, 3000, 10, 50, 0, 40) & hole(64, 3000, 10, 50, 2960, 3000)
    assert {part.window for part in each_hole(mask, 64, 8)} == {
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
def test_a_picture_smaller_than_the_model_stands_in_its_middle(
    shape: tuple[int, int], expected: Window
) -> None:
    [part] = each_hole(np.zeros(shape, dtype=bool), 64, 8)
    assert part.window == expected and part.own.shape == shape and part.own.all()


@settings(max_examples=100, deadline=None)
@given(masked_pictures(), st.sampled_from([8, 16, 24]))
def test_a_native_window_is_seen_as_it_is_with_half_a_model_around(
    case: tuple[np.ndarray, np.ndarray], size: int
) -> None:
    mask = case[1]
    height, width = (max(side, size) for side in mask.shape)
    for part in each_hole(mask, size, 4):
        window = native(part, mask.shape, size).window
        assert not window.scaled and window.rows >= size <= window.cols
        rows, columns = (np.flatnonzero(part.own.any(axis=axis)) for axis in (1, 0))
        assert window.height == min(height, np.ptp(rows) + 1 + size)
        assert window.width == min(width, np.ptp(columns) + 1 + size)
