"""Timestep samplers for training.

Paper: Nichol & Dhariwal 2021 (arXiv 2102.09672), section 3.3: importance sampling of t by the root mean
square of its recent losses. Where we differ: the generator is passed in.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from guided_diffusion.runtime import distributed


class UniformSampler:
    """Every timestep equally often, weight 1."""

    def __init__(self, timesteps: int) -> None:
        self.timesteps = timesteps

    def sample(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """(count,) int64 timesteps and (count,) float32 weights that keep the expected loss unbiased."""
        return torch.from_numpy(rng.integers(self.timesteps, size=count)), torch.ones(count)

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Take note of this batch's losses (B,) at timesteps t (B,)."""

    def state(self) -> dict[str, Tensor]:
        """Content for the state file."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` gave. Raises ValueError if the number of timesteps differs."""


class LossAwareSampler(UniformSampler):
    """p(t) proportional to sqrt(E[L_t^2]) over the last `history` losses of each t.

    Uniform until every t has that many losses.

    Args:
        history: losses per timestep that count.
        uniform_share: share of the draws that stay uniform, in [0, 1].
    """

    def __init__(self, timesteps: int, history: int = 10, uniform_share: float = 0.001) -> None:
        super().__init__(timesteps)
        self.uniform_share = uniform_share
        self.losses = np.zeros((timesteps, history))
        self.seen = np.zeros(timesteps, dtype=np.int64)

    def probabilities(self) -> np.ndarray:
        """Probability of each timestep, (T,) float64, sums to 1."""
        if (self.seen < self.losses.shape[1]).any():
            return np.full(self.timesteps, 1 / self.timesteps)
        root = np.sqrt((self.losses**2).mean(axis=1))
        return root / root.sum() * (1 - self.uniform_share) + self.uniform_share / self.timesteps

    def sample(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        p = self.probabilities()
        t = rng.choice(self.timesteps, size=count, p=p)
        return torch.from_numpy(t), torch.from_numpy(1 / (self.timesteps * p[t])).float()

    def update(self, t: Tensor, losses: Tensor) -> None:
        timesteps = distributed.gather(t).tolist()
        gathered = distributed.gather(losses.detach().float()).tolist()
        for step, loss in zip(timesteps, gathered, strict=True):
            self.losses[step, self.seen[step] % self.losses.shape[1]] = loss
            self.seen[step] += 1

    def state(self) -> dict[str, Tensor]:
        return {"losses": torch.from_numpy(self.losses), "seen": torch.from_numpy(self.seen)}

    def restore(self, state: dict[str, Tensor]) -> None:
        if not state:  # the run drew uniformly until now
            return
        losses, seen = (state[name].cpu().numpy().copy() for name in ("losses", "seen"))
        if losses.shape != self.losses.shape:
            raise ValueError(f"it has losses of {len(losses)} timesteps; set diffusion_steps: {len(losses)}")
        self.losses, self.seen = losses, seen


SAMPLERS = {"uniform": UniformSampler, "loss-aware": LossAwareSampler}
