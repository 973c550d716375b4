"""The parts of an image that the model sees. The model works at a fixed size, images come in any size:
choose windows around the holes, cut them out at model size, paste the filled ones back.

Masks are bool (H, W), True = known; images are uint8 (H, W, 3).
"""

from dataclasses import dataclass

import numpy as np

from guided_diffusion.images.formats import resize
from guided_diffusion.images.masks import resize_mask


@dataclass(frozen=True)
class Window:
    """A rectangle of the image (its pixels) and the shape in which the model sees it.

    It reaches beyond an image that is smaller than it: what lies there is the image mirrored.
    """

    top: int
    left: int
    height: int
    width: int
    rows: int
    cols: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Where the window lies in the image, as an index."""
        down, right = slice(max(self.top, 0), self.top + self.height), self.left + self.width
        return down, slice(max(self.left, 0), right)

    def within(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(top, bottom, left, right), ends excluded, of what of it lies in an image of this shape."""
        down, across = self.slices
        return down.start, min(down.stop, height), across.start, min(across.stop, width)

    @property
    def inner(self) -> tuple[slice, slice]:
        """Where in the window the image begins, as an index; it ends with the image."""
        return slice(max(-self.top, 0), None), slice(max(-self.left, 0), None)

    @property
    def scaled(self) -> bool:
        """Whether the model sees it smaller or larger than it is."""
        return (self.height, self.width) != (self.rows, self.cols)


def choose_window(mask: np.ndarray, size: int, multiple: int) -> Window:
    """One window for an image with this mask and a model of this training size; see `around`.

    Every unknown pixel lies in it. With none unknown it is chosen as if all were.
    """
    box = hole_box(mask)
    return around(box, max(box[1] - box[0], box[3] - box[2]), mask.shape, size, multiple)


def around(
    box: tuple[int, int, int, int], longest: int, shape: tuple[int, ...], size: int, multiple: int
) -> Window:
    """The window for holes within `box` (top, bottom, left, right), the longest of them `longest` pixels.

    An image of shape (size, size) is taken whole. Otherwise a square around the box with as much context as
    hole (see `sides`), seen as (size, size). A box longer than the short side gets a rectangle as wide as the
    image, seen with the short side at `size` and the long one at the nearest multiple of `multiple`.
    """
    height, width = shape[:2]
    if (height, width) == (size, size):
        return Window(0, 0, size, size, size, size)
    top, bottom, left, right = box
    high = wide = short = min(height, width)
    rows = cols = size
    across, along = (int(side) for side in sides(np.array(box), np.array(longest), shape, size))
    if max(bottom - top, right - left) <= short:
        high = wide = across
    else:
        seen = max(size, round(size * along / short / multiple) * multiple)
        high, rows = (along, seen) if height > width else (short, size)
        wide, cols = (along, seen) if height < width else (short, size)
    return Window(place(top, bottom, high, height), place(left, right, wide, width), high, wide, rows, cols)


def sides(
    boxes: np.ndarray, longest: np.ndarray, shape: tuple[int, ...], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Short and long side of the windows around boxes int (..., 4) whose longest holes are `longest`, (...).

    Twice the longest hole and four thirds of the box, at least `size`; at most what the image has. The
    short side is seen as `size` pixels, so it tells the scale.
    """
    short, long = min(shape[:2]), max(shape[:2])
    extent = np.maximum(boxes[..., 1] - boxes[..., 0], boxes[..., 3] - boxes[..., 2])
    wanted = np.maximum(2 * longest, -(-4 * extent // 3))
    square = np.minimum(short, np.maximum(size, wanted))
    fits = extent <= short
    return np.where(fits, square, short), np.where(fits, square, np.minimum(long, wanted))


def hole_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the unknown pixels, ends excluded; the whole mask's with none unknown."""
    rows, columns = np.flatnonzero(~mask.all(axis=1)), np.flatnonzero(~mask.all(axis=0))
    if rows.size == 0:
        return 0, mask.shape[0], 0, mask.shape[1]
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def place(start: int, stop: int, side: int, limit: int) -> int:
    """Where `side` pixels begin that are centred on start..stop and lie within 0..limit."""
    return min(max((start + stop - side) // 2, 0), limit - side)


def cut(image: np.ndarray, mask: np.ndarray, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """The window at model shape: image uint8 (rows, cols, 3) and mask bool (rows, cols).

    Known pixels of the result are averages of known pixels alone, unknown ones of unknown ones alone, so what
    lies in the hole cannot leak out of it. Without a change of size the bytes are the image's own, or,
    beyond its frame, their mirror image: known where what they mirror is known.
    """
    part, known = _part(image, window), _part(mask, window)
    shape = (window.rows, window.cols)
    if not window.scaled:
        return part.copy(), known.copy()
    small_known = resize_mask(known, shape)
    inside, outside = _average_within(part, known, shape), _average_within(part, ~known, shape)
    return np.where(small_known[..., None], inside, outside), small_known


def _part(array: np.ndarray, window: Window) -> np.ndarray:
    """The window of an image or mask (H, W, ...); a view where it lies within."""
    part = array[window.slices]
    if part.shape[:2] == (window.height, window.width):
        return part
    rows = _mirrored(window.top, window.height, array.shape[0])
    columns = _mirrored(window.left, window.width, array.shape[1])
    return array[rows[:, None], columns]


def _mirrored(start: int, number: int, length: int) -> np.ndarray:
    """Positions start, start + 1, ... in a line of `length` pixels that goes on as its mirror image."""
    at = np.arange(start, start + number) % (2 * length)
    return np.minimum(at, 2 * length - 1 - at)


def _average_within(image: np.ndarray, member: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resizes by averaging over member pixels only; arbitrary where none is near."""
    # Kernels without negative weights: wherever a pixel's centre falls on a member, the weight is positive.
    kernel = "hamming" if shape[0] < member.shape[0] else "bilinear"
    weight = member.astype(np.float32)
    share = np.maximum(resize(weight, shape, kernel), 1e-6)
    planes = [resize(image[..., c] * weight, shape, kernel) / share for c in range(3)]  # one at a time
    return np.rint(np.clip(np.stack(planes, axis=2), 0, 255)).astype(np.uint8)


def paste(image: np.ndarray, window: Window, filled: np.ndarray, write: np.ndarray) -> None:
    """Writes `filled`, uint8 (rows, cols, 3), into its window of the image, uint8 (H, W, 3), in place.

    write: bool, shaped like the part of the window that lies within the image; every other byte stays.
    Raises ValueError if `filled` has another shape.
    """
    if filled.shape != (window.rows, window.cols, 3):
        raise ValueError(f"filled has shape {filled.shape}, its window ({window.rows}, {window.cols}, 3)")
    large = resize(filled, (window.height, window.width)) if window.scaled else filled
    height, width = write.shape
    image[window.slices][write] = large[window.inner][:height, :width][write]
