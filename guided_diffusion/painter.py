"""Painter: samples the views of Jobs, equally shaped ones in batches, whatever picture they are of; what was
filled goes back into the pictures."""

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
from guided_diffusion.gathering import Gathering
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.jobs import Job, View, generator
from guided_diffusion.operators import Mask, Nothing, Operator
from guided_diffusion.results import Progress, Result
from guided_diffusion.samplers import Noise, Problem, Sampler, walk
from guided_diffusion.scheduler import count_evaluations
from guided_diffusion.sketch import Sketched
from guided_diffusion.tiles import Tiled

MOST_WAITING = 4  # batches' worth of views held back until others of their shape come
SKETCHED = 0.3  # share of the process, from the cleanest step on, in which a sketch is not heard

Piece = tuple[Gathering, int]  # a picture, and the number of one of its views


@dataclass(frozen=True)
class Painter:
    """Fills pictures by one sampler.

    denoiser: names of a batch -> what denoises it, on `device`; seed: with a view's name it decides its
    draws; size: the model's, in pixels; batch_size: views, or windows of a native view, at once;
    paste_known: keep the known bytes.
    """

    sampler: Sampler
    process: GaussianDiffusion
    denoiser: Callable[[Sequence[str]], Denoise]
    device: torch.device
    seed: int
    size: int
    batch_size: int
    paste_known: bool
    room: dict[tuple[int, ...], int] = field(default_factory=dict)  # shape -> views that memory held

    @cached_property
    def evaluations(self) -> int:
        """Of the network, for each view."""
        return count_evaluations(self.sampler.times(self.process))[0]

    def paint(self, ready: Iterable[Job | Result | Progress]) -> Iterator[Result | Progress]:
        """Copies pictures without a hole, samples the other Jobs in batches, and hands on what is no Job."""
        waiting: defaultdict[tuple[int, ...], list[Piece]] = defaultdict(list)
        for item in ready:
            if not isinstance(item, Job):
                yield item
            elif item.keep is not None and item.keep.all():
                note = "the mask keeps every pixel: nothing to fill, the picture was copied"
                yield replace(item.unfilled, filled=item.gt, note=note)
            else:
                for batch in self._queued(item, waiting):
                    yield from self._batch(batch)
        for batch in waiting.values():
            yield from self._batch(batch)

    def _queued(self, job: Job, waiting: defaultdict[tuple[int, ...], list[Piece]]) -> Iterator[list[Piece]]:
        """Put a job's views behind those that wait; gives batches: full ones, the longest when many wait."""
        size, gathering = self.batch_size, Gathering(job)
        for number, view in enumerate(job.views):
            if view.native:
                yield [(gathering, number)]
                continue
            waiting[view.seen.shape].append((gathering, number))
            longest = max(waiting, key=lambda shape: len(waiting[shape]))
            full = len(waiting[longest]) >= self.room.get(longest, size)
            if full or sum(map(len, waiting.values())) == MOST_WAITING * size:
                yield waiting.pop(longest)

    def _batch(self, batch: list[Piece]) -> Iterator[Result | Progress]:
        """Sample equally shaped views: as many at once as memory holds, found by halving.

        A view's draws are its own, so that it comes out the same.
        """
        first = _view(batch[0])
        shape = first.seen.shape
        seen = (self.size, self.size, 3) if first.native else shape
        while batch := [piece for piece in batch if not piece[0].failed]:
            room = self.room.get(seen, self.batch_size if first.native else len(batch))
            some = batch[:1] if first.native else batch[:room]
            try:
                yield from self._native(some[0], room) if first.native else self._sampled(some)
            except RuntimeError as error:
                if not hardware.is_out_of_memory(error):
                    raise
            else:
                batch = batch[len(some) :]
                continue
            torch.cuda.empty_cache()  # here, where no traceback holds the failed attempt any longer
            tried = room if first.native else len(some)
            self.room[seen] = -(-tried // 2)
            if tried == 1:
                why = f"out of memory on {self.device}: the model sees {shape[1]}x{shape[0]} pixels; "
                yield some[0][0].fail(f"{why}shrink the picture")

    def _sampled(self, batch: Sequence[Piece]) -> Iterator[Result | Progress]:
        begin, x = time.monotonic(), torch.zeros(0)
        for i, step in enumerate(
            walk(self.sampler, self.problem([_view(piece) for piece in batch])), start=1
        ):
            x = step.x
            yield _progress(batch, i, self.evaluations)
        seconds = (time.monotonic() - begin) / len(batch)
        for piece, one in zip(batch, x, strict=True):
            yield from self._added(piece, one, self.evaluations, seconds)

    def _native(self, piece: Piece, at_once: int) -> Iterator[Result | Progress]:
        """Sample a native view in overlapping windows, `at_once` of them together, after its sketch."""
        view, begin = _view(piece), time.monotonic()
        problem, sketch, evaluations = self.problem([view]), view.sketch, self.evaluations
        where = torch.zeros(problem.y.shape[-2:], dtype=torch.bool)
        height, width = view.own.shape
        where[view.window.inner][:height, :width] = torch.from_numpy(view.own)
        denoise: Denoise = Tiled(problem.denoise, self.size, self.size // 2, where, at_once)
        x, done = problem.y, 0
        if sketch is not None:
            for step in walk(self.sampler, self.problem([sketch])):
                x, done = step.x, done + 1
                yield _progress([piece], done, 2 * evaluations)
            denoise = self._sketched(denoise, view, sketch, PixelCodec().decode(x)[0], where)
        steps = done + evaluations
        for step in walk(self.sampler, replace(problem, denoise=denoise)):
            x, done = step.x, done + 1
            yield _progress([piece], done, steps)
        yield from self._added(piece, x[0], steps, time.monotonic() - begin)

    def _sketched(
        self, denoise: Denoise, view: View, sketch: View, filled: np.ndarray, where: Tensor
    ) -> Denoise:
        """`denoise` that keeps to the sketch, filled as uint8 (rows, cols, 3), where the view is filled."""
        canvas, at, over = view.seen.copy(), view.window, sketch.window
        place = replace(over, top=over.top - at.top, left=over.left - at.left)
        windows.paste(canvas, place, filled, np.ones(canvas[place.slices].shape[:2], dtype=bool))
        coarse = PixelCodec().encode([canvas]).to(self.device)
        scale = over.height / over.rows
        blocks = max(1, round(at.height / scale)), max(1, round(at.width / scale))
        until = round(SKETCHED * self.process.num_timesteps)
        member = where.to(coarse)[None, None]
        return Sketched(denoise, self.process, coarse, member, blocks, until)

    def problem(self, batch: Sequence[View]) -> Problem:
        """What the sampler sees of equally shaped views."""
        y = PixelCodec().encode([view.seen for view in batch]).to(self.device)
        operator: Operator = Nothing()
        if any(view.seen_keep is not None for view in batch):
            keeps = [np.zeros(y.shape[-2:], bool) if v.seen_keep is None else v.seen_keep for v in batch]
            operator = Mask(torch.from_numpy(np.stack(keeps)).float()[:, None].to(self.device))
        own = [generator(self.seed, "noise", view.draws, self.device) for view in batch]
        denoise = self.denoiser([view.name for view in batch])
        return Problem(y, operator, denoise, self.process, Noise(own, y.shape[1:]))

    def _added(self, piece: Piece, x: Tensor, evaluations: int, seconds: float) -> Iterator[Result]:
        """Hand a filled view over to its picture; gives the result when that is complete, or has failed."""
        gathering, number = piece
        if gathering.failed:
            return
        try:
            gathering.add(number, PixelCodec().decode(x[None])[0], evaluations, seconds)
        except ValueError as error:
            yield gathering.fail(str(error))
            return
        if gathering.complete:
            yield gathering.result(self.paste_known)


def _view(piece: Piece) -> View:
    gathering, number = piece
    return gathering.job.views[number]


def _progress(batch: Sequence[Piece], step: int, steps: int) -> Progress:
    names = tuple(dict.fromkeys(gathering.job.name for gathering, _ in batch))
    first = batch[0][0].job
    last = max(number for gathering, number in batch if gathering.job is first)
    return Progress(names, step, steps, last + 1, len(first.views))
