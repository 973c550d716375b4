"""Refinement of a relit image's pixels: against Wiener's error and a sampled variance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from guided_diffusion.denoiser import Prediction
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.images.colour import to_linear, to_srgb
from guided_diffusion.shadow.refine import light_variance, matte_variance, refine

PROCESS = GaussianDiffusion(np.linspace(1e-3, 0.3, 50))
SIDE = 16


class Ground:
    """The ideal denoiser of pixels that are N(mean, deviation^2) in model space; counts its windows."""

    def __init__(self, mean: float, deviation: float) -> None:
        self.mean, self.variance, self.windows = mean, deviation**2, 0

    def __call__(self, x: Tensor, t: int, clean: Tensor | None = None) -> Prediction:
        self.windows += len(x)
        a = PROCESS.alpha_bar(t)
        share = a**0.5 * self.variance / (a * self.variance + 1 - a)
        x0 = self.mean + share * (x - a**0.5 * self.mean)
        return Prediction(x0, PROCESS.eps_from_x0(x, t, x0), torch.zeros_like(x))


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def refined(
    srgb: Tensor, transmission: Tensor, matte: Tensor, noise: float, ground: Ground, seed: int = 0
) -> Tensor:
    with torch.no_grad():
        return refine(srgb, transmission, matte, noise, SIDE, ground, PROCESS, draws(seed))


@pytest.mark.parametrize("share", [0.6, 0.2, 0.05])
def test_refine_takes_out_amplified_noise(share: float) -> None:
    """The error falls below that of division. It lies between the smallest possible one, Wiener's, and twice
    that, the error of a sample of the posterior."""
    size, noise, deviation = (3, 48, 48), 3.0, 0.04
    free = (0.5 + deviation / 2 * torch.randn(size, generator=draws(1))).clamp(0, 1)
    transmission = torch.full(size, share)
    dark = to_srgb(transmission * to_linear(free))
    seen = (dark + noise / 255 * torch.randn(size, generator=draws(2))).clamp(0, 1)
    divided = to_srgb(to_linear(seen) / transmission)
    result = refined(seen, transmission, torch.ones(size[1:]), noise, Ground(0.0, deviation))
    before, after = (float((p - free).square().mean()) for p in (divided, result))
    ideal = 1 / (1 / before + 1 / (deviation / 2) ** 2)  # both are nearly Gaussian
    assert ideal < 1.05 * after
    assert after < min(1.7 * ideal, 0.95 * before)


def test_refine_without_doubt_only_divides() -> None:
    """Neither noise nor penumbra: the answer is y / T, whatever the model thinks."""
    srgb = 0.1 + 0.3 * torch.rand(3, 40, 24, generator=draws())
    transmission, matte = torch.full_like(srgb, 0.5), torch.ones(40, 24)
    result = refined(srgb, transmission, matte, 0.0, Ground(0.8, 0.1))
    assert torch.allclose(result, to_srgb(to_linear(srgb) / transmission), atol=2e-5)
    assert not torch.allclose(refined(srgb, transmission, matte, 5.0, Ground(0.8, 0.1)), result, atol=0.01)


def test_refine_uses_the_model_in_the_penumbra_without_noise_too() -> None:
    matte = torch.linspace(0, 1, 33).expand(20, 33)
    transmission = (1 - 0.8 * matte).expand(3, 20, 33)
    srgb = to_srgb(transmission * 0.3)
    change = (
        refined(srgb, transmission, matte, 0.0, Ground(0.9, 0.1)) - to_srgb(torch.full_like(srgb, 0.3))
    ).abs()
    assert change[..., [0, 32]].max() < 1e-3 < 0.01 < change[..., 16].min()


@pytest.mark.parametrize("size", [(5, 7), (16, 16), (17, 40), (90, 15)])
def test_refine_accepts_any_size(size: tuple[int, int]) -> None:
    srgb = torch.rand(3, *size, generator=draws())
    result = refined(srgb, torch.full_like(srgb, 0.4), torch.ones(size), 1.5, Ground(0.0, 0.3))
    assert result.shape == srgb.shape and torch.isfinite(result).all()
    assert result.min() >= 0 and result.max() <= 1
    again = refined(srgb, torch.full_like(srgb, 0.4), torch.ones(size), 1.5, Ground(0.0, 0.3))
    assert torch.equal(result, again)


def test_refine_runs_only_windows_in_the_shadow() -> None:
    srgb, matte = torch.full((3, 160, 160), 0.4), torch.zeros(160, 160)
    matte[70:74, 70:74] = 1
    transmission = 1 - 0.5 * matte.expand(3, -1, -1)
    near, whole = Ground(0.0, 0.2), Ground(0.0, 0.2)
    refined(srgb, transmission, matte, 1.5, near)
    refined(srgb, transmission, torch.ones(160, 160), 1.5, whole)
    assert 0 < near.windows < whole.windows / 20


def test_light_variance_equals_that_of_noisy_values() -> None:
    srgb = torch.tensor([0.02, 0.05, 0.2, 0.5, 0.9]).expand(3, 1, 5)
    noisy = srgb + 1.5 / 255 * torch.randn(20_000, 3, 1, 5, generator=draws())
    assert torch.allclose(to_linear(noisy).var(dim=0), light_variance(srgb, 1.5), rtol=0.06)
    ends = light_variance(torch.tensor([0.0, 1.0]).expand(3, 1, 2), 1.5)
    assert torch.isfinite(ends).all() and (ends > 0).all()


def test_matte_variance_equals_that_of_wrong_mattes() -> None:
    """x (1 - alpha depth) for alphas around a half, against ten thousand of them."""
    depth, light = 0.7, 0.4
    alphas = 0.5 + 0.1 * torch.randn(20_000, generator=draws())
    sampled = (light * (1 - alphas * depth)).var()
    matte = torch.tensor([[0.0, 0.5, 1.0]])
    transmission = (1 - matte * depth).expand(3, 1, 3)
    variance = matte_variance(to_srgb(light * transmission), transmission, matte)
    assert torch.allclose(variance[:, 0, 1], sampled.expand(3), rtol=0.05)
    assert not variance[..., [0, 2]].any()
