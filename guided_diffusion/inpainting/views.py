"""Views: what the model sees of an image, and the jobs that hold them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from guided_diffusion.config.types import Windows
from guided_diffusion.errors import ImageError
from guided_diffusion.images.masks import HoleMask, KeepMask, to_hole
from guided_diffusion.inpainting import window_plan, windows
from guided_diffusion.inpainting.window_plan import PlannedWindow
from guided_diffusion.output.keys import image_key
from guided_diffusion.output.results import Result
from guided_diffusion.runtime.seeds import ImageSeed

MAX_VIEW_LENGTH = 16  # model sizes: a longer view would take all memory (docs/reports/sizes.md)


@dataclass(frozen=True)
class ModelView:
    """One crop of an image as the model sees it, and the pixels that are inpainted through it."""

    image_seed: ImageSeed
    """Seed of the whole image."""
    seed: ImageSeed
    """Seed of this view's noise."""
    window: windows.Window
    fill_mask: np.ndarray
    """bool, shaped like `window.slices` of the image, True = inpainted through this view."""
    pixels: np.ndarray
    """uint8 (rows, cols, 3), the crop at model shape."""
    keep: np.ndarray | None
    """bool (rows, cols), True = known; None without a mask."""
    full_resolution: bool = False
    """Larger than the model's images and sampled in overlapping windows of their size."""
    coarse_view: ModelView | None = None
    """The same holes at a reduced size, inpainted first; only of a full-resolution view."""

    def network_shape(self, size: int) -> tuple[int, int]:
        """Return the (rows, cols) that the network sees at once, but for windows of `size` x `size`."""
        if self.full_resolution and self.coarse_view is None:
            return size, size
        rows, cols = (self.coarse_view or self).pixels.shape[:2]
        return rows, cols


@dataclass(frozen=True)
class InpaintJob:
    """An image that is ready to be sampled."""

    result: Result
    """The result so far: the input, its mask, and outputs that are made already."""
    key: str
    """Fingerprint of the inpainted output."""
    views: tuple[ModelView, ...]


@dataclass(frozen=True)
class ViewPlanner:
    """Decides in which crops the model sees an image."""

    size: int
    """Side of the model's images, in image pixels."""
    multiple: int
    """Sides of other images that the model sees are multiples of this."""
    windows: Windows = "holes"
    single_shape: bool = False
    """The model takes images of shape (size, size) only."""

    def plan(
        self, fingerprint: str, name: str, gt: np.ndarray | None, keep: KeepMask | None, seed: ImageSeed
    ) -> InpaintJob:
        """Plan the views of an image uint8 (H, W, 3) with its mask bool (H, W); both None to generate.

        fingerprint: of settings and weights. Raises ImageError if the model cannot take what it would see.
        """
        shape = (self.size, self.size) if gt is None else gt.shape[:2]
        hole = HoleMask(np.ones(shape, dtype=bool)) if keep is None else to_hole(keep)
        image = np.zeros((*shape, 3), dtype=np.uint8) if gt is None else gt
        plan = window_plan.single_window if self.windows == "whole" else window_plan.window_per_hole
        planned = plan(hole, self.size, self.multiple)
        views = tuple(self._view(seed, i, part, image, keep) for i, part in enumerate(planned))
        self._check_shapes(views)
        return InpaintJob(Result(name, gt, keep), image_key(fingerprint, name, gt, keep), views)

    def _view(
        self,
        image_seed: ImageSeed,
        number: int,
        part: PlannedWindow,
        image: np.ndarray,
        keep: np.ndarray | None,
    ) -> ModelView:
        window, shape = part.window, image.shape
        longest = max(window.rows, window.cols)
        # The first view has the image's own seed, as an image with one view has.
        seed = image_seed.child(f"{window.top},{window.left}") if number else image_seed
        fits = longest <= MAX_VIEW_LENGTH * self.size
        if self.windows == "overlap" and (window.scaled or longest > self.size):
            coarse = _crop(image_seed, seed, part, image, keep) if window.scaled and fits else None
            seed = seed.child("native") if coarse else seed
            full = window_plan.full_resolution_window(part, shape, self.size)
            view = _crop(image_seed, seed, full, image, keep)
            return replace(view, full_resolution=True, coarse_view=coarse)
        if not fits:
            raise ImageError(
                f"the hole in this {shape[1]}x{shape[0]} image is so long and thin that the model would "
                f"see {window.cols}x{window.rows} pixels; set windows: overlap, or inpaint it in shorter "
                "pieces"
            )
        return _crop(image_seed, seed, part, image, keep)

    def _check_shapes(self, views: tuple[ModelView, ...]) -> None:
        """Raise ImageError for a shape that a classifier of fixed size cannot take."""
        for rows, cols in (view.network_shape(self.size) for view in views):
            if self.single_shape and rows != cols:
                raise ImageError(
                    f"the hole is longer than the image's short side, so the model would see {cols}x{rows} "
                    f"pixels, but the classifier takes {self.size}x{self.size} only; crop the image, or set "
                    "classifier_scale: 0"
                )


def _crop(
    image_seed: ImageSeed, seed: ImageSeed, part: PlannedWindow, image: np.ndarray, keep: np.ndarray | None
) -> ModelView:
    known = np.zeros(image.shape[:2], dtype=bool) if keep is None else keep
    pixels, pixels_keep = windows.cut(image, known, part.window)
    return ModelView(
        image_seed, seed, part.window, part.fill_mask, pixels, None if keep is None else pixels_keep
    )
