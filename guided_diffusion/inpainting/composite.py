"""Gathering: an image whose views are filled one after another, until all are and it is a Result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from guided_diffusion.inpainting import windows
from guided_diffusion.inpainting.views import Job, View
from guided_diffusion.output.results import Result


class Gathering:
    """What has become of the views of one job: it holds what the model made, and copies the image last."""

    def __init__(self, job: Job) -> None:
        self.job, self.failed = job, False
        self.fills: dict[int, np.ndarray] = {}  # number of the view -> uint8 (rows, cols, 3)
        self.nfe, self.seconds = 0, 0.0

    def add(self, number: int, fill: np.ndarray, nfe: int, seconds: float) -> None:
        """Take what a view was filled with, uint8 (rows, cols, 3), and what it cost."""
        self.fills[number] = fill
        self.nfe, self.seconds = self.nfe + nfe, self.seconds + seconds

    @property
    def complete(self) -> bool:
        return len(self.fills) == len(self.job.views)

    def fail(self, error: str) -> Result:
        """The result of an image of which one view cannot be filled."""
        self.failed = True
        self.fills.clear()
        return replace(self.job.unfilled, error=error)

    def result(self, paste_known: bool) -> Result:
        """The complete image. paste_known: keep the known bytes; else windows are written whole, but for
        what others fill, and native ones never."""
        job = self.job
        first = self.fills[0]
        filled = first if job.gt is None else job.gt.copy()
        for number, view in enumerate(job.views if job.gt is not None else ()):
            windows.paste(filled, view.window, self.fills[number], self._written(view, paste_known))
        unknown = job.keep is not None and not job.keep.any()
        note = "the mask keeps no pixel: the image was generated" if unknown else ""
        result = replace(job.unfilled, filled=filled, note=note)
        return replace(result, nfe=self.nfe, seconds=self.seconds)

    def _written(self, view: View, paste_known: bool) -> np.ndarray:
        if paste_known or view.native or self.job.keep is None:
            return view.own
        return view.own | self.job.keep[view.window.slices]
