"""Refine: a shadow was divided out of an image; the prior takes out the noise that this amplified.

Papers: Meng et al. 2021, "SDEdit" (arXiv 2108.01073), for the start; Guo et al. 2023, "ShadowDiffusion"
(arXiv 2212.04711), for the data consistency in linear light; Song et al. 2021, "DDIM" (arXiv 2010.02502),
for the step. Where we differ: no network is trained for shadows; the shadow was fitted, and the operator says
how sure it is at each pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from guided_diffusion.config.builder import Count, NonNegative, Share
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.samplers.base import Problem, Sampler, Step


@dataclass(frozen=True)
class Refine(Sampler):
    """Refinement of an image whose shadow was divided out. Needs a ShadowOperator; ignores a classifier."""

    selectable: ClassVar[bool] = False

    t_start: Share = 0.2
    """Fraction of the process at which the shadow-free image enters."""
    steps: Count = 10
    """Most network function evaluations."""
    doubt: NonNegative = 0.1
    """Variance of the light of a predicted x0, as a multiple of (1 - alpha_bar) / alpha_bar. A larger value
    stays closer to the observation."""
    eta: Share = 1.0
    """Noise of a DDIM step: 0 = deterministic, 1 = as noisy as DDPM."""

    def times(self, process: GaussianDiffusion) -> Sequence[int]:
        first, last = max(0, round(self.t_start * process.num_timesteps) - 1), max(1, self.steps - 1)
        return [*sorted({round(first * (1 - i / last)) for i in range(self.steps)}, reverse=True), -1]

    def start(self, problem: Problem, t: int) -> Tensor:
        return problem.process.q_sample(problem.operator.pinv(problem.y), t, problem.noise())

    def down(self, problem: Problem, step: Step, t_next: int) -> Step:
        operator, process = problem.operator, problem.process
        x0, a = problem.denoise(step.x, step.t).x0, process.alpha_bar(step.t)
        x0 = operator.posterior_mean(x0, problem.y, self.doubt * (1 - a) / a)
        return Step(t_next, process.ddim_step(step.x, step.t, t_next, x0, self.eta, problem.noise()), x0)
