"""Cover: the windows through which an image's holes are filled, one for all of them or one for each.

Holes so near to each other that one window serves them at no coarser scale are filled together. An image
smaller than the model is taken for one of the model's size, mirrored around its frame, where nothing is
asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from guided_diffusion.inpainting.connected_components import find_holes, joint_boxes
from guided_diffusion.inpainting.windows import Window, around, choose_window, hole_box, place, sides


@dataclass(frozen=True)
class Part:
    """A window, and what is filled through it: `own`, bool, shaped like `window.slices` of the image."""

    window: Window
    own: np.ndarray


def whole(mask: np.ndarray, size: int, multiple: int) -> list[Part]:
    """One window for all that is unknown of a mask bool (H, W), True = known."""
    window = choose_window(mask, size, multiple)
    return [Part(window, ~mask[window.slices])]


def each_hole(mask: np.ndarray, size: int, multiple: int) -> list[Part]:
    """A window for each hole, or for holes near to each other, in the order of their first pixels.

    If one window at the model's own scale holds all that is unknown, it is the one of `whole`.
    """
    if mask.all():
        return []
    frame, shift = _frame(mask.shape, size)
    holes = find_holes(~mask)
    boxes = holes.boxes + np.array(shift)
    longest = np.maximum(boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2])
    group = _gathered(boxes, longest, frame, size)
    joint, most = joint_boxes(boxes, group), _longest(longest, group)
    number: dict[Window, int] = {}  # two groups in an image's corner may come to the same window
    same = []
    for box, long in zip(joint.tolist(), most.tolist(), strict=True):
        window = around(tuple(box), long, frame, size, multiple)
        window = replace(window, top=window.top - shift[0], left=window.left - shift[2])
        same.append(number.setdefault(window, len(number)))
    inside = [window.within(*mask.shape) for window in number]
    owns = holes.masks(np.array(same, dtype=np.int64)[group], np.array(inside))
    return [Part(window, own) for window, own in zip(number, owns, strict=True)]


def native(part: Part, shape: tuple[int, ...], size: int) -> Part:
    """The same holes in a window of at least `size` pixels a side that the model sees as it is.

    It reaches half the model's size beyond them, as far as the image, of this shape, goes.
    """
    frame, shift = _frame(shape, size)
    own = np.zeros(shape[:2], dtype=bool)
    own[part.window.slices] = part.own
    top, bottom, left, right = (at + by for at, by in zip(hole_box(~own), shift, strict=True))
    height, width = min(frame[0], bottom - top + size), min(frame[1], right - left + size)
    down, across = place(top, bottom, height, frame[0]), place(left, right, width, frame[1])
    window = Window(down - shift[0], across - shift[2], height, width, height, width)
    return Part(window, own[window.slices].copy())


def _frame(shape: tuple[int, ...], size: int) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """Shape of the image once it is no smaller than the model, and what that adds to its boxes."""
    height, width = (max(side, size) for side in shape[:2])
    down, right = (height - shape[0]) // 2, (width - shape[1]) // 2
    return (height, width), (down, down, right, right)


def _gathered(boxes: np.ndarray, longest: np.ndarray, shape: tuple[int, int], size: int) -> np.ndarray:
    """The group of each hole, int (N,), from 0 without a gap, in the order of their first holes.

    A hole joins the first group with which one window would be no coarser than either's own and no longer.
    """
    together = np.zeros(len(boxes), dtype=np.int64)
    if max(sides(joint_boxes(boxes, together)[0], longest.max(), shape, size)) == size:
        return together
    specks = _in_cells(boxes, max(1, 3 * size // 8))  # so small a cell that one window serves what is in it
    boxes, longest = joint_boxes(boxes, specks), _longest(longest, specks)
    told = np.column_stack([boxes, longest, *sides(boxes, longest, shape, size)])
    group, count = np.zeros(len(told), dtype=np.int64), 0
    for i in range(len(told)):  # the first `count` rows are those of the groups
        one, groups = told[i].copy(), told[:count]
        rows = np.maximum(groups[:, 1], one[1]) - np.minimum(groups[:, 0], one[0])
        near = np.flatnonzero(rows <= np.maximum(groups[:, 6], one[6]))
        both = np.where(_LOW, np.minimum(told[near], one), np.maximum(told[near], one))
        scale, length = sides(both[:, :4], both[:, 4], shape, size)
        serves = np.flatnonzero((scale <= np.minimum(told[near, 5], one[5])) & (length <= both[:, 6]))
        at = near[serves[0]] if len(serves) else count
        if at < count:
            one[:5], one[5], one[6] = both[serves[0], :5], scale[serves[0]], length[serves[0]]
        told[at], group[i], count = one, at, max(count, at + 1)
    return group[specks]


_LOW = np.array([True, False, True, False, False, False, False])  # top and left: the lesser of two is of both


def _longest(longest: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The longest of each group."""
    most = np.zeros(int(group.max(initial=-1)) + 1, dtype=np.int64)
    np.maximum.at(most, group, longest)
    return most


def _in_cells(boxes: np.ndarray, side: int) -> np.ndarray:
    """A group for each box, int (N,), in the order of their first ones: those within one cell share it."""
    low, high = boxes[:, 0::2] // side, (boxes[:, 1::2] - 1) // side
    cell = low[:, 0] * (int(high.max()) + 1) + low[:, 1]
    alone = (low != high).any(axis=1)
    cell[alone] = -1 - np.flatnonzero(alone)
    _, first, group = np.unique(cell, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[group.reshape(-1)]
