"""Holes: labels against a flood fill, boxes and masks against the labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guided_diffusion.inpainting.connected_components import find_holes, joint_boxes


def flooded(unknown: np.ndarray) -> np.ndarray:
    """Labels from 0 in reading order, -1 where known; by flooding one hole after the other."""
    labels, number = np.full(unknown.shape, -1), 0
    for start in np.argwhere(unknown):
        if labels[tuple(start)] >= 0:
            continue
        waiting = [tuple(start)]
        while waiting:
            row, column = waiting.pop()
            labels[row, column] = number
            beside = slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2)
            fresh = np.argwhere(unknown[beside] & (labels[beside] < 0))
            waiting += [(row - (row > 0) + i, column - (column > 0) + j) for i, j in fresh]
        number += 1
    return labels


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.02, 0.2, 0.4, 0.6, 1]))
def test_find_holes_agrees_with_a_flood_fill(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    unknown = rng.random(rng.integers(1, 20, 2)) < share
    holes, labels = find_holes(unknown), flooded(unknown)
    assert len(holes.boxes) == labels.max(initial=-1) + 1
    actual = np.full(unknown.shape, -1)
    for (row, start, stop), hole in zip(holes.runs, holes.of_run, strict=True):
        assert (actual[row, start:stop] == -1).all()
        actual[row, start:stop] = hole
    np.testing.assert_array_equal(actual, labels)
    for number, (top, bottom, left, right) in enumerate(holes.boxes):
        rows, columns = np.nonzero(labels == number)
        assert (top, bottom - 1) == (rows.min(), rows.max())
        assert (left, right - 1) == (columns.min(), columns.max())


def test_find_holes_takes_a_spiral_for_one_hole() -> None:
    """Its ends are as many rows apart as can be: labels have to travel all the way."""
    unknown = np.zeros((61, 61), dtype=bool)
    for k in range(0, 30, 2):
        unknown[k, max(k - 2, 0) : 61 - k] = unknown[k : 61 - k, 60 - k] = unknown[60 - k, k : 61 - k] = True
        unknown[k + 2 : 61 - k, k] = True
    assert flooded(unknown).max() == 0
    assert len(find_holes(unknown).boxes) == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_masks_of_groups_hold_their_pixels_within_their_frames(seed: int) -> None:
    rng = np.random.default_rng(seed)
    unknown = rng.random((17, 23)) < 0.3
    holes, labels = find_holes(unknown), flooded(unknown)
    group = rng.permutation(np.arange(len(holes.boxes)) % 3)
    if len(holes.boxes) < 3:
        return
    frames = np.array([[0, 17, 0, 23], [3, 9, 5, 21], [16, 17, 0, 1]])
    of_pixel = np.append(group, -1)[labels]  # label -1 takes the last
    for number, (mask, box) in enumerate(zip(holes.masks(group, frames), frames, strict=True)):
        top, bottom, left, right = box
        np.testing.assert_array_equal(mask, (of_pixel == number)[top:bottom, left:right])
    joint = joint_boxes(holes.boxes, group)
    for number in range(3):
        rows, columns = np.nonzero(of_pixel == number)
        assert joint[number].tolist() == [rows.min(), rows.max() + 1, columns.min(), columns.max() + 1]


@pytest.mark.parametrize("shape", [(1, 1), (3, 0), (5, 4)])
def test_find_holes_without_unknown_pixels(shape: tuple[int, int]) -> None:
    holes = find_holes(np.zeros(shape, dtype=bool))
    assert holes.boxes.shape == (0, 4) and len(holes.runs) == 0
