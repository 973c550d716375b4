"""Write a sampler of your own and check it on a prior whose every answer is known.

A sampler is a frozen dataclass: its fields are its settings, `times` says which timesteps it visits, `down`
denoises by one step. `Sampler` has defaults for the rest: the first x, and adding noise again. The loop is
`samplers.sample`.

This one is DDIM with churn (Karras et al. 2022, arXiv 2206.00364, algorithm 2, in discrete time): before some
of its steps it goes `back` a few timesteps and adds the noise that belongs there. In the package it would be
one file in guided_diffusion/samplers/, and `back` a key in the YAML.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guided_diffusion.denoiser import Prediction
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.operators import NoObservation
from guided_diffusion.respace import get_named_beta_schedule
from guided_diffusion.samplers import Noise, Problem, Sampler, Step, sample


@dataclass(frozen=True)
class Churn(Sampler):
    """DDIM that goes back a few timesteps before every `every`-th of its steps."""

    every: int = 5
    """Steps between two returns, at least 1."""
    back: int = 2
    """Timesteps that a return goes back, less than `every`."""

    def times(self, process: GaussianDiffusion) -> Sequence[int]:
        times: list[int] = []
        for t in range(process.num_timesteps - 1, -2, -1):
            times.append(t)
            if 0 < t < process.num_timesteps - self.back and t % self.every == 0:
                times += [t + self.back, t]  # up, then down again in one step
        return times

    def down(self, problem: Problem, step: Step, t_next: int) -> Step:
        p = problem.denoise(step.x, step.t)
        x = problem.process.ddim_step(step.x, step.t, t_next, p.x0, 0.0, problem.noise(), p.score)
        return Step(t_next, x, p.x0)


MEAN, DEVIATION = 0.3, 0.2  # of the prior: every pixel is drawn from this normal distribution


@dataclass(frozen=True)
class ToyDenoiser:
    """Ideal denoiser of that prior, in place of a network. x is (B, C, H, W)."""

    process: GaussianDiffusion

    def __call__(self, x: Tensor, t: int, clean: Tensor | None = None) -> Prediction:
        signal = self.process.alpha_bar(t)
        gain = signal**0.5 * DEVIATION**2 / (signal * DEVIATION**2 + 1 - signal)
        x0 = MEAN + gain * (x - signal**0.5 * MEAN)
        return Prediction(x0, self.process.eps_from_x0(x, t, x0), log_variance=torch.zeros_like(x))


def main() -> None:
    """Sample 64 images of 16x16 pixels and print their mean and deviation beside those of the prior."""
    process = GaussianDiffusion(get_named_beta_schedule("cosine", 1000))
    noise = Noise([torch.Generator().manual_seed(seed) for seed in range(64)], (3, 16, 16))
    problem = Problem(torch.zeros(64, 3, 16, 16), NoObservation(), ToyDenoiser(process), process, noise)
    for step in sample(Churn(), problem):
        x = step.x
    print(f"mean {x.mean():.3f} (prior: {MEAN}), deviation {x.std():.3f} (prior: {DEVIATION})")


if __name__ == "__main__":
    main()
