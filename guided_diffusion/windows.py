"""The part of a picture that the model sees. The model works at a fixed size, pictures come in any size:
choose a window around the hole, cut it out at model size, paste the filled one back.

Masks are bool (H, W), True = known; pictures are uint8 (H, W, 3).
"""

from dataclasses import dataclass

import numpy as np

from guided_diffusion.images import resize
from guided_diffusion.masks import resize_mask


@dataclass(frozen=True)
class Window:
    """A rectangle of the picture (its pixels) and the shape in which the model sees it."""

    top: int
    left: int
    height: int
    width: int
    rows: int
    cols: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Where the window lies in the picture, as an index."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def choose_window(mask: np.ndarray, size: int, multiple: int) -> Window:
    """The window for a picture with this mask and a model of this training size.

    A picture of (size, size) is taken whole. Otherwise a square around the unknown pixels, with as much
    context as hole (its side is twice the hole's longer side, at least `size`, at most the picture's short
    side), seen as (size, size). A hole longer than the short side gets a rectangle as wide as the picture,
    seen with the short side at `size` and the long one at the nearest multiple of `multiple`.
    Every unknown pixel lies in the window. With none unknown the window is chosen as if all were.
    """
    height, width = mask.shape
    if (height, width) == (size, size):
        return Window(0, 0, size, size, size, size)
    top, bottom, left, right = hole_box(mask)
    short = min(height, width)
    longest = max(bottom - top, right - left)
    if longest <= short:
        high = wide = min(short, max(size, 2 * longest))
        rows = cols = size
    else:
        length = min(max(height, width), 2 * longest)
        shape = max(size, round(size * length / short / multiple) * multiple)
        high, wide, rows, cols = (length, short, shape, size)
        if width > height:
            high, wide, rows, cols = (short, length, size, shape)
    return Window(place(top, bottom, high, height), place(left, right, wide, width), high, wide, rows, cols)


def hole_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the unknown pixels, ends excluded; the whole mask's with none unknown."""
    rows, columns = np.flatnonzero(~mask.all(axis=1)), np.flatnonzero(~mask.all(axis=0))
    if rows.size == 0:
        return 0, mask.shape[0], 0, mask.shape[1]
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def place(start: int, stop: int, side: int, limit: int) -> int:
    """Where `side` pixels begin that are centred on start..stop and lie within 0..limit."""
    return min(max((start + stop - side) // 2, 0), limit - side)


def cut(picture: np.ndarray, mask: np.ndarray, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """The window at model shape: picture uint8 (rows, cols, 3) and mask bool (rows, cols).

    Known pixels of the result are averages of known pixels alone, unknown ones of unknown ones alone, so what
    lies in the hole cannot leak out of it. Without a change of size the bytes are the picture's own.
    """
    part, known = picture[window.slices], mask[window.slices]
    shape = (window.rows, window.cols)
    if known.shape == shape:
        return part.copy(), known.copy()
    small_known = resize_mask(known, shape)
    inside, outside = _average_within(part, known, shape), _average_within(part, ~known, shape)
    return np.where(small_known[..., None], inside, outside), small_known


def _average_within(picture: np.ndarray, member: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resizes by averaging over member pixels only; arbitrary where none is near."""
    # Kernels without negative weights: wherever a pixel's centre falls on a member, the weight is positive.
    kernel = "hamming" if shape[0] < member.shape[0] else "bilinear"
    weight = member[..., None].astype(np.float32)
    total = resize(picture * weight, shape, kernel)
    colour = total / np.maximum(resize(weight, shape, kernel), 1e-6)
    return np.rint(np.clip(colour, 0, 255)).astype(np.uint8)


def paste(
    picture: np.ndarray, mask: np.ndarray, window: Window, filled: np.ndarray, keep_known: bool = True
) -> np.ndarray:
    """The picture with its window filled, uint8 (H, W, 3); `filled` is uint8 (rows, cols, 3).

    Writes unknown pixels only: every other byte is the picture's own. With `keep_known` False the whole
    window is written, as the published RePaint does. Raises ValueError if `filled` has another shape.
    """
    if filled.shape != (window.rows, window.cols, 3):
        raise ValueError(f"filled has shape {filled.shape}, its window ({window.rows}, {window.cols}, 3)")
    result = picture.copy()
    large = resize(filled, (window.height, window.width))
    write = ~mask[window.slices] if keep_known else np.ones(large.shape[:2], dtype=bool)
    result[window.slices][write] = large[write]
    return result
