"""Painter: samples Jobs in batches of equally shaped views; what was filled goes back into the pictures."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from guided_diffusion import hardware, windows
from guided_diffusion.codec import PixelCodec
from guided_diffusion.denoiser import Denoise
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.jobs import Job, generator
from guided_diffusion.operators import Mask, Nothing, Operator
from guided_diffusion.results import Progress, Result
from guided_diffusion.samplers import Noise, Problem, Sampler, walk
from guided_diffusion.scheduler import count_evaluations

MOST_WAITING = 4  # batches' worth of pictures held back until others of their shape come


@dataclass(frozen=True)
class Painter:
    """Fills pictures by one sampler.

    denoiser: names of a batch -> what denoises it, on `device`; seed: with a picture's name it decides its
    draws; batch_size: pictures at once; paste_known: keep the known bytes.
    """

    sampler: Sampler
    process: GaussianDiffusion
    denoiser: Callable[[Sequence[str]], Denoise]
    device: torch.device
    seed: int
    batch_size: int
    paste_known: bool
    room: dict[tuple[int, ...], int] = field(default_factory=dict)  # shape -> pictures that memory held

    @cached_property
    def evaluations(self) -> int:
        """Of the network, for each picture."""
        return count_evaluations(self.sampler.times(self.process))[0]

    def paint(self, ready: Iterable[Job | Result | Progress]) -> Iterator[Result | Progress]:
        """Copies pictures without a hole, samples the other Jobs in batches, and hands on what is no Job."""
        waiting: defaultdict[tuple[int, ...], list[Job]] = defaultdict(list)
        size = self.batch_size
        for item in ready:
            if not isinstance(item, Job):
                yield item
            elif item.keep is not None and item.keep.all():
                note = "the mask keeps every pixel: nothing to fill, the picture was copied"
                yield replace(item.unfilled, filled=item.gt, note=note)
            else:
                waiting[item.seen.shape].append(item)
                longest = max(waiting, key=lambda shape: len(waiting[shape]))
                full = len(waiting[longest]) >= self.room.get(longest, size)
                if full or sum(map(len, waiting.values())) == MOST_WAITING * size:
                    yield from self._batch(waiting.pop(longest))
        for batch in waiting.values():
            yield from self._batch(batch)

    def _batch(self, batch: list[Job]) -> Iterator[Result | Progress]:
        """Sample equally shaped jobs: as many at once as memory holds, found by halving.

        A picture's draws are its own, so that it comes out the same.
        """
        shape = batch[0].seen.shape
        while batch:
            some = batch[: self.room.get(shape, len(batch))]
            try:
                yield from self._sampled(some)
            except RuntimeError as error:
                if not hardware.is_out_of_memory(error):
                    raise
            else:
                batch = batch[len(some) :]
                continue
            torch.cuda.empty_cache()  # here, where no traceback holds the failed attempt any longer
            self.room[shape] = -(-len(some) // 2)
            if len(some) == 1:
                why = f"out of memory on {self.device}: the model sees {shape[1]}x{shape[0]} pixels; "
                yield replace(batch.pop(0).unfilled, error=f"{why}shrink the picture")

    def _sampled(self, batch: list[Job]) -> Iterator[Result | Progress]:
        begin = time.monotonic()
        names = tuple(job.name for job in batch)
        x = torch.zeros(0)
        for i, step in enumerate(walk(self.sampler, self.problem(batch)), start=1):
            x = step.x
            yield Progress(names, i, self.evaluations)
        seconds = (time.monotonic() - begin) / len(batch)
        for job, picture in zip(batch, x, strict=True):
            yield self._result(job, picture, seconds)

    def problem(self, batch: Sequence[Job]) -> Problem:
        """What the sampler sees of a batch of equally shaped jobs."""
        y = PixelCodec().encode([job.seen for job in batch]).to(self.device)
        keep = torch.from_numpy(np.stack([job.seen_keep for job in batch])).float()[:, None].to(self.device)
        operator: Operator = Mask(keep) if any(job.keep is not None for job in batch) else Nothing()
        names = [job.name for job in batch]
        own = [generator(self.seed, "noise", name, self.device) for name in names]
        return Problem(y, operator, self.denoiser(names), self.process, Noise(own, y.shape[1:]))

    def _result(self, job: Job, x: Tensor, seconds: float) -> Result:
        plain = job.unfilled
        try:
            filled = PixelCodec().decode(x[None])[0]
        except ValueError as error:
            return replace(plain, error=str(error))
        if job.gt is not None:
            hole = np.zeros(job.gt.shape[:2], dtype=bool) if job.keep is None else job.keep
            filled = windows.paste(job.gt, hole, job.window, filled, keep_known=self.paste_known)
        unknown = job.keep is not None and not job.keep.any()
        note = "the mask keeps no pixel: the picture was generated" if unknown else ""
        return replace(plain, filled=filled, evaluations=self.evaluations, seconds=seconds, note=note)
