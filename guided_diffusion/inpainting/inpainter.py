"""Inpainter: samples the views of jobs, equally shaped ones in batches, whatever image they belong to."""

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

from guided_diffusion.codec import Codec
from guided_diffusion.denoiser import Denoise
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.inpainting.coarse_guidance import CoarseGuidedDenoiser
from guided_diffusion.inpainting.composite import OUTPUT, Composite, with_inpainted
from guided_diffusion.inpainting.tiled_denoiser import TiledDenoiser
from guided_diffusion.inpainting.views import InpaintJob, ModelView
from guided_diffusion.inpainting.windows import Window
from guided_diffusion.operators import Mask, NoObservation, Operator
from guided_diffusion.output.results import Output, Progress, Result, only_result
from guided_diffusion.runtime import memory
from guided_diffusion.runtime.seeds import ImageSeed
from guided_diffusion.samplers import Noise, Problem, Sampler, sample
from guided_diffusion.scheduler import count_nfe

MAX_PENDING_BATCHES = 4
"""Batches' worth of views held back until others of their shape come.

A round figure: enough for views of a few shapes to fill their batches, few enough that results come early.
"""
MAX_PENDING_BYTES = 1 << 31
"""Bytes of images, beyond which no view waits for others.

A round figure: what the weights of RePaint's 256 x 256 networks take in float32.
"""
# Clean end of the process, where coarse results do not count (docs/reports/sizes.md).
COARSE_FREE_FRACTION = 0.3

ViewRef = tuple[Composite, int]  # an image, and the number of one of its views
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Inpainter:
    """Inpaints images with one sampler."""

    sampler: Sampler
    process: GaussianDiffusion
    denoiser: Callable[[Sequence[ImageSeed]], Denoise]
    """The images of a batch -> their denoiser, on `device`."""
    device: torch.device
    codec: Codec
    size: int
    """Side of the model's images, in image pixels."""
    batch_size: int
    """Views, or windows of a full-resolution view, that are sampled together."""
    expected_batch: Callable[[Shape], int]
    """Shape of a view -> how many memory is expected to hold; halved when it does not."""
    paste_known: bool
    """Keep the known bytes."""
    max_batch: dict[Shape, int] = field(default_factory=dict)
    """Shape of a view -> how many memory holds, as found so far."""

    @cached_property
    def nfe(self) -> int:
        """Network function evaluations for each view."""
        return count_nfe(self.sampler.times(self.process))[0]

    def batch_size_for(self, shape: Shape) -> int:
        """Return how many views of a shape are sampled together."""
        if shape not in self.max_batch:
            self.max_batch[shape] = self.expected_batch(shape)
        return min(self.batch_size, self.max_batch[shape])

    def run(self, jobs: Iterable[InpaintJob | Result]) -> Generator[Result | Progress, None, None]:
        """Inpaint jobs in batches across images; Results are handed on."""
        queue = InpaintQueue(self)
        for job in jobs:
            if isinstance(job, Result):
                yield job
            else:
                yield from queue.add(job)
        yield from queue.finish()

    def inpaint(self, job: InpaintJob) -> Output:
        """Inpaint one image by itself. Raises ImageError."""
        return only_result(self.run([job])).outputs[OUTPUT]

    def sample_batch(self, batch: Sequence[ViewRef]) -> Iterator[Result | Progress]:
        """Sample equally shaped views together."""
        begin = time.monotonic()
        x = yield from self._sample(self.problem([_view(ref) for ref in batch]), batch, 0, self.nfe)
        decoded = [self._decode(view) for view in x]  # waits for the device, so the clock is read after it
        seconds = (time.monotonic() - begin) / len(batch)
        for ref, pixels in zip(batch, decoded, strict=True):
            yield from self._finish(ref, pixels, self.nfe, seconds)

    def sample_full_resolution(self, ref: ViewRef, batch_size: int) -> Iterator[Result | Progress]:
        """Sample a view in overlapping windows, `batch_size` of them together, after its coarse view."""
        view, begin, done = _view(ref), time.monotonic(), 0
        problem = self.problem([view])
        tiled, nfe = self._tiled(problem, view, batch_size), self.nfe
        denoise: Denoise = tiled
        if view.coarse_view is not None:
            nfe, done = 2 * self.nfe, self.nfe
            x = yield from self._sample(self.problem([view.coarse_view]), [ref], 0, nfe)
            denoise = self._guided_by(tiled, view, view.coarse_view, x)
        x = yield from self._sample(replace(problem, denoise=denoise), [ref], done, nfe)
        pixels = self._decode(x[0])
        yield from self._finish(ref, pixels, nfe, time.monotonic() - begin)

    def _sample(
        self, problem: Problem, batch: Sequence[ViewRef], done: int, steps: int
    ) -> Generator[Progress, None, Tensor]:
        """Run the sampler; reports steps after `done` of `steps`, and returns the last x (B, C, h, w)."""
        x = problem.y
        for step in sample(self.sampler, problem):
            x, done = step.x, done + 1
            yield _progress(batch, done, steps)
        return x

    def _tiled(self, problem: Problem, view: ModelView, batch_size: int) -> TiledDenoiser:
        """The denoiser that works through windows where the view is inpainted."""
        keep = np.ones(view.pixels.shape[:2], dtype=bool)
        height, width = view.fill_mask.shape
        keep[view.window.inner][:height, :width] = ~view.fill_mask
        region = self.codec.encode_mask(keep[None])[0, 0] == 0
        size = self.size // self.codec.factor
        return TiledDenoiser(problem.denoise, size, size // 2, region, batch_size)

    def _guided_by(
        self, tiled: TiledDenoiser, view: ModelView, coarse_view: ModelView, x: Tensor
    ) -> CoarseGuidedDenoiser:
        """`tiled`, following the coarse view, whose result is x (1, C, h, w), where the view is inpainted."""
        assert tiled.region is not None
        full, coarse = view.window, coarse_view.window
        down, across = (self._model_pixels(side) for side in (coarse.height, coarse.width))
        large = F.interpolate(x, (down, across), mode="bicubic", align_corners=False)
        canvas = x.new_zeros(*x.shape[:2], self._model_pixels(full.rows), self._model_pixels(full.cols))
        top, left = (
            (a - b) // self.codec.factor for a, b in ((coarse.top, full.top), (coarse.left, full.left))
        )
        placed = Window(top, left, down, across, down, across)
        inner = canvas[(..., *placed.slices)]
        inner[:] = self.codec.clamp(large)[(..., *placed.inner)][..., : inner.shape[-2], : inner.shape[-1]]
        scale = coarse.height / coarse.rows
        blocks = max(1, round(full.height / scale)), max(1, round(full.width / scale))
        min_t = round(COARSE_FREE_FRACTION * self.process.num_timesteps)
        region = tiled.region.to(x)[None, None]
        return CoarseGuidedDenoiser(tiled, self.process, canvas, region, blocks, min_t, self.codec.clamp)

    def _model_pixels(self, side: int) -> int:
        """Convert a length from image pixels to model pixels."""
        return -(-side // self.codec.factor)

    def problem(self, batch: Sequence[ModelView]) -> Problem:
        """Pose the sampler's problem for equally shaped views."""
        y = self.codec.encode([view.pixels for view in batch]).to(self.device)
        operator: Operator = NoObservation()
        if any(view.keep is not None for view in batch):
            shape = batch[0].pixels.shape[:2]
            keeps = [np.zeros(shape, bool) if view.keep is None else view.keep for view in batch]
            operator = Mask(self.codec.encode_mask(np.stack(keeps)).to(self.device))
        generators = [view.seed.generator("noise", self.device) for view in batch]
        denoise = self.denoiser([view.image_seed for view in batch])
        return Problem(y, operator, denoise, self.process, Noise(generators, y.shape[1:]))

    def _decode(self, x: Tensor) -> np.ndarray | ValueError:
        """Decode one view (C, h, w) to uint8 (rows, cols, 3), or say why that cannot be."""
        try:
            return self.codec.decode(x[None])[0]
        except ValueError as error:
            return error

    def _finish(
        self, ref: ViewRef, pixels: np.ndarray | ValueError, nfe: int, seconds: float
    ) -> Iterator[Result]:
        """Hand a view over to its image; yields the result when that is complete, or has failed."""
        composite, number = ref
        if composite.failed:
            return
        if isinstance(pixels, ValueError):
            yield composite.fail(str(pixels))
            return
        rows, cols = _view(ref).pixels.shape[:2]  # a codec may have padded the view
        composite.add(number, pixels[:rows, :cols], nfe, seconds)
        if composite.complete:
            yield composite.result(self.paste_known)


class InpaintQueue:
    """Views that wait for others of their shape, so that they are sampled in full batches."""

    def __init__(self, inpainter: Inpainter) -> None:
        self.inpainter = inpainter
        self.pending: defaultdict[Shape, list[ViewRef]] = defaultdict(list)

    def add(self, job: InpaintJob) -> Iterator[Result | Progress]:
        """Add an image, and sample what makes a full batch. An image without a hole is copied."""
        keep = job.result.keep
        if keep is not None and keep.all():
            note = "the mask keeps every pixel: nothing to inpaint, the image was copied"
            yield with_inpainted(job, job.result.gt, note=note)
            return
        composite = Composite(job)
        for number, view in enumerate(job.views):
            if view.full_resolution:
                yield from self._run_full_resolution((composite, number))
            else:
                self.pending[view.pixels.shape].append((composite, number))
                yield from self._run_full_batches()

    def finish(self) -> Iterator[Result | Progress]:
        """Sample everything that waits."""
        while self.pending:
            yield from self._run_batch(self.pending.pop(next(iter(self.pending))))

    def _run_full_batches(self) -> Iterator[Result | Progress]:
        """Sample the most frequent shape if it fills a batch, or if too much waits."""
        shape = max(self.pending, key=lambda shape: len(self.pending[shape]))
        limit = MAX_PENDING_BATCHES * self.inpainter.batch_size
        full = len(self.pending[shape]) >= self.inpainter.batch_size_for(shape)
        if full or sum(map(len, self.pending.values())) >= limit or self._nbytes() > MAX_PENDING_BYTES:
            yield from self._run_batch(self.pending.pop(shape))

    def _nbytes(self) -> int:
        """Memory of the images that wait."""
        composites = {composite for batch in self.pending.values() for composite, _ in batch}
        return sum(composite.job.result.nbytes for composite in composites)

    def _run_batch(self, batch: list[ViewRef]) -> Iterator[Result | Progress]:
        """Sample equally shaped views, as many together as memory holds, found by halving.

        A view's noise is its own, so the result does not depend on the batch.
        """
        shape = _view(batch[0]).pixels.shape
        while batch := [ref for ref in batch if not ref[0].failed]:
            chunk = batch[: self.inpainter.batch_size_for(shape)]
            events = self.inpainter.sample_batch(chunk)
            if (yield from self._run_or_halve(events, shape, chunk[0], len(chunk))):
                batch = batch[len(chunk) :]

    def _run_full_resolution(self, ref: ViewRef) -> Iterator[Result | Progress]:
        """Sample a full-resolution view, as many of its windows together as memory holds."""
        shape, done = (self.inpainter.size, self.inpainter.size, 3), False
        while not done and not ref[0].failed:
            batch_size = self.inpainter.batch_size_for(shape)
            events = self.inpainter.sample_full_resolution(ref, batch_size)
            done = yield from self._run_or_halve(events, shape, ref, batch_size)

    def _run_or_halve(
        self, events: Iterator[Result | Progress], shape: Shape, ref: ViewRef, batch_size: int
    ) -> Generator[Result | Progress, None, bool]:
        """Hand on the events; returns False, and halves the batch of that shape, when memory runs out.

        If even one view is too many, its image fails.
        """
        try:
            yield from events
            return True
        except (RuntimeError, MemoryError) as error:
            if not memory.is_out_of_memory(error):
                raise
        torch.cuda.empty_cache()  # here, where no traceback holds the failed attempt any longer
        self.inpainter.max_batch[shape] = -(-batch_size // 2)
        if batch_size == 1:
            rows, cols = _view(ref).pixels.shape[:2]
            seen = f"the model sees {cols}x{rows} pixels"
            yield ref[0].fail(f"out of memory on {self.inpainter.device}: {seen}; shrink the image")
        return False


def _view(ref: ViewRef) -> ModelView:
    composite, number = ref
    return composite.job.views[number]


def _progress(batch: Sequence[ViewRef], step: int, steps: int) -> Progress:
    names = tuple(dict.fromkeys(composite.job.result.name for composite, _ in batch))
    first = batch[0][0].job
    last = max(number for composite, number in batch if composite.job is first)
    return Progress(names, step, steps, last + 1, len(first.views))
