"""Task `inpaint`: sample what is unknown of an image, or a whole image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from guided_diffusion.config import fingerprints
from guided_diffusion.config.schema import Config
from guided_diffusion.images.inputs import read_pair
from guided_diffusion.images.masks import KeepMask
from guided_diffusion.images.pairs import Pair
from guided_diffusion.inpainting.composite import OUTPUT, with_inpainted
from guided_diffusion.inpainting.inpainter import Inpainter
from guided_diffusion.inpainting.views import InpaintJob, ViewPlanner
from guided_diffusion.output.results import Folder, OutputSpec, Result
from guided_diffusion.runtime.seeds import ImageSeed
from guided_diffusion.tasks import Events, IsDone, Parts

INPAINTED = OutputSpec(OUTPUT, Folder("inpainted", "srs", "inpainted"), windowed=True)


@dataclass(frozen=True)
class InpaintTask:
    """Inpaints the hole of each image, keeping the known bytes."""

    OUTPUTS: ClassVar[tuple[OutputSpec, ...]] = (INPAINTED,)
    finds_masks: ClassVar[bool] = False
    settings: ClassVar[Sequence[str]] = ()

    config: Config
    parts: Parts
    inpainter: Inpainter
    planner: ViewPlanner

    @classmethod
    def build(cls, config: Config, parts: Parts, outputs: Sequence[str] = (OUTPUT,)) -> InpaintTask:
        """Assemble the task."""
        return cls(config, parts, build_inpainter(config, parts), build_planner(config, parts))

    @property
    def needs_mask(self) -> bool:
        """The sampler decides."""
        return self.parts.sampler.needs_mask

    @property
    def nfe(self) -> Mapping[str, int]:
        """NFE for one window."""
        return {OUTPUT: self.inpainter.nfe}

    @property
    def weights(self) -> Sequence[str]:
        """None besides the model's."""
        return ()

    @property
    def uses_model(self) -> bool:
        """Always."""
        return True

    def fingerprint(self, output: str) -> str:
        """Hash settings and weights."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprints.fingerprint(self.config, self.parts.identity())

    def prepare(self, pair: Pair, seed: ImageSeed, done: IsDone) -> InpaintJob | Result:
        """Read an image and plan its views; see Task.prepare."""
        gt, keep = read_pair(pair, self.config.data.mask_is)
        job = self.planner.plan(self.fingerprint(OUTPUT), pair.name, gt, keep, seed)
        return with_inpainted(job, None) if done(pair.name, OUTPUT, job.key) else job

    def prepare_image(
        self, name: str, image: np.ndarray, keep: KeepMask | None, seed: ImageSeed
    ) -> InpaintJob:
        """Plan the views of an image in memory; see Task.prepare_image."""
        return self.planner.plan(self.fingerprint(OUTPUT), name, image, keep, seed)

    def run(self, prepared: Iterable[InpaintJob | Result], batch_size: int) -> Events:
        """Sample in batches across images; see Task.run."""
        return replace(self.inpainter, batch_size=batch_size).run(prepared)


def build_inpainter(config: Config, parts: Parts) -> Inpainter:
    """Assemble the inpainter that tasks share."""
    return Inpainter(
        sampler=parts.sampler,
        process=parts.process,
        denoiser=parts.denoiser,
        device=parts.device,
        codec=parts.codec,
        size=parts.size,
        batch_size=parts.batch_size,
        expected_batch=parts.expected_batch,
        paste_known=config.paste_known,
    )


def build_planner(config: Config, parts: Parts) -> ViewPlanner:
    """Assemble the view planner that tasks share."""
    return ViewPlanner(parts.size, parts.multiple, config.windows, parts.single_shape)
