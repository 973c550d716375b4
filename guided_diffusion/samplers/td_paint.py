"""TD-Paint: the network sees the known pixels clean, at time 0, beside the noisy ones at time t.

Paper: Mayet et al. 2024, "TD-Paint: Faster Diffusion Inpainting Through Time Aware Pixel Conditioning" (arXiv
2410.09306). It takes a network that was trained so, and never goes back in time.
Where we differ: nowhere. DDIM's steps are left out: with a learned variance DDPM's keep the spread of what
is inpainted at any number of steps, and DDIM's narrow it (tests/samplers/test_td_paint.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from guided_diffusion.denoiser import Prediction
from guided_diffusion.samplers.base import Problem, Sampler, Step


@dataclass(frozen=True)
class TDPaint(Sampler):
    """No settings: the number of steps is `timestep_respacing`."""

    needs_mask: ClassVar[bool] = True
    takes_classifier: ClassVar[bool] = False
    needs_per_pixel_time: ClassVar[bool] = True

    def down(self, problem: Problem, step: Step, t_next: int) -> Step:
        x, noise = _with_clean_pixels(problem, step.x), problem.noise()
        p = _predict(problem, x, step.t)
        x = problem.process.ddpm_step(x, step.t, p.x0, p.log_variance, noise, p.score)
        return Step(t_next, _with_clean_pixels(problem, x), p.x0)


def _with_clean_pixels(problem: Problem, x: Tensor) -> Tensor:
    """x whose known pixels are those of the observation, without noise."""
    known = problem.operator.known
    return x if known is None else torch.where(known > 0, problem.y, x)


def _predict(problem: Problem, x: Tensor, t: int) -> Prediction:
    """Raises ValueError for an observation that is not of whole pixels."""
    known = problem.operator.known
    if known is not None:
        return problem.denoise(x, t, known.expand(len(x), 1, *x.shape[-2:]))
    if problem.operator.observes:
        raise ValueError(f"this method knows whole pixels: it takes a mask, not {problem.operator}")
    return problem.denoise(x, t)
