"""Painter: samples the views of Jobs, equally shaped ones in batches, whatever image they are of; what was
filled goes back into the images."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.codec import PixelCodec
from guided_diffusion.denoiser import Denoise
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.inpainting.coarse_guidance import Sketched
from guided_diffusion.inpainting.composite import Gathering
from guided_diffusion.inpainting.tiled_denoiser import Tiled
from guided_diffusion.inpainting.views import Job, View
from guided_diffusion.operators import Mask, Nothing, Operator
from guided_diffusion.output.results import Progress, Result
from guided_diffusion.runtime import hardware
from guided_diffusion.runtime.seeds import Draws
from guided_diffusion.samplers import Noise, Problem, Sampler, walk
from guided_diffusion.scheduler import count_nfe

MOST_WAITING = 4  # batches' worth of views held back until others of their shape come
HELD_BYTES = 1 << 31  # of images, beyond which none waits for others
SKETCHED = 0.3  # share of the process, from the cleanest step on, in which a sketch is not heard

Piece = tuple[Gathering, int]  # an image, and the number of one of its views


@dataclass(frozen=True)
class Painter:
    """Fills images by one sampler.

    denoiser: images of a batch -> what denoises it, on `device`; size: the model's, in pixels; batch_size:
    views, or windows of a native view, at once; expected: shape of a view -> as many as memory is expected to
    hold, of which there will be fewer if it does not; paste_known: keep the known bytes.
    """

    sampler: Sampler
    process: GaussianDiffusion
    denoiser: Callable[[Sequence[Draws]], Denoise]
    device: torch.device
    size: int
    batch_size: int
    expected: Callable[[tuple[int, ...]], int]
    paste_known: bool
    room: dict[tuple[int, ...], int] = field(default_factory=dict)  # shape -> the most that memory holds

    @cached_property
    def nfe(self) -> int:
        """Of the network, for each view."""
        return count_nfe(self.sampler.times(self.process))[0]

    def at_once(self, shape: tuple[int, ...]) -> int:
        """How many views of a shape are to be sampled together."""
        if shape not in self.room:
            self.room[shape] = self.expected(shape)
        return min(self.batch_size, self.room[shape])

    def paint(self, ready: Iterable[Job | Result | Progress]) -> Iterator[Result | Progress]:
        """Copies images without a hole, samples the other Jobs in batches, and hands on what is no Job."""
        waiting: defaultdict[tuple[int, ...], list[Piece]] = defaultdict(list)
        for item in ready:
            if not isinstance(item, Job):
                yield item
            elif item.keep is not None and item.keep.all():
                note = "the mask keeps every pixel: nothing to fill, the image was copied"
                yield replace(item.unfilled, filled=item.gt, note=note)
            else:
                gathering = Gathering(item)
                for number, view in enumerate(item.views):
                    yield from self._next((gathering, number), view, waiting)
        for batch in waiting.values():
            yield from self._batch(batch)

    def _next(
        self, piece: Piece, view: View, waiting: defaultdict[tuple[int, ...], list[Piece]]
    ) -> Iterator[Result | Progress]:
        """Put a view behind those that wait, and sample those of a shape if they fill a batch, or too many
        wait; a native view gains nothing from others."""
        if view.native:
            yield from self._alone(piece)
            return
        waiting[view.seen.shape].append(piece)
        longest = max(waiting, key=lambda shape: len(waiting[shape]))
        full = len(waiting[longest]) >= self.at_once(longest)
        many = sum(map(len, waiting.values())) == MOST_WAITING * self.batch_size
        if full or many or _bytes(waiting.values()) > HELD_BYTES:
            yield from self._batch(waiting.pop(longest))

    def _batch(self, batch: list[Piece]) -> Iterator[Result | Progress]:
        """Sample equally shaped views: as many at once as memory holds, found by halving.

        A view's draws are its own, so that it comes out the same.
        """
        shape = _view(batch[0]).seen.shape
        while batch := [(gathering, number) for gathering, number in batch if not gathering.failed]:
            some = batch[: self.at_once(shape)]
            held = yield from self._tried(self._sampled(some), shape, some[0], len(some))
            batch = batch[len(some) :] if held else batch

    def _alone(self, piece: Piece) -> Iterator[Result | Progress]:
        """Sample a native view: as many of its windows at once as memory holds."""
        shape, held = (self.size, self.size, 3), False
        while not held and not piece[0].failed:
            at_once = self.at_once(shape)
            held = yield from self._tried(self._native(piece, at_once), shape, piece, at_once)

    def _tried(
        self, events: Iterator[Result | Progress], shape: tuple[int, ...], piece: Piece, at_once: int
    ) -> Generator[Result | Progress, None, bool]:
        """Whether memory held so many at once; if not, there will be half as many the next time. If even one
        is too many, the image of the piece fails."""
        try:
            yield from events
            return True
        except (RuntimeError, MemoryError) as error:
            if not hardware.is_out_of_memory(error):
                raise
        torch.cuda.empty_cache()  # here, where no traceback holds the failed attempt any longer
        self.room[shape] = -(-at_once // 2)
        if at_once == 1:
            rows, columns = _view(piece).seen.shape[:2]
            seen = f"the model sees {columns}x{rows} pixels"
            yield piece[0].fail(f"out of memory on {self.device}: {seen}; shrink the image")
        return False

    def _sampled(self, batch: Sequence[Piece]) -> Iterator[Result | Progress]:
        begin, x = time.monotonic(), torch.zeros(0)
        for i, step in enumerate(
            walk(self.sampler, self.problem([_view(piece) for piece in batch])), start=1
        ):
            x = step.x
            yield _progress(batch, i, self.nfe)
        fills = [_decoded(one) for one in x]  # waits for the device, so the clock is read after it
        seconds = (time.monotonic() - begin) / len(batch)
        for piece, fill in zip(batch, fills, strict=True):
            yield from self._added(piece, fill, self.nfe, seconds)

    def _native(self, piece: Piece, at_once: int) -> Iterator[Result | Progress]:
        """Sample a native view in overlapping windows, `at_once` of them together, after its sketch."""
        view, begin = _view(piece), time.monotonic()
        problem = self.problem([view])
        where = torch.zeros(problem.y.shape[-2:], dtype=torch.bool)
        height, width = view.own.shape
        where[view.window.inner][:height, :width] = torch.from_numpy(view.own)
        tiled = Tiled(problem.denoise, self.size, self.size // 2, where, at_once)
        stages = [replace(problem, denoise=tiled)]
        if view.sketch is not None:
            stages.insert(0, self.problem([view.sketch]))
        x, done, steps = problem.y, 0, len(stages) * self.nfe
        for stage in stages:
            if done and view.sketch is not None:
                stage = replace(stage, denoise=self._sketched(tiled, view, view.sketch, x))
            for step in walk(self.sampler, stage):
                x, done = step.x, done + 1
                yield _progress([piece], done, steps)
        fill = _decoded(x[0])
        yield from self._added(piece, fill, steps, time.monotonic() - begin)

    def _sketched(self, tiled: Tiled, view: View, sketch: View, x: Tensor) -> Denoise:
        """`tiled` that keeps to the sketch, filled as x (1, 3, rows, cols), where the view is filled."""
        assert tiled.where is not None
        at, over = view.window, sketch.window
        canvas, scale = x.new_zeros(1, 3, at.rows, at.cols), over.height / over.rows
        placed = replace(over, top=over.top - at.top, left=over.left - at.left)
        large = F.interpolate(x, (over.height, over.width), mode="bicubic", align_corners=False).clamp(-1, 1)
        inner = canvas[(..., *placed.slices)]
        inner[:] = large[(..., *placed.inner)][..., : inner.shape[-2], : inner.shape[-1]]
        blocks = max(1, round(at.height / scale)), max(1, round(at.width / scale))
        until = round(SKETCHED * self.process.num_timesteps)
        return Sketched(tiled, self.process, canvas, tiled.where.to(x)[None, None], blocks, until)

    def problem(self, batch: Sequence[View]) -> Problem:
        """What the sampler sees of equally shaped views."""
        y = PixelCodec().encode([view.seen for view in batch]).to(self.device)
        operator: Operator = Nothing()
        if any(view.seen_keep is not None for view in batch):
            keeps = [np.zeros(y.shape[-2:], bool) if v.seen_keep is None else v.seen_keep for v in batch]
            operator = Mask(torch.from_numpy(np.stack(keeps)).float()[:, None].to(self.device))
        own = [view.draws.generator("noise", self.device) for view in batch]
        denoise = self.denoiser([view.image for view in batch])
        return Problem(y, operator, denoise, self.process, Noise(own, y.shape[1:]))

    def _added(
        self, piece: Piece, fill: np.ndarray | ValueError, nfe: int, seconds: float
    ) -> Iterator[Result]:
        """Hand a filled view over to its image; gives the result when that is complete, or has failed."""
        gathering, number = piece
        if gathering.failed:
            return
        if isinstance(fill, ValueError):
            yield gathering.fail(str(fill))
            return
        gathering.add(number, fill, nfe, seconds)
        if gathering.complete:
            yield gathering.result(self.paste_known)


def _decoded(x: Tensor) -> np.ndarray | ValueError:
    """What a view was filled with, (3, rows, cols), as uint8 (rows, cols, 3), or why that cannot be."""
    try:
        return PixelCodec().decode(x[None])[0]
    except ValueError as error:
        return error


def _view(piece: Piece) -> View:
    gathering, number = piece
    return gathering.job.views[number]


def _bytes(batches: Iterable[Sequence[Piece]]) -> int:
    """Of the images that these are pieces of."""
    images = {gathering for batch in batches for gathering, _ in batch}
    return sum(gathering.job.unfilled.nbytes for gathering in images)


def _progress(batch: Sequence[Piece], step: int, steps: int) -> Progress:
    names = tuple(dict.fromkeys(gathering.job.name for gathering, _ in batch))
    first = batch[0][0].job
    last = max(number for gathering, number in batch if gathering.job is first)
    return Progress(names, step, steps, last + 1, len(first.views))
