"""ILVR: the low frequencies of every step are those of a reference image, the rest is the prior's. No mask.

Paper: Choi et al. 2021, "ILVR" (arXiv 2108.02938), algorithm 1 and section 3.3.
Where we differ: the low-pass is the mean over blocks (the paper's is bicubic, down and up again), so that it
is a projection and the result keeps the reference's exactly. As in the paper, unlike its published code,
x_{t-1} takes the reference noised to t-1, and the last step is conditioned too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from guided_diffusion.config.builder import Count, Index
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.operators import LowPass, replace_range
from guided_diffusion.samplers.base import Problem, Sampler, Step


@dataclass(frozen=True)
class ILVR(Sampler):
    """ILVR. The number of steps is `timestep_respacing`."""

    down_n: Count
    """Side of the blocks whose mean colours are kept, in pixels as the model sees them (the paper's N). A
    larger value keeps less of the image."""
    range_t: Index = 0
    """Number of the last, cleanest steps that are not conditioned on the image."""

    def times(self, process: GaussianDiffusion) -> Sequence[int]:
        if self.range_t >= process.num_timesteps:
            raise ValueError(
                f"range_t {self.range_t} leaves none of the {process.num_timesteps} steps to the reference; "
                f"choose 0 to {process.num_timesteps - 1} or change timestep_respacing"
            )
        return range(process.num_timesteps - 1, -2, -1)

    def down(self, problem: Problem, step: Step, t_next: int) -> Step:
        p, process = problem.denoise(step.x, step.t), problem.process
        x = process.ddpm_step(step.x, step.t, p.x0, p.log_variance, problem.noise(), p.score)
        if step.t >= self.range_t:
            y = process.q_sample(problem.y, t_next, problem.noise())
            x = replace_range(LowPass(self.down_n), x, y)  # eq. 9
        return Step(t_next, x, p.x0)
