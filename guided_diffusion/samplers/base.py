"""The walk over timesteps, written once, and what a sampler may see.

A sampler is a frozen dataclass with `times, start, down, up`; its fields are its YAML keys. The walk goes
`down` (one network evaluation, a Step is yielded) or `up` (noise only) for each pair of neighbours in
`times`. Time -1 is clean. Tensors are (B, C, H, W) in model space.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from guided_diffusion.denoiser import Denoise
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.operators import Nothing, Operator, replace_range

AHEAD = 1 << 18  # numbers that a GPU draws at once for an image


class Noise:
    """Standard normal draws, one generator per image, so that an image's draws ignore its batch.

    generators: one per image, all on the device on which the noise is wanted. shape: (C, H, W) of one
    image.
    """

    def __init__(self, generators: Sequence[torch.Generator], shape: Sequence[int]) -> None:
        self.generators, self.shape = list(generators), tuple(shape)
        self.draws = self._endless()

    def __call__(self) -> Tensor:
        """(B, C, H, W) float32, fresh."""
        return next(self.draws)

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
    image's numbers hang on this one, so it must not depend on the batch.
    """
    return max(1, AHEAD // math.prod(shape)) if device.type == "cuda" else 1


class DrawNoise(Protocol):
    """Each call gives fresh standard normal noise of the batch's shape."""

    def __call__(self) -> Tensor: ...


@dataclass(frozen=True)
class Problem:
    """All that a sampler may see.

    y: the observation, in image space (unobserved parts are ignored); operator: what was observed;
    denoise: (x_t, t) -> Prediction; process: the respaced process; noise: fresh draws shaped like x.
    With the operator Nothing, y says no more than the shape.
    """

    y: Tensor
    operator: Operator
    denoise: Denoise
    process: GaussianDiffusion
    noise: DrawNoise


@dataclass(frozen=True)
class Step:
    """Where the walk stands: x at time t, and the latest prediction of x_0 (None before the first)."""

    t: int
    x: Tensor
    x0: Tensor | None = None


class Sampler(Protocol):
    """One method, one paper."""

    def times(self, process: GaussianDiffusion) -> Sequence[int]:
        """The timesteps to visit, first to last; the last is -1. Raises ValueError when they do not fit."""
        ...

    def start(self, problem: Problem, t: int) -> Tensor:
        """x at the first time."""
        ...

    def down(self, problem: Problem, step: Step, t_next: int) -> Step:
        """From step.t to the cleaner t_next, with one evaluation of the denoiser."""
        ...

    def up(self, problem: Problem, step: Step, t_next: int) -> Step:
        """From step.t back to the noisier t_next."""
        ...


def walk(sampler: Sampler, problem: Problem) -> Iterator[Step]:
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
    """x_t with its observed part drawn from q(y_t | y) (RePaint eq. 8a and 8c); x_t itself in plain
    generation.
    """
    if isinstance(problem.operator, Nothing):
        return x
    known = problem.process.q_sample(problem.y, t, problem.noise())
    return replace_range(problem.operator, x, known)


def renoise(problem: Problem, step: Step, t_next: int) -> Step:
    """Back up by the forward process (RePaint algorithm 1, line 9)."""
    x = problem.process.q_step(step.x, step.t, t_next, problem.noise())
    return Step(t_next, x, step.x0)
