"""DDIM: fewer, larger, optionally deterministic steps.

Paper: Song, Meng, Ermon 2020, "Denoising Diffusion Implicit Models" (arXiv 2010.02502), eq. 12 and 16.
Where we differ: an observation, if there is one, replaces its part of x_t before each evaluation, as in
RePaint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from guided_diffusion.config.builder import Share
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.samplers.base import Problem, Step, inject, renoise


@dataclass(frozen=True)
class DDIM:
    """eta: 0 is deterministic, 1 is as noisy as DDPM. The number of steps is `timestep_respacing`."""

    eta: Share = 0.0

    def times(self, process: GaussianDiffusion) -> Sequence[int]:
        return range(process.num_timesteps - 1, -2, -1)

    def start(self, problem: Problem, t: int) -> Tensor:
        return problem.noise()

    def down(self, problem: Problem, step: Step, t_next: int) -> Step:
        x = inject(problem, step.x, step.t)
        p = problem.denoise(x, step.t)
        x = problem.process.ddim_step(x, step.t, t_next, p.x0, self.eta, problem.noise(), p.score)
        return Step(t_next, x, p.x0)

    up = staticmethod(renoise)
