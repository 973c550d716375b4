"""Jobs: images cut to the views that the model sees of them; the key and the random draws of each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from guided_diffusion.config.schema import Windows
from guided_diffusion.errors import ImageError
from guided_diffusion.images.formats import read_deep, read_image
from guided_diffusion.images.masks import read_mask
from guided_diffusion.images.pairs import Pair
from guided_diffusion.inpainting import window_plan, windows
from guided_diffusion.output.results import Lifted, Result
from guided_diffusion.runtime.seeds import Draws

LONGEST_VIEW = 16  # model sizes: a view longer than this would take all memory


@dataclass(frozen=True)
class View:
    """What the model sees of an image at once, and which of its pixels are filled so.

    image: draws of the whole image; draws: its own; own: bool, shaped like
    `window.slices`, True = filled here; native: larger than the model and seen as it is, in overlapping
    windows of the model's size; sketch: of a native view, a coarser one of the same holes, filled first.
    """

    image: Draws
    draws: Draws
    window: windows.Window
    own: np.ndarray
    seen: np.ndarray  # uint8 (rows, cols, 3), the input's window as the model sees it
    seen_keep: np.ndarray | None  # bool (rows, cols), None without a mask
    native: bool = False
    sketch: View | None = None


@dataclass(frozen=True)
class Job:
    """An image that is ready to be sampled: what the model sees of it, and what it goes back into."""

    name: str
    key: str
    gt: np.ndarray | None  # uint8 (H, W, 3), the input at its own size
    keep: np.ndarray | None  # bool (H, W), True = known; None without a mask
    views: tuple[View, ...]
    lifted: Lifted | None = None  # for the result: made already, without sampling

    @property
    def unfilled(self) -> Result:
        """The result as long as nothing is sampled."""
        return Result(self.name, self.key, gt=self.gt, keep=self.keep, lifted=self.lifted)


def read(
    pair: Pair, mask_is: str = "keep", deep: bool = False
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """A pair's image uint8 (H, W, 3) and keep-mask bool (H, W), True = known; None for what it lacks.

    mask_is: what 255 stands for in the mask's file, keep or shadow; deep: a 16-bit image comes as uint16.
    Raises ImageError if one of them cannot be read, or their sizes differ.
    """
    reader = read_deep if deep else read_image
    gt = None if pair.gt is None else reader(pair.gt)
    keep = None if pair.mask is None else read_mask(pair.mask) != (mask_is == "shadow")
    if gt is not None and keep is not None and gt.shape[:2] != keep.shape:
        raise ImageError(
            f"{pair.gt} is {gt.shape[1]}x{gt.shape[0]} and its mask {pair.mask} is "
            f"{keep.shape[1]}x{keep.shape[0]}; make them the same size"
        )
    return gt, keep


@dataclass(frozen=True)
class Sight:
    """How the model looks at images.

    size: its training size in pixels; multiple: of which any other size that it sees must be one; windows: as
    the Config's.
    """

    size: int
    multiple: int
    windows: Windows = "holes"

    def prepare(
        self, fingerprint: str, name: str, gt: np.ndarray | None, keep: np.ndarray | None, draws: Draws
    ) -> Job:
        """The Job of an image uint8 (H, W, 3) and its keep-mask bool (H, W); both None to generate.

        fingerprint: of settings and weights. Raises ImageError for a hole that no memory would hold.
        """
        shape = (self.size, self.size) if gt is None else gt.shape[:2]
        hole = np.zeros(shape, dtype=bool) if keep is None else keep
        blank = np.zeros((*shape, 3), dtype=np.uint8) if gt is None else gt
        find = window_plan.whole if self.windows == "whole" else window_plan.each_hole
        parts = find(hole, self.size, self.multiple)
        views = tuple(self._view(draws, i, part, blank, keep) for i, part in enumerate(parts))
        return Job(name, image_key(fingerprint, name, gt, keep), gt, keep, views)

    def _view(
        self, of: Draws, number: int, part: window_plan.Part, image: np.ndarray, keep: np.ndarray | None
    ) -> View:
        window, shape = part.window, image.shape
        longest = max(window.rows, window.cols)
        # The first one's draws are those of an image with one window.
        draws = of.part(f"{window.top},{window.left}") if number else of
        fits = longest <= LONGEST_VIEW * self.size
        if self.windows == "overlap" and (window.scaled or longest > self.size):
            sketch = self._seen(of, draws, part, image, keep) if window.scaled and fits else None
            draws = draws.part("native") if sketch else draws
            view = self._seen(of, draws, window_plan.native(part, shape, self.size), image, keep)
            return replace(view, native=True, sketch=sketch)
        if not fits:
            raise ImageError(
                f"the hole in this {shape[1]}x{shape[0]} image is so long and thin that the model would "
                f"see {window.cols}x{window.rows} pixels; set windows: overlap, or fill it in shorter pieces"
            )
        return self._seen(of, draws, part, image, keep)

    def _seen(
        self, of: Draws, draws: Draws, part: window_plan.Part, image: np.ndarray, keep: np.ndarray | None
    ) -> View:
        hole = np.zeros(image.shape[:2], dtype=bool) if keep is None else keep
        seen, seen_keep = windows.cut(image, hole, part.window)
        return View(of, draws, part.window, part.own, seen, None if keep is None else seen_keep)


def image_key(fingerprint: str, name: str, *parts: np.ndarray | None) -> str:
    """SHA-256 (hex) of all that decides one result: settings and weights, its name, the input's parts."""
    key = hashlib.sha256(f"{fingerprint} {name}".encode("utf-8", "surrogateescape"))
    for part in parts:
        key.update(b"-" if part is None else repr(part.shape).encode() + part.tobytes())
    return key.hexdigest()
