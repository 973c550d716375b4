"""The loop over timesteps, written once, and all that a sampler may see.

A sampler is a frozen dataclass with `times, start, down, up`; its fields are its YAML keys. The loop goes
`down` (one NFE, a Step is yielded) or `up` (noise only) for each pair of neighbours in `times`. Time -1 is
clean. Tensors are (B, C, H, W) in model space.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from guided_diffusion.denoiser import Denoise
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.operators import Operator, replace_range

GPU_DRAW_SIZE = 1 << 18  # numbers that a GPU draws at once for an image


class Noise:
    """Standard normal noise with one generator per image, so that an image's noise ignores its batch.

    Args:
        generators: one per image, all on the device on which the noise is wanted.
        shape: (C, H, W) of one image.
    """

    def __init__(self, generators: Sequence[torch.Generator], shape: Sequence[int]) -> None:
        self.generators, self.shape = list(generators), tuple(shape)
        self._stream = self._endless()

    def __call__(self) -> Tensor:
        """Draw (B, C, H, W) float32."""
        return next(self._stream)

    def _endless(self) -> Iterator[Tensor]:
        device = self.generators[0].device
        steps = draws_at_once(device, self.shape)
        while True:
            drawn = torch.empty(len(self.generators), steps, *self.shape, device=device)
            for image, generator in zip(drawn, self.generators, strict=True):
                image.normal_(generator=generator)
            for step in drawn.unbind(1):
                yield step.contiguous()


def draws_at_once(device: torch.device, shape: Sequence[int]) -> int:
    """How many times (C, H, W) numbers are drawn for an image at once.

    On a GPU a draw is a launch for each image, which for many small images outweighs the network. An
    image's numbers depend on this count, so it must not depend on the batch.
    """
    return max(1, GPU_DRAW_SIZE // math.prod(shape)) if device.type == "cuda" else 1


class DrawNoise(Protocol):
    """Each call gives fresh standard normal noise of the batch's shape."""

    def __call__(self) -> Tensor: ...


@dataclass(frozen=True)
class Problem:
    """All that a sampler may see."""

    y: Tensor
    """The observation, (B, C, H, W); unobserved parts are ignored."""
    operator: Operator
    """The part of the image that was observed."""
    denoise: Denoise
    """(x_t, t) -> Prediction."""
    process: GaussianDiffusion
    """The respaced process."""
    noise: DrawNoise
    """Fresh noise shaped like x."""


@dataclass(frozen=True)
class Step:
    """The state of the loop: x at time t, and the latest prediction of x_0 (None before the first)."""

    t: int
    x: Tensor
    x0: Tensor | None = None


@dataclass(frozen=True)
class Sampler:
    """One method, one paper. A subclass gives `down`; the defaults are those of ancestral sampling."""

    selectable: ClassVar[bool] = True
    """A YAML may name it as its `method`."""
    needs_mask: ClassVar[bool] = False
    """Without a mask it has nothing to do."""
    generates: ClassVar[bool] = False
    """It can do without an image: `generate: N`."""
    takes_classifier: ClassVar[bool] = True
    """Classifier guidance works with it."""
    needs_per_pixel_time: ClassVar[bool] = False
    """The network must have been trained with per_pixel_time: true."""

    def times(self, process: GaussianDiffusion) -> Sequence[int]:
        """Return the timesteps to visit; the last is -1. Raises ValueError if they do not fit."""
        return range(process.num_timesteps - 1, -2, -1)

    def start(self, problem: Problem, t: int) -> Tensor:
        """Return x at the first time."""
        return problem.noise()

    def down(self, problem: Problem, step: Step, t_next: int) -> Step:
        """Go from step.t to the cleaner t_next, with one evaluation of the denoiser."""
        raise NotImplementedError

    def up(self, problem: Problem, step: Step, t_next: int) -> Step:
        """Go from step.t back to the noisier t_next by the forward process (RePaint algorithm 1, line 9)."""
        x = problem.process.q_step(step.x, step.t, t_next, problem.noise())
        return Step(t_next, x, step.x0)


def sample(sampler: Sampler, problem: Problem) -> Iterator[Step]:
    """Run the sampler; yields a Step after every evaluation of the denoiser. The last x is the result."""
    times = sampler.times(problem.process)
    step = Step(times[0], sampler.start(problem, times[0]))
    for t, t_next in pairwise(times):
        if t_next < t:
            step = sampler.down(problem, step, t_next)
            yield step
        else:
            step = sampler.up(problem, step, t_next)


def inject(problem: Problem, x: Tensor, t: int) -> Tensor:
    """Replace the observed part of x_t by a draw from q(y_t | y) (RePaint eq. 8a and 8c); nothing in plain
    generation.
    """
    if not problem.operator.observes:
        return x
    known = problem.process.q_sample(problem.y, t, problem.noise())
    return replace_range(problem.operator, x, known)
