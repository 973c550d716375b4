"""Task `remove_shadow`: relight what lies in shadow, and, for comparison, inpaint it."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from guided_diffusion.config import fingerprints
from guided_diffusion.config.schema import Config
from guided_diffusion.errors import ConfigError, ImageError
from guided_diffusion.images.formats import eight_bits
from guided_diffusion.images.inputs import AUTO, read_pair
from guided_diffusion.images.masks import KeepMask, to_shadow
from guided_diffusion.images.pairs import Pair
from guided_diffusion.inpainting.inpainter import Inpainter, InpaintQueue
from guided_diffusion.inpainting.task import INPAINTED, build_inpainter, build_planner
from guided_diffusion.inpainting.views import InpaintJob, ViewPlanner
from guided_diffusion.output.results import Folder, Output, OutputSpec, Progress, Result
from guided_diffusion.runtime.seeds import ImageSeed
from guided_diffusion.shadow import detect
from guided_diffusion.shadow.remover import ShadowInput, ShadowRemover, with_black_inpainted
from guided_diffusion.tasks import Events, IsDone, Parts

SHADOW_FREE = OutputSpec(
    "shadow_free",
    Folder("shadow_free", "shadow_frees", "shadow-free"),
    {
        "matte": Folder("shadow_matte", "shadow_mattes", "matte"),
        "field": Folder("shadow_field", "shadow_fields"),
    },
)


@dataclass(frozen=True)
class ShadowJob:
    """An image that is ready: what is left to do, and the result so far."""

    result: Result
    shadow: ShadowInput | None
    """None if the shadow-free output is not asked for, or is finished."""
    job: InpaintJob | None
    """None if the inpainted output is not asked for, or is finished."""


@dataclass(frozen=True)
class RemoveShadowTask:
    """Removes shadows, keeping every byte beyond their reach."""

    OUTPUTS: ClassVar[tuple[OutputSpec, ...]] = (INPAINTED, SHADOW_FREE)
    finds_masks: ClassVar[bool] = True
    settings: ClassVar[Sequence[str]] = ("relight",)

    config: Config
    parts: Parts
    outputs: Sequence[str]
    remover: ShadowRemover
    inpainter: Inpainter
    planner: ViewPlanner

    @classmethod
    def build(cls, config: Config, parts: Parts, outputs: Sequence[str]) -> RemoveShadowTask:
        """Assemble the task. Raises ConfigError for a prior that does not work on pixels."""
        if config.relight.uses_network and (parts.codec.channels, parts.codec.factor) != (3, 1):
            raise ConfigError(
                "relight.prior and relight.refine need a model that works on pixels; set relight.prior: none "
                "and relight.refine: false"
            )
        remover = ShadowRemover(
            settings=config.relight,
            process=parts.process,
            denoiser=parts.denoiser,
            device=parts.device,
            size=parts.size,
            multiple=parts.multiple,
        )
        inpainter, planner = build_inpainter(config, parts), build_planner(config, parts)
        return cls(config, parts, outputs, remover, inpainter, planner)

    @property
    def needs_mask(self) -> bool:
        """Always: a mask, or `data.mask_path: auto`."""
        return True

    @property
    def nfe(self) -> Mapping[str, int]:
        """Each output asked for -> NFE for one window."""
        nfe = {INPAINTED.name: self.inpainter.nfe, SHADOW_FREE.name: self.remover.nfe}
        return {name: cost for name, cost in nfe.items() if name in self.outputs}

    @property
    def weights(self) -> Sequence[str]:
        """The shadow detector, where shadows are to be found."""
        second_pass = SHADOW_FREE.name in self.outputs and self.config.relight.second_pass
        return [str(detect.DETECTOR.path)] if second_pass or self.config.data.mask_path == AUTO else []

    @property
    def uses_model(self) -> bool:
        """True to inpaint, and where a prior corrects the light or refines the image."""
        removes = SHADOW_FREE.name in self.outputs
        return INPAINTED.name in self.outputs or (removes and self.config.relight.uses_network)

    def fingerprint(self, output: str) -> str:
        """Hash settings and weights of one output."""
        return self._inpainted_fingerprint if output == INPAINTED.name else self._shadow_free_fingerprint

    @cached_property
    def _inpainted_fingerprint(self) -> str:
        return fingerprints.fingerprint(self.config, self.parts.identity())

    @cached_property
    def _shadow_free_fingerprint(self) -> str:
        prior = self.parts.identity() if self.config.relight.uses_network else None
        finder = detect.DETECTOR.digest() if self.config.relight.second_pass else None
        return fingerprints.relight_fingerprint(self.config, prior, finder)

    def prepare(self, pair: Pair, seed: ImageSeed, done: IsDone) -> ShadowJob | Result:
        """Read an image, find its shadow and plan its views; see Task.prepare."""
        image, keep = read_pair(pair, self.config.data.mask_is, deep=True)
        assert image is not None
        return self._prepare(pair.name, image, keep, seed, done)

    def prepare_image(
        self, name: str, image: np.ndarray, keep: KeepMask | None, seed: ImageSeed
    ) -> ShadowJob | Result:
        """Prepare an image in memory; see Task.prepare_image."""
        return self._prepare(name, image, keep, seed, lambda *_: False)

    def _prepare(
        self, name: str, image: np.ndarray, keep: KeepMask | None, seed: ImageSeed, done: IsDone
    ) -> ShadowJob | Result:
        shadow = None if keep is None else to_shadow(keep)
        item = self.remover.prepare(self.fingerprint(SHADOW_FREE.name), name, image, shadow, seed)
        gt, job, outputs = eight_bits(image), None, {}
        if INPAINTED.name in self.outputs:
            job = self.planner.plan(self.fingerprint(INPAINTED.name), name, gt, item.keep, seed)
            if done(name, INPAINTED.name, job.key):
                outputs[INPAINTED.name], job = Output(job.key), None
            elif item.note:
                outputs[INPAINTED.name], job = Output(job.key, gt, note=item.note), None
        removes = SHADOW_FREE.name in self.outputs
        if removes and done(name, SHADOW_FREE.name, item.key):
            outputs[SHADOW_FREE.name], removes = Output(item.key), False
        result = Result(name, gt, item.keep, outputs)
        return ShadowJob(result, item if removes else None, job) if removes or job else result

    def run(self, prepared: Iterable[ShadowJob | Result], batch_size: int) -> Events:
        """Remove each shadow, and inpaint in batches across images; see Task.run."""
        queue = InpaintQueue(replace(self.inpainter, batch_size=batch_size))
        for item in prepared:
            if isinstance(item, Result):
                yield item
                continue
            result = item.result
            if item.shadow is not None:
                try:
                    shadow_free = yield from self._remove(item.shadow)
                except ImageError as error:
                    yield replace(result, outputs={}, error=str(error))
                    continue
                result = replace(result, outputs={**result.outputs, SHADOW_FREE.name: shadow_free})
            if item.job is None:
                yield result
            else:
                yield from queue.add(replace(item.job, result=result))
        yield from queue.finish()

    def _remove(self, item: ShadowInput) -> Generator[Progress, None, Output]:
        """Remove a shadow; what is too dark to hold texture is inpainted if the settings say so."""
        output = yield from self.remover.remove(item)
        black = output.extras["black"]
        if not self.config.relight.inpaint_black or not black.any():
            return output
        assert output.image is not None
        begin = time.monotonic()
        try:
            image = eight_bits(output.image)
            job = self.planner.plan("", item.seed.name, image, KeepMask(~black), item.seed)
            inpainted = self.inpainter.inpaint(job)
        except ImageError as error:
            return replace(output, note=f"black pixels were not inpainted: {error}")
        seconds = output.seconds + time.monotonic() - begin
        return replace(with_black_inpainted(output, inpainted), seconds=seconds)
