"""DDIM: fewer, larger, optionally deterministic steps.

Paper: Song, Meng, Ermon 2020, "Denoising Diffusion Implicit Models" (arXiv 2010.02502), eq. 12 and 16.
Where we differ: an observation, if there is one, replaces its part of x_t before each evaluation, as in
RePaint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from guided_diffusion.config.builder import Share
from guided_diffusion.samplers.base import Problem, Sampler, Step, inject


@dataclass(frozen=True)
class DDIM(Sampler):
    """DDIM. The number of steps is `timestep_respacing`."""

    generates: ClassVar[bool] = True

    eta: Share = 0.0
    """Noise of a step: 0 = deterministic, 1 = as noisy as DDPM."""

    def down(self, problem: Problem, step: Step, t_next: int) -> Step:
        x = inject(problem, step.x, step.t)
        p = problem.denoise(x, step.t)
        x = problem.process.ddim_step(x, step.t, t_next, p.x0, self.eta, problem.noise(), p.score)
        return Step(t_next, x, p.x0)
