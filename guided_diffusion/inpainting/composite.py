"""Composite: collects the inpainted views of one image and pastes them into it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from guided_diffusion.inpainting import windows
from guided_diffusion.inpainting.views import InpaintJob, ModelView
from guided_diffusion.output.results import Output, Result

OUTPUT = "inpainted"


class Composite:
    """The views of one job that are done so far. The image itself is copied last, to save memory."""

    def __init__(self, job: InpaintJob) -> None:
        self.job, self.failed = job, False
        self.inpainted: dict[int, np.ndarray] = {}  # number of the view -> uint8 (rows, cols, 3)
        self.nfe, self.seconds = 0, 0.0

    def add(self, number: int, pixels: np.ndarray, nfe: int, seconds: float) -> None:
        """Take the inpainted view, uint8 (rows, cols, 3), and its cost."""
        self.inpainted[number] = pixels
        self.nfe, self.seconds = self.nfe + nfe, self.seconds + seconds

    @property
    def complete(self) -> bool:
        """True once all views are done."""
        return len(self.inpainted) == len(self.job.views)

    def fail(self, error: str) -> Result:
        """Return the result of an image of which one view failed."""
        self.failed = True
        self.inpainted.clear()
        return replace(self.job.result, error=error)

    def result(self, paste_known: bool) -> Result:
        """Return the complete image.

        paste_known: keep the known bytes; otherwise windows are written whole, except for the pixels of other
        views; full-resolution views never are.
        """
        gt, keep = self.job.result.gt, self.job.result.keep
        image = self.inpainted[0] if gt is None else gt.copy()
        for number, view in enumerate(self.job.views if gt is not None else ()):
            windows.paste(image, view.window, self.inpainted[number], self._written(view, keep, paste_known))
        generated = keep is not None and not keep.any()
        note = "the mask keeps no pixel: the image was generated" if generated else ""
        return with_inpainted(self.job, image, self.nfe, self.seconds, note)

    def _written(self, view: ModelView, keep: np.ndarray | None, paste_known: bool) -> np.ndarray:
        if paste_known or view.full_resolution or keep is None:
            return view.fill_mask
        return view.fill_mask | keep[view.window.slices]


def with_inpainted(
    job: InpaintJob, image: np.ndarray | None, nfe: int = 0, seconds: float = 0.0, note: str = ""
) -> Result:
    """Add the inpainted output to the job's result; image None: an earlier run finished it."""
    inpainted = Output(job.key, image, nfe, seconds, note)
    return replace(job.result, outputs={OUTPUT: inpainted, **job.result.outputs})
