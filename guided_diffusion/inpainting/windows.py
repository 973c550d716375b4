"""Crop windows. The model works at a fixed size, images come in any size: choose windows around the holes,
cut them out at model size, paste the inpainted ones back.

Images are uint8 (H, W, 3); `hole` is bool (H, W), True = unknown, `keep` is True = known.
"""

from dataclasses import dataclass

import numpy as np

from guided_diffusion.images.formats import resize
from guided_diffusion.images.masks import HoleMask, bounding_box, resize_mask


@dataclass(frozen=True)
class Window:
    """A rectangle of the image (its pixels) and the shape in which the model sees it.

    It reaches beyond an image that is smaller than it; there the image is mirrored.
    """

    top: int
    left: int
    height: int
    width: int
    rows: int
    cols: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """The part of the window that lies in the image, as an index."""
        down, right = slice(max(self.top, 0), self.top + self.height), self.left + self.width
        return down, slice(max(self.left, 0), right)

    def within(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Clip the window to an image of this shape: (top, bottom, left, right), ends excluded."""
        down, across = self.slices
        return down.start, min(down.stop, height), across.start, min(across.stop, width)

    @property
    def inner(self) -> tuple[slice, slice]:
        """The part of the window from which on it shows the image, as an index."""
        return slice(max(-self.top, 0), None), slice(max(-self.left, 0), None)

    @property
    def scaled(self) -> bool:
        """True if the model sees it smaller or larger than it is."""
        return (self.height, self.width) != (self.rows, self.cols)


def choose_window(hole: HoleMask, size: int, multiple: int) -> Window:
    """Choose one window that holds all of the hole, for a model of this training size; see `around`.

    An empty hole counts as the whole image.
    """
    box = bounding_box(hole)
    return around(box, max(box[1] - box[0], box[3] - box[2]), hole.shape, size, multiple)


def around(
    box: tuple[int, int, int, int], longest: int, shape: tuple[int, ...], size: int, multiple: int
) -> Window:
    """Choose the window for holes in `box` (top, bottom, left, right), the longest being `longest` pixels.

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
    return Window(centre(top, bottom, high, height), centre(left, right, wide, width), high, wide, rows, cols)


def sides(
    boxes: np.ndarray, longest: np.ndarray, shape: tuple[int, ...], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the short and long side of the windows around boxes int (..., 4) with longest holes int (...).

    Twice the longest hole, for as much context as hole (docs/reports/sizes.md), and four thirds of the box,
    for an eighth of the window beyond the outermost holes; at least `size`, at most what the image has. The
    short side is seen as `size` pixels, so it gives the scale.
    """
    short, long = min(shape[:2]), max(shape[:2])
    extent = np.maximum(boxes[..., 1] - boxes[..., 0], boxes[..., 3] - boxes[..., 2])
    wanted = np.maximum(2 * longest, -(-4 * extent // 3))
    square = np.minimum(short, np.maximum(size, wanted))
    fits = extent <= short
    return np.where(fits, square, short), np.where(fits, square, np.minimum(long, wanted))


def centre(start: int, stop: int, side: int, limit: int) -> int:
    """Find where `side` pixels begin that are centred on start..stop and lie within 0..limit."""
    return min(max((start + stop - side) // 2, 0), limit - side)


def cut(image: np.ndarray, keep: np.ndarray, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Cut out the window at model shape: image uint8 (rows, cols, 3) and mask bool (rows, cols).

    Known pixels of the result are averages of known pixels alone, unknown ones of unknown ones alone, so what
    lies in the hole cannot leak out of it. Without a change of size the bytes are the image's, or, beyond its
    frame, their mirror image: known where the mirrored pixels are known.
    """
    part, known = _part(image, window), _part(keep, window)
    shape = (window.rows, window.cols)
    if not window.scaled:
        return part.copy(), known.copy()
    small_known = resize_mask(known, shape)
    inside, outside = _average_within(part, known, shape), _average_within(part, ~known, shape)
    return np.where(small_known[..., None], inside, outside), small_known


def _part(array: np.ndarray, window: Window) -> np.ndarray:
    """Index the window of an image or mask (H, W, ...); a numpy view where it lies within."""
    part = array[window.slices]
    if part.shape[:2] == (window.height, window.width):
        return part
    rows = _mirrored(window.top, window.height, array.shape[0])
    columns = _mirrored(window.left, window.width, array.shape[1])
    return array[rows[:, None], columns]


def _mirrored(start: int, number: int, length: int) -> np.ndarray:
    """Map positions start, start + 1, ... to a line of `length` pixels that continues as its mirror image."""
    at = np.arange(start, start + number) % (2 * length)
    return np.minimum(at, 2 * length - 1 - at)


def _average_within(image: np.ndarray, member: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize by averaging over member pixels only; arbitrary where none is near."""
    # Kernels without negative weights: wherever a pixel's centre falls on a member, the weight is positive.
    kernel = "hamming" if shape[0] < member.shape[0] else "bilinear"
    weight = member.astype(np.float32)
    share = np.maximum(resize(weight, shape, kernel), 1e-6)
    planes = [resize(image[..., c] * weight, shape, kernel) / share for c in range(3)]  # one at a time
    return np.rint(np.clip(np.stack(planes, axis=2), 0, 255)).astype(np.uint8)


def paste(image: np.ndarray, window: Window, pixels: np.ndarray, write: np.ndarray) -> None:
    """Paste `pixels`, uint8 (rows, cols, 3), into their window of the image, uint8 (H, W, 3), in place.

    write: bool, shaped like the part of the window that lies within the image; every other byte stays.
    Raises ValueError if `pixels` has another shape.
    """
    if pixels.shape != (window.rows, window.cols, 3):
        raise ValueError(f"pixels has shape {pixels.shape}, its window ({window.rows}, {window.cols}, 3)")
    large = resize(pixels, (window.height, window.width)) if window.scaled else pixels
    height, width = write.shape
    image[window.slices][write] = large[window.inner][:height, :width][write]
