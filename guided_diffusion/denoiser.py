"""Denoiser: (x_t, t) -> Prediction. Hides the network: its 3 or 6 channels, timestep map, labels and
precision.

Papers: Ho et al. 2020 (eps prediction), Nichol & Dhariwal 2021 (learned variance, hybrid loss, respaced
time), Mayet et al. 2024 (arXiv 2410.09306, "TD-Paint": clean pixels beside noisy ones, a time per pixel).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.losses import (
    coarse_error,
    discretized_gaussian_log_likelihood,
    mean_flat,
    nats_to_bits,
    normal_kl,
)


@dataclass(frozen=True)
class Prediction:
    """What a denoiser says of x_t; every tensor is (B, C, H, W) float32."""

    x0: Tensor  # the clean image, clipped to [-1, 1] if the denoiser clips
    eps: Tensor  # the noise that goes with x0
    log_variance: Tensor  # of p(x_{t-1} | x_t)
    score: Tensor | None = None  # scaled gradient of log p(y | x_t), when guided


class Denoise(Protocol):
    """The contract samplers rely on: x (B, C, H, W), t an index of the respaced process."""

    def __call__(self, x: Tensor, t: int) -> Prediction: ...


@runtime_checkable
class DenoiseGiven(Denoise, Protocol):
    """A Denoise that can be told which pixels are clean."""

    def given(self, x: Tensor, t: int, known: Tensor) -> Prediction:
        """x is clean where `known`, (B, 1, H, W), is 1 and at t where it is 0; there x0 = x, here it is
        predicted."""
        ...


@dataclass(frozen=True)
class Denoiser:
    """A network together with how its output is to be read.

    timesteps: for each index of `process`, the time the network was trained with (ascending; may be
    fractional).
    predict_xstart: the network gives x0, else eps. learn_sigma: it gives 2C channels, the second half being
    v.
    sigma_small: fixed variance is the posterior's, else beta (only without learn_sigma).
    clip: clip x0 to [-1, 1]. autocast: the type to which torch narrows the arithmetic, or None.
    labels: (B,) classes or None; x may hold n windows of each of the B images, (n * B, C, H, W).
    """

    network: nn.Module
    process: GaussianDiffusion
    timesteps: Tensor
    predict_xstart: bool = False
    learn_sigma: bool = True
    sigma_small: bool = False
    clip: bool = True
    autocast: torch.dtype | None = None
    labels: Tensor | None = None

    @torch.no_grad()
    def __call__(self, x: Tensor, t: int) -> Prediction:
        """x (B, C, H, W) at index t of the process -> Prediction."""
        out, v = self._network(x, self.timesteps[t : t + 1])
        return self._read(x, t, out, v)

    @torch.no_grad()
    def given(self, x: Tensor, t: int, known: Tensor) -> Prediction:
        """As DenoiseGiven: the network sees time 0 at the known pixels (TD-Paint)."""
        out, v = self._network(x, self.timesteps[t] * (1 - known))
        p = self._read(x, t, out, v)
        x0 = torch.where(known > 0, x, p.x0)
        return replace(p, x0=x0, eps=torch.where(known > 0, self.process.eps_from_x0(x, t, x), p.eps))

    def _network(self, x: Tensor, times: Tensor) -> tuple[Tensor, Tensor | None]:
        label = () if self.labels is None else (self.labels.repeat(len(x) // len(self.labels)),)
        with nullcontext() if self.autocast is None else torch.autocast(x.device.type, self.autocast):
            out = self.network(x, times, *label)
        out = out.float().contiguous()
        return out.chunk(2, dim=1) if self.learn_sigma else (out, None)

    def _read(self, x: Tensor, t: int | Tensor, out: Tensor, v: Tensor | None) -> Prediction:
        process = self.process
        x0 = out if self.predict_xstart else process.x0_from_eps(x, t, out)
        raw = not self.predict_xstart and not self.clip
        if self.clip:
            x0 = x0.clamp(-1, 1)
        eps = out if raw else process.eps_from_x0(x, t, x0)
        if v is None:
            return Prediction(x0, eps, process.log_variance(x, t, large=not self.sigma_small))
        return Prediction(x0, eps, process.learned_log_variance(v, t))

    def loss(
        self,
        x0: Tensor,
        t: Tensor,
        noise: Tensor,
        known: Tensor | None = None,
        coarse: Sequence[int] = (),
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Per-image training losses, each (B,): mean squared error of eps (or x0), the bound in bits/dim,
        and the errors of coarser images, `coarse_error` by the factors `coarse`.

        x0 (B, C, H, W) in [-1, 1], t (B,) indices, noise like x0. The bound's gradient reaches only the
        variance (Nichol & Dhariwal section 3.1); it is zero for networks with a fixed variance.
        known (B, 1, H, W): where it is 1 the network sees x0 at time 0 and nothing counts; not 1 everywhere.
        """
        x_t, times, unknown = self.process.q_sample(x0, t, noise), self.timesteps[t], None
        if known is not None:
            unknown = 1 - known
            x_t, times = torch.where(known > 0, x0, x_t), times[:, None, None, None] * unknown
        out, v = self._network(x_t, times)
        error = (x0 if self.predict_xstart else noise) - out
        simple = mean_flat(error**2, unknown)
        rough = coarse_error(error, coarse, unknown)
        if v is None:
            return simple, torch.zeros_like(simple), rough
        return simple, self._bound(x0, x_t, t, out.detach(), v, unknown), rough

    def _bound(
        self, x0: Tensor, x_t: Tensor, t: Tensor, out: Tensor, v: Tensor, unknown: Tensor | None
    ) -> Tensor:
        process = self.process
        true_mean = process.posterior_mean(x0, x_t, t)
        true_log_variance = process.log_variance(x_t, t, large=False)
        guess = self._read(x_t, t, out, v)
        mean = process.posterior_mean(guess.x0, x_t, t)
        kl = mean_flat(normal_kl(true_mean, true_log_variance, mean, guess.log_variance), unknown)
        likelihood = discretized_gaussian_log_likelihood(x0, mean, 0.5 * guess.log_variance)
        return nats_to_bits(torch.where(t == 0, -mean_flat(likelihood, unknown), kl))


def network_times(timesteps: Sequence[int], diffusion_steps: int, rescale: bool) -> Tensor:
    """The times the network sees for a respaced process: (T,) int64, or float32 rescaled to 0..1000.

    rescale: `rescale_timesteps`, t * 1000 / diffusion_steps, as in improved-diffusion.
    """
    times = torch.tensor(timesteps)
    return times.float() * (1000.0 / diffusion_steps) if rescale else times
