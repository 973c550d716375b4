"""TD-Paint: the network sees the known pixels clean, at time 0, beside the noisy ones at time t.

Paper: Mayet et al. 2024, "TD-Paint: Faster Diffusion Inpainting Through Time Aware Pixel Conditioning" (arXiv
2410.09306). It takes a network that was trained so, and never goes back in time.
Where we differ: nowhere. DDIM's steps are left out: with a learned variance DDPM's keep the spread of what is
filled at any number of steps, and DDIM's narrow it (tests/test_td_paint.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from guided_diffusion.denoiser import DenoiseGiven, Prediction
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.operators import Mask, Nothing
from guided_diffusion.samplers.base import Problem, Step, renoise


@dataclass(frozen=True)
class TDPaint:
    """No settings: the number of steps is `timestep_respacing`."""

    takes_guidance: ClassVar[bool] = False  # no classifier knows clean pixels beside noisy ones
    needs_per_pixel_time: ClassVar[bool] = True

    def times(self, process: GaussianDiffusion) -> Sequence[int]:
        return range(process.num_timesteps - 1, -2, -1)

    def start(self, problem: Problem, t: int) -> Tensor:
        return problem.noise()

    def down(self, problem: Problem, step: Step, t_next: int) -> Step:
        x, noise = _held(problem, step.x), problem.noise()
        p = _predict(problem, x, step.t)
        x = problem.process.ddpm_step(x, step.t, p.x0, p.log_variance, noise, p.score)
        return Step(t_next, _held(problem, x), p.x0)

    up = staticmethod(renoise)


def _held(problem: Problem, x: Tensor) -> Tensor:
    """x with its known pixels clean."""
    operator = problem.operator
    return torch.where(operator.keep > 0, problem.y, x) if isinstance(operator, Mask) else x


def _predict(problem: Problem, x: Tensor, t: int) -> Prediction:
    """Raises ValueError for what this method cannot know, and for a denoiser that cannot be told of it."""
    denoise, operator = problem.denoise, problem.operator
    if isinstance(operator, Nothing):
        return denoise(x, t)
    if not isinstance(operator, Mask):
        raise ValueError(f"method td_paint knows whole pixels: it takes a mask, not {operator}")
    if not isinstance(denoise, DenoiseGiven):
        raise ValueError(f"{type(denoise).__name__} cannot be told what is clean; use method repaint")
    return denoise.given(x, t, operator.keep.expand(len(x), 1, *x.shape[-2:]))
