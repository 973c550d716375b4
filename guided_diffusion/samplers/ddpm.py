"""DDPM: ancestral sampling, one step of noise at a time.

Paper: Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models" (arXiv 2006.11239), algorithm 2.
Where we differ: an observation, if there is one, replaces its part of x_t before each evaluation, as in
RePaint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.samplers.base import Problem, Step, inject, renoise


@dataclass(frozen=True)
class DDPM:
    """No settings: the number of steps is `timestep_respacing`."""

    def times(self, process: GaussianDiffusion) -> Sequence[int]:
        return range(process.num_timesteps - 1, -2, -1)

    def start(self, problem: Problem, t: int) -> Tensor:
        return problem.noise()

    def down(self, problem: Problem, step: Step, t_next: int) -> Step:
        noise = problem.noise()
        x = inject(problem, step.x, step.t)
        p = problem.denoise(x, step.t)
        x = problem.process.ddpm_step(x, step.t, p.x0, p.log_variance, noise, p.score)
        return Step(t_next, x, p.x0)

    up = staticmethod(renoise)
