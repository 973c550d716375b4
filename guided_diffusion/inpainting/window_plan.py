"""Window plan: the crop windows through which an image's holes are inpainted, one for all or one for each.

Holes so near to each other that one window serves them at no coarser scale share it. An image smaller than
the model is treated as one of the model's size, mirrored around its frame, without holes there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from guided_diffusion.images.masks import HoleMask, bounding_box
from guided_diffusion.inpainting.connected_components import find_holes, joint_boxes
from guided_diffusion.inpainting.windows import Window, around, centre, choose_window, sides


@dataclass(frozen=True)
class PlannedWindow:
    """A window, and the pixels that are inpainted through it."""

    window: Window
    fill_mask: np.ndarray
    """bool, shaped like `window.slices` of the image."""


def single_window(hole: HoleMask, size: int, multiple: int) -> list[PlannedWindow]:
    """Plan one window for all of a hole, bool (H, W), True = unknown."""
    window = choose_window(hole, size, multiple)
    return [PlannedWindow(window, hole[window.slices])]


def window_per_hole(hole: HoleMask, size: int, multiple: int) -> list[PlannedWindow]:
    """Plan a window for each connected hole, or for holes near to each other, in the order of first pixels.

    If one window at the model's own scale holds everything unknown, it is that of `single_window`.
    """
    if not hole.any():
        return []
    frame, shift = _frame(hole.shape, size)
    holes = find_holes(hole)
    boxes = holes.boxes + np.array(shift)
    longest = np.maximum(boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2])
    group = _group(boxes, longest, frame, size)
    numbers: dict[Window, int] = {}  # two groups in an image's corner may come to the same window
    window_of_group = []
    joint, group_longest = joint_boxes(boxes, group), _maximum_by_group(longest, group)
    for box, length in zip(joint.tolist(), group_longest.tolist(), strict=True):
        window = around(tuple(box), length, frame, size, multiple)
        window = replace(window, top=window.top - shift[0], left=window.left - shift[2])
        window_of_group.append(numbers.setdefault(window, len(numbers)))
    clipped = [window.within(*hole.shape) for window in numbers]
    masks = holes.masks(np.array(window_of_group, dtype=np.int64)[group], np.array(clipped))
    return [PlannedWindow(window, mask) for window, mask in zip(numbers, masks, strict=True)]


def full_resolution_window(part: PlannedWindow, shape: tuple[int, ...], size: int) -> PlannedWindow:
    """Plan a window of at least `size` pixels a side for the same holes, without a change of scale.

    It reaches half the model's size beyond them, as far as the image, of this shape, goes.
    """
    frame, shift = _frame(shape, size)
    hole = HoleMask(np.zeros(shape[:2], dtype=bool))
    hole[part.window.slices] = part.fill_mask
    top, bottom, left, right = (at + by for at, by in zip(bounding_box(hole), shift, strict=True))
    height, width = min(frame[0], bottom - top + size), min(frame[1], right - left + size)
    down, across = centre(top, bottom, height, frame[0]), centre(left, right, width, frame[1])
    window = Window(down - shift[0], across - shift[2], height, width, height, width)
    return PlannedWindow(window, hole[window.slices].copy())


def _frame(shape: tuple[int, ...], size: int) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """Shape of the image once it is no smaller than the model, and the shift that this adds to its boxes."""
    height, width = (max(side, size) for side in shape[:2])
    down, right = (height - shape[0]) // 2, (width - shape[1]) // 2
    return (height, width), (down, down, right, right)


@dataclass
class _Groups:
    """Groups of holes, a row each: box (top, bottom, left, right), longest hole, scale, window length."""

    boxes: np.ndarray
    longest: np.ndarray
    scale: np.ndarray
    length: np.ndarray

    def merged_with(self, rows: np.ndarray, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Merge group i with each of `rows`: boxes, longest holes, and the longer of their windows."""
        boxes = np.minimum(self.boxes[rows], self.boxes[i])
        boxes[:, 1::2] = np.maximum(self.boxes[rows, 1::2], self.boxes[i, 1::2])
        longest = np.maximum(self.longest[rows], self.longest[i])
        return boxes, longest, np.maximum(self.length[rows], self.length[i])

    def near(self, count: int, i: int) -> np.ndarray:
        """Which of the first `count` groups lie within a window's length of group i, by rows."""
        boxes = self.boxes[:count]
        rows = np.maximum(boxes[:, 1], self.boxes[i, 1]) - np.minimum(boxes[:, 0], self.boxes[i, 0])
        return np.flatnonzero(rows <= np.maximum(self.length[:count], self.length[i]))

    def move(self, i: int, to: int) -> None:
        """Write row i over row `to`."""
        for rows in (self.boxes, self.longest, self.scale, self.length):
            rows[to] = rows[i]


def _group(boxes: np.ndarray, longest: np.ndarray, shape: tuple[int, int], size: int) -> np.ndarray:
    """Assign a group to each hole, int (N,), from 0 without a gap, in the order of their first holes.

    A hole joins the first group with which one window would be no coarser than either's own and no longer.
    """
    together = np.zeros(len(boxes), dtype=np.int64)
    if max(sides(joint_boxes(boxes, together)[0], longest.max(), shape, size)) == size:
        return together
    # A window serves boxes of up to 3/4 of its side at full resolution (`sides`). A cell is half of that: one
    # window serves all holes within it, and may still be joined with those of its neighbours.
    cells = _in_cells(boxes, max(1, 3 * size // 8))
    boxes, longest = joint_boxes(boxes, cells), _maximum_by_group(longest, cells)
    groups = _Groups(boxes, longest, *sides(boxes, longest, shape, size))
    group, count = np.zeros(len(boxes), dtype=np.int64), 0
    for i in range(len(boxes)):  # the first `count` rows are those of the groups
        near = groups.near(count, i)
        joint, longest_of_both, length_of_both = groups.merged_with(near, i)
        scale, length = sides(joint, longest_of_both, shape, size)
        finest = np.minimum(groups.scale[near], groups.scale[i])
        fits = np.flatnonzero((scale <= finest) & (length <= length_of_both))
        to = near[fits[0]] if len(fits) else count
        if to < count:
            groups.boxes[i], groups.longest[i] = joint[fits[0]], longest_of_both[fits[0]]
            groups.scale[i], groups.length[i] = scale[fits[0]], length[fits[0]]
        groups.move(i, to)
        group[i], count = to, max(count, to + 1)
    return group[cells]


def _maximum_by_group(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The maximum of each group."""
    maximum = np.zeros(int(group.max(initial=-1)) + 1, dtype=np.int64)
    np.maximum.at(maximum, group, values)
    return maximum


def _in_cells(boxes: np.ndarray, side: int) -> np.ndarray:
    """Group boxes that lie within one cell of a grid: int (N,), in the order of their first boxes."""
    low, high = boxes[:, 0::2] // side, (boxes[:, 1::2] - 1) // side
    cell = low[:, 0] * (int(high.max()) + 1) + low[:, 1]
    alone = (low != high).any(axis=1)
    cell[alone] = -1 - np.flatnonzero(alone)
    _, first, group = np.unique(cell, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[group.reshape(-1)]
