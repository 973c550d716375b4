"""DDNM: the observed part of every predicted x_0 is replaced by the observation.

Paper: Wang, Yu, Zhang 2022, "Denoising Diffusion Null-Space Model" (arXiv 2212.00490), algorithms 1 and 2.
Where we differ: eta < 1 steps down by DDIM between the same two points; time travel is a jump schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from guided_diffusion.config.builder import Share
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.operators import replace_range
from guided_diffusion.samplers.base import Problem, Sampler, Step
from guided_diffusion.scheduler import JumpSchedule


@dataclass(frozen=True)
class DDNM(Sampler):
    """DDNM with time travel."""

    needs_mask: ClassVar[bool] = True

    eta: Share = 1.0
    """Noise of a step: 1 = a draw from `q(x_{t-1} | x_t, x_0)`, as in the paper; 0 = deterministic."""
    schedule_jump_params: JumpSchedule = field(default_factory=JumpSchedule)
    """Time travel, as a [jump schedule](#schedule_jump_params); none by default."""

    def times(self, process: GaussianDiffusion) -> Sequence[int]:
        return self.schedule_jump_params.times(process.num_timesteps)

    def down(self, problem: Problem, step: Step, t_next: int) -> Step:
        p, process = problem.denoise(step.x, step.t), problem.process
        # Guidance comes first: after the replacement it would move what was observed.
        x0 = p.x0 if p.score is None else process.guided_x0(step.x, step.t, p.x0, p.score)
        x0 = replace_range(problem.operator, x0, problem.y)  # eq. 13
        x = process.ddim_step(step.x, step.t, t_next, x0, self.eta, problem.noise())
        return Step(t_next, x, x0)
