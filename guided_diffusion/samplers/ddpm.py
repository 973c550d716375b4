"""DDPM: ancestral sampling, one step of noise at a time.

Paper: Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models" (arXiv 2006.11239), algorithm 2.
Where we differ: an observation, if there is one, replaces its part of x_t before each evaluation, as in
RePaint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from guided_diffusion.samplers.base import Problem, Sampler, Step, inject


@dataclass(frozen=True)
class DDPM(Sampler):
    """No settings: the number of steps is `timestep_respacing`."""

    generates: ClassVar[bool] = True

    def down(self, problem: Problem, step: Step, t_next: int) -> Step:
        noise = problem.noise()
        x = inject(problem, step.x, step.t)
        p = problem.denoise(x, step.t)
        x = problem.process.ddpm_step(x, step.t, p.x0, p.log_variance, noise, p.score)
        return Step(t_next, x, p.x0)
