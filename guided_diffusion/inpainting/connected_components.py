"""Holes: the connected parts of what is unknown, found row by row, and which of them one window serves.

Labelling: rows are cut into runs of unknown pixels; runs that touch are joined by hooking and pointer jumping
(Shiloach & Vishkin 1982, "An O(log n) parallel connectivity algorithm"), so that all of it is numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Holes:
    """Holes of a mask, in the order of their first pixels.

    boxes: int (N, 4), top, bottom, left, right, ends excluded; runs: int (R, 3), row, start, stop of unknown
    pixels; of_run: int (R,), the hole to which each run belongs.
    """

    boxes: np.ndarray
    runs: np.ndarray
    of_run: np.ndarray

    def masks(self, group: np.ndarray, frames: np.ndarray) -> list[np.ndarray]:
        """Draw each group of holes, bool (height, width): its own pixels, as far as they lie in its frame.

        group: int (N,), from 0 without a gap; frames: int (G, 4), as the boxes.
        """
        of_run = group[self.of_run]
        frame, row = frames[of_run], self.runs[:, 0]
        start, stop = (np.clip(self.runs[:, i], frame[:, 2], frame[:, 3]) - frame[:, 2] for i in (1, 2))
        within = np.flatnonzero((row >= frame[:, 0]) & (row < frame[:, 1]) & (start < stop))
        within = within[np.argsort(of_run[within], kind="stable")]
        spans = np.stack([row - frame[:, 0], start, stop])[:, within]
        ends = np.searchsorted(of_run[within], np.arange(1, len(frames)))
        masks = []
        for (top, bottom, left, right), (at, first, end) in zip(
            frames, np.split(spans, ends, axis=1), strict=True
        ):
            change = np.zeros((bottom - top, right - left + 1), dtype=np.int8)
            change[at, first], change[at, end] = 1, -1  # no run begins where another ends
            masks.append(np.cumsum(change[:, :-1], axis=1, dtype=np.int8).astype(bool))
        return masks


def find_holes(unknown: np.ndarray) -> Holes:
    """The 8-connected parts of `unknown`, bool (H, W)."""
    runs = _runs(unknown)
    root = _roots(len(runs), *_touching(runs, unknown.shape[1]))
    _, of_run = np.unique(root, return_inverse=True)  # a root is its hole's first run
    of_run = of_run.reshape(-1)
    return Holes(joint_boxes(runs[:, [0, 0, 1, 2]] + np.array([0, 1, 0, 0]), of_run), runs, of_run)


def joint_boxes(boxes: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Boxes int (G, 4) around the boxes int (N, 4) of each group; group: int (N,), from 0 without a gap."""
    joint = np.zeros((int(group.max(initial=-1)) + 1, 4), dtype=np.int64)
    joint[:, 0::2] = np.iinfo(np.int64).max
    for side, join in enumerate((np.minimum, np.maximum, np.minimum, np.maximum)):
        join.at(joint[:, side], group, boxes[:, side])
    return joint


def _runs(unknown: np.ndarray) -> np.ndarray:
    """Row, start and stop of each run of True, int (R, 3), in reading order."""
    wide = np.zeros((unknown.shape[0], unknown.shape[1] + 2), dtype=bool)
    wide[:, 1:-1] = unknown
    rows, columns = np.nonzero(wide[:, 1:] != wide[:, :-1])
    return np.stack([rows[::2], columns[::2], columns[1::2]], axis=1)


def _touching(runs: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Find pairs of runs in neighbouring rows that share a column or lie corner to corner."""
    row, start, stop = runs.T
    pitch = width + 2
    first = np.searchsorted(row * pitch + stop, (row - 1) * pitch + start)  # those before end too far left
    last = np.searchsorted(row * pitch + start, (row - 1) * pitch + stop, "right")
    count = np.maximum(last - first, 0)
    below = np.repeat(np.arange(len(runs)), count)
    above = np.arange(len(below)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    return above, below


def _roots(number: int, above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Find, for each run, the first run that it is connected with."""
    root = np.arange(number)
    while True:
        a, b = root[above], root[below]
        apart = a != b
        if not apart.any():
            return root
        above, below = above[apart], below[apart]
        high, low = np.maximum(a, b)[apart], np.minimum(a, b)[apart]
        np.minimum.at(root, high, low)
        while not np.array_equal(jumped := root[root], root):
            root = jumped
