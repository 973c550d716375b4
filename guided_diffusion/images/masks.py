"""Masks, bool (H, W): reading, resizing, growing, measuring and drawing.

Each convention has a type of its own. A mask is converted where it is read; the functions below that return
another type are the only other conversions.
"""

from collections.abc import Callable
from typing import NewType

import numpy as np
from PIL import Image

from guided_diffusion.images.files import AnyPath
from guided_diffusion.images.formats import from_pil, read_image

KeepMask = NewType("KeepMask", np.ndarray)
"""Bool (H, W): True = known, kept as it is; False = unknown, to be inpainted."""
HoleMask = NewType("HoleMask", np.ndarray)
"""Bool (H, W): True = unknown, to be inpainted."""
ShadowMask = NewType("ShadowMask", np.ndarray)
"""Bool (H, W): True = shadow."""

MAX_UNKNOWN = 0.7  # thick and thin masks leave at least the rest of the image known
_BLOCK = 2**15  # pixels that the distance transform holds at a time
_MIN_SIDE = 8  # below this, strokes can no longer promise both known and unknown pixels


def read_mask(path: AnyPath) -> np.ndarray:
    """Read the mask in an image file, bool (H, W): True where its luminance is 128 or more.

    Alpha is ignored. Whether True means keep or shadow, only the caller knows.

    Luminance is that of ITU-R BT.601's, rounded as Pillow's mode "L". Raises ImageError as read_image does.
    """
    return _bright(read_image(path))


def mask_from_pil(pil_image: Image.Image) -> np.ndarray:
    """Convert a Pillow image of any mode to the mask, bool (H, W), that `read_mask` would give."""
    return _bright(from_pil(pil_image))


def _bright(image: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(image.astype(np.uint32), 2, 0)
    luminance = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    return luminance >= 128


def to_keep(mask: np.ndarray, mask_is: str) -> KeepMask:
    """Convert a stored mask, bool (H, W), to what is kept; mask_is: the meaning of True, keep or shadow."""
    return KeepMask(mask if mask_is == "keep" else ~mask)


def to_hole(keep: KeepMask) -> HoleMask:
    """Return what is to be inpainted."""
    return HoleMask(~keep)


def to_shadow(keep: KeepMask) -> ShadowMask:
    """Return the shadow of a mask that keeps everything else."""
    return ShadowMask(~keep)


def keep_beyond(shadow: ShadowMask, reach: float) -> KeepMask:
    """Keep what lies farther than `reach` pixels from the shadow."""
    return KeepMask(~dilate(shadow, reach))


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a mask to `size` = (height, width), bool: each pixel takes the value at its centre."""
    rows, columns = (
        ((2 * np.arange(new) + 1) * old) // (2 * new) for old, new in zip(mask.shape, size, strict=True)
    )
    return np.asarray(mask, dtype=bool)[rows[:, None], columns[None, :]]


def dilate(mask: np.ndarray, radius: float) -> np.ndarray:
    """Grow the mask, bool (H, W), to all pixels within `radius` pixels of a True one (between centres)."""
    return _squared_to(mask, radius) <= int(radius**2)  # squared distances are whole numbers


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of the True pixels, ends excluded; of the whole frame with none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return 0, mask.shape[0], 0, mask.shape[1]
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def edge_distance(mask: np.ndarray, reach: float) -> np.ndarray:
    """Measure the distance from each pixel's centre to the nearest one across the mask's edge.

    Pixels, float64 (H, W), 1 at the edge; infinity beyond `reach`. Exact: squares are minimised down, then
    across (Felzenszwalb & Huttenlocher 2012, section 3).
    """
    mask = np.asarray(mask, dtype=bool)
    squared = np.where(mask, _squared_to(~mask, reach), _squared_to(mask, reach))
    return np.sqrt(np.where(squared <= reach**2, squared, np.inf), dtype=np.float64)


def _squared_to(member: np.ndarray, reach: float) -> np.ndarray:
    """Squared distance to the nearest member, float32 (H, W); right only within `reach`.

    Exact up to 4096 pixels. Across, it goes by blocks of rows that stay in the processor's cache.
    """
    rows, columns = member.shape
    down = np.full(member.shape, np.inf, np.float32)
    for order in (range(rows), range(rows - 1, -1, -1)):
        steps = np.full(columns, np.inf, np.float32)
        for row in order:
            steps = np.where(member[row], np.float32(0), steps + 1)
            down[row] = np.minimum(down[row], steps)
    down **= 2
    squared = down.copy()
    for top in range(0, rows, max(1, _BLOCK // columns)):
        near, best = (plane[top : top + max(1, _BLOCK // columns)] for plane in (down, squared))
        for dx in range(1, int(min(reach, columns - 1)) + 1):
            np.minimum(best[:, dx:], near[:, :-dx] + np.float32(dx**2), out=best[:, dx:])
            np.minimum(best[:, :-dx], near[:, dx:] + np.float32(dx**2), out=best[:, :-dx])
    return squared


def make_mask(kind: str, size: tuple[int, int], rng: np.random.Generator) -> KeepMask:
    """Draw a mask of one of the six kinds of RePaint (2022, section 5).

    * thick: broad strokes or boxes, random, after LaMa (2021); never all known or all unknown
    * thin: many narrow strokes, likewise
    * half: the left half is known
    * expand: the central quarter of each side is known
    * ev2li: every second line is known
    * nn2: every second pixel of every second line is known

    Raises ValueError for another kind, or a thick or thin mask with a side under 8 pixels.

    Args:
        kind: a key of MASK_KINDS.
        size: (height, width), pixels.
        rng: source of the random kinds.
    """
    if kind not in MASK_KINDS:
        raise ValueError(f"mask kind {kind!r} is unknown; choose one of {', '.join(MASK_KINDS)}")
    return KeepMask(MASK_KINDS[kind](size, rng))


def _thick(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    hole = _start(size)
    if rng.random() < 0.5:
        for _ in range(rng.integers(1, 5)):
            _add(hole, _box(size, rng))
    else:
        for _ in range(rng.integers(1, 5)):
            _add_stroke(hole, rng, width=(30, 100), length=(40, 200), max_segments=4)
    return ~hole


def _thin(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    hole = _start(size)
    for _ in range(rng.integers(6, 21)):
        _add_stroke(hole, rng, width=(3, 10), length=(20, 90), max_segments=5)
    return ~hole


def _start(size: tuple[int, int]) -> np.ndarray:
    if min(size) < _MIN_SIDE:
        raise ValueError(
            f"a mask of {size[0]}x{size[1]} has no room for strokes; {_MIN_SIDE} pixels a side at least"
        )
    return np.zeros(size, dtype=bool)


def _add(hole: np.ndarray, shape: np.ndarray) -> None:
    if (hole | shape).mean() <= MAX_UNKNOWN:
        hole |= shape


def _box(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    height, width = (max(1, round(min(size) * rng.uniform(30, 150) / 256)) for _ in range(2))
    top, left = rng.integers(0, size[0] - height + 1), rng.integers(0, size[1] - width + 1)
    box = np.zeros(size, dtype=bool)
    box[top : top + height, left : left + width] = True
    return box


def _add_stroke(
    hole: np.ndarray,
    rng: np.random.Generator,
    width: tuple[float, float],
    length: tuple[float, float],
    max_segments: int,
) -> None:
    """Draw a bent line of round-ended segments; width and length in pixels of a 256-pixel image."""
    scale = min(hole.shape) / 256
    extent = np.array(hole.shape, dtype=float)
    radius = max(0.75, scale * rng.uniform(*width) / 2)  # sqrt(1/2) always reaches the nearest pixel centre
    point, heading = rng.uniform(0, extent), rng.uniform(0, 2 * np.pi)
    for _ in range(rng.integers(1, max_segments + 1)):
        step = scale * rng.uniform(*length) * np.array([np.sin(heading), np.cos(heading)])
        end = point + step
        _add(hole, _capsule(hole.shape, point, end, radius))
        if (end < 0).any() or (end > extent).any():
            break
        point, heading = end, heading + rng.uniform(-2, 2)


def _capsule(shape: tuple[int, ...], start: np.ndarray, end: np.ndarray, radius: float) -> np.ndarray:
    """Mark pixels whose centre lies within `radius` of the segment from `start` to `end` (row, column)."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    down, right = rows + 0.5 - start[0], columns + 0.5 - start[1]
    along = end - start
    share = np.clip((down * along[0] + right * along[1]) / max(float(along @ along), 1e-12), 0, 1)
    return (down - share * along[0]) ** 2 + (right - share * along[1]) ** 2 <= radius**2


def _half(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    return np.broadcast_to(np.arange(size[1]) < size[1] // 2, size).copy()


def _expand(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    height, width = (max(1, side // 4) for side in size)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    mask[top : top + height, left : left + width] = True
    return mask


def _every_second_line(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[::2] = True
    return mask


def _every_second_pixel(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[::2, ::2] = True
    return mask


MASK_KINDS: dict[str, Callable[[tuple[int, int], np.random.Generator], np.ndarray]] = {
    "thick": _thick,
    "thin": _thin,
    "half": _half,
    "expand": _expand,
    "ev2li": _every_second_line,
    "nn2": _every_second_pixel,
}
