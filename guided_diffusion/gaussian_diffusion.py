"""The diffusion process: closed-form maths of q and p for a list of betas. No network, no loop, no
randomness.

Papers: Ho et al. 2020 (arXiv 2006.11239; "DDPM"), Nichol & Dhariwal 2021 (arXiv 2102.09672; learned
variance), Song et al. 2020 (arXiv 2010.02502; "DDIM").
Where we differ: coefficients are looked up once per device, and a step shared by the whole batch is a Python
number, so that sampling uploads nothing and never waits for the device.

`t` is an index into these betas: 0 is the least noisy step, -1 means clean. It is an int, or a tensor of
indices: (B,), or already broadcastable against x, such as (B, 1, H, W) for a time per pixel.
Everywhere x0, x_t, eps, noise are (B, C, H, W) floats in model space ([-1, 1] for images).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

Coefficient: TypeAlias = "float | Tensor"


class GaussianDiffusion:
    """Coefficients and steps of q(x_t | x_0), q(x_t | x_{t-1}), q(x_{t-1} | x_t, x_0) and their reversals.

    betas: (T,) float64, each in (0, 1). The float64 tables are public attributes under their usual names.
    """

    def __init__(self, betas: np.ndarray) -> None:
        betas = np.asarray(betas, dtype=np.float64)
        if betas.ndim != 1 or len(betas) == 0 or not ((betas > 0) & (betas < 1)).all():
            raise ValueError("betas must be a non-empty 1-d array of numbers in (0, 1)")
        self.betas = betas
        self.num_timesteps = len(betas)
        self.alphas_cumprod = np.cumprod(1.0 - betas)
        self.alphas_cumprod_prev = np.append(1.0, self.alphas_cumprod[:-1])
        self.sqrt_recip_alphas_cumprod = np.sqrt(1.0 / self.alphas_cumprod)
        self.sqrt_recipm1_alphas_cumprod = np.sqrt(1.0 / self.alphas_cumprod - 1)
        ratio = (1.0 - self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod)
        self.posterior_variance = betas * ratio  # DDPM eq. 7
        # The first posterior variance is 0; its logarithm is replaced by the second's.
        second = self.posterior_variance[1] if len(betas) > 1 else betas[0]
        self.posterior_log_variance_clipped = np.log(np.append(second, self.posterior_variance[1:]))
        self.posterior_mean_coef1 = betas * np.sqrt(self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod)
        self.posterior_mean_coef2 = (
            (1.0 - self.alphas_cumprod_prev) * np.sqrt(1.0 - betas) / (1.0 - self.alphas_cumprod)
        )
        self._tables = self._float32_tables()
        self._numbers = {name: table.tolist() for name, table in self._tables.items()}
        self._on_device: dict[tuple[str, torch.device], Tensor] = {}

    def _float32_tables(self) -> dict[str, np.ndarray]:
        alpha_bar = torch.from_numpy(self.alphas_cumprod).float()
        beta = torch.from_numpy(self.betas).float()
        large = (
            np.append(self.posterior_variance[1:2], self.betas[1:]) if self.num_timesteps > 1 else self.betas
        )
        tables = {
            # The roots are torch's, in float32, as in the published sampler: bit parity hangs on it.
            "signal": alpha_bar.sqrt().numpy(),
            "noise": (1 - alpha_bar).sqrt().numpy(),
            "step_signal": (1 - beta).sqrt().numpy(),
            "step_noise": beta.sqrt().numpy(),
            "recip": self.sqrt_recip_alphas_cumprod,
            "recipm1": self.sqrt_recipm1_alphas_cumprod,
            "mean_x0": self.posterior_mean_coef1,
            "mean_xt": self.posterior_mean_coef2,
            "log_small": self.posterior_log_variance_clipped,
            "log_large": np.log(large),
            "log_beta": np.log(self.betas),
            "alpha_bar": self.alphas_cumprod,
        }
        return {name: table.astype(np.float32) for name, table in tables.items()}

    def _at(self, name: str, t: int | Tensor) -> Coefficient:
        if isinstance(t, int):
            return self._numbers[name][t]
        key = (name, t.device)
        if key not in self._on_device:
            self._on_device[key] = torch.from_numpy(self._tables[name]).to(t.device)
        values = self._on_device[key][t]
        return values[:, None, None, None] if t.ndim == 1 else values

    def alpha_bar(self, t: int) -> float:
        """The squared share of signal in x_t, in (0, 1]; 1 for t = -1."""
        return float(self.alphas_cumprod[t]) if t >= 0 else 1.0

    # q: towards noise

    def q_sample(self, x0: Tensor, t: int | Tensor, noise: Tensor) -> Tensor:
        """x_t ~ q(x_t | x_0) (DDPM eq. 4); x0 itself for t = -1."""
        if isinstance(t, int) and t < 0:
            return x0
        return self._at("signal", t) * x0 + self._at("noise", t) * noise

    def q_step(self, x: Tensor, t: int, t_next: int, noise: Tensor) -> Tensor:
        """From x_t to the noisier x_{t_next}, t < t_next: q(x_{t_next} | x_t) (DDPM eq. 2, composed)."""
        if t_next == t + 1:
            return self._at("step_signal", t_next) * x + self._at("step_noise", t_next) * noise
        ratio = self.alpha_bar(t_next) / self.alpha_bar(t)
        return ratio**0.5 * x + (1 - ratio) ** 0.5 * noise

    # p: towards the image

    def x0_from_eps(self, x_t: Tensor, t: int | Tensor, eps: Tensor) -> Tensor:
        """The clean image that `eps` implies (DDPM eq. 4 solved for x_0)."""
        return self._at("recip", t) * x_t - self._at("recipm1", t) * eps

    def eps_from_x0(self, x_t: Tensor, t: int | Tensor, x0: Tensor) -> Tensor:
        """The noise that `x0` implies (DDPM eq. 4 solved for eps)."""
        return (self._at("recip", t) * x_t - x0) / self._at("recipm1", t)

    def guided_x0(self, x_t: Tensor, t: int | Tensor, x0: Tensor, score: Tensor) -> Tensor:
        """x0 once its eps is shifted by -sqrt(1 - alpha_bar) score (ADM algorithm 2)."""
        return self.x0_from_eps(x_t, t, self.eps_from_x0(x_t, t, x0) - self._at("noise", t) * score)

    def posterior_mean(self, x0: Tensor, x_t: Tensor, t: int | Tensor) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x_0) (DDPM eq. 7)."""
        return self._at("mean_x0", t) * x0 + self._at("mean_xt", t) * x_t

    def log_variance(self, like: Tensor, t: int | Tensor, large: bool) -> Tensor:
        """Fixed log variance of p(x_{t-1} | x_t), shaped `like`: beta_t (large) or the posterior's."""
        return torch.zeros_like(like) + self._at("log_large" if large else "log_small", t)

    def learned_log_variance(self, v: Tensor, t: int | Tensor) -> Tensor:
        """Log variance from v in [-1, 1], between posterior and beta (Nichol & Dhariwal eq. 15)."""
        share = (v + 1) / 2
        return share * self._at("log_beta", t) + (1 - share) * self._at("log_small", t)

    def ddpm_step(
        self,
        x_t: Tensor,
        t: int,
        x0: Tensor,
        log_variance: Tensor,
        noise: Tensor,
        score: Tensor | None = None,
    ) -> Tensor:
        """x_{t-1} ~ p(x_{t-1} | x_t) (DDPM algorithm 2).

        score: gradient of log p(y | x_t), already scaled: shifts the mean by variance * score (ADM
        algorithm 1).
        """
        mean = self.posterior_mean(x0, x_t, t)
        if score is not None:
            mean = mean + torch.exp(log_variance) * score
        return mean + torch.exp(0.5 * log_variance) * noise if t > 0 else mean

    def ddim_step(
        self,
        x_t: Tensor,
        t: int,
        t_next: int,
        x0: Tensor,
        eta: float,
        noise: Tensor,
        score: Tensor | None = None,
    ) -> Tensor:
        """x_{t_next} from x_t by the DDIM rule (Song et al. eq. 12 and 16), t_next < t, -1 = clean.

        eta: 0 deterministic, 1 as noisy as DDPM. score: as in `ddpm_step`; shifts eps, see `guided_x0`.
        """
        if score is not None:
            x0 = self.guided_x0(x_t, t, x0, score)
        eps = self.eps_from_x0(x_t, t, x0)
        now, then = self.alpha_bar(t), self.alpha_bar(t_next)
        sigma = eta * ((1 - then) / (1 - now)) ** 0.5 * (1 - now / then) ** 0.5
        mean = then**0.5 * x0 + max(1 - then - sigma**2, 0.0) ** 0.5 * eps
        return mean + sigma * noise if t_next >= 0 else mean
