"""Intermediate-conditional sampling: noise the whole image to t_start and denoise it from there. No mask.

Paper: Meng et al. 2021, "SDEdit" (arXiv 2108.01073), algorithm 1; used on shadows by the project
shadow-diffusion. Where we differ from the latter: the image is noised to the very step from which
denoising starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.samplers.base import Problem, Sampler, Step


@dataclass(frozen=True)
class Intermediate(Sampler):
    """Sampling from a noised image."""

    t_start: int
    """Step of the respaced process, from 0, to which the image is noised. A larger value keeps less of it."""

    def times(self, process: GaussianDiffusion) -> Sequence[int]:
        if not 0 <= self.t_start < process.num_timesteps:
            raise ValueError(
                f"t_start {self.t_start} is not a step of the process, which has {process.num_timesteps}; "
                f"choose 0 to {process.num_timesteps - 1} or change timestep_respacing"
            )
        return range(self.t_start, -2, -1)

    def start(self, problem: Problem, t: int) -> Tensor:
        return problem.process.q_sample(problem.y, t, problem.noise())

    def down(self, problem: Problem, step: Step, t_next: int) -> Step:
        p = problem.denoise(step.x, step.t)
        x = problem.process.ddpm_step(step.x, step.t, p.x0, p.log_variance, problem.noise(), p.score)
        return Step(t_next, x, p.x0)
