"""Refining the pixels of a relit image: against Wiener's error, a sampled variance, and what must stay."""

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

    def __call__(self, x: Tensor, t: int) -> Prediction:
        self.windows += len(x)
        a = PROCESS.alpha_bar(t)
        share = a**0.5 * self.variance / (a * self.variance + 1 - a)
        x0 = self.mean + share * (x - a**0.5 * self.mean)
        return Prediction(x0, PROCESS.eps_from_x0(x, t, x0), torch.zeros_like(x))


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def refined(
    srgb: Tensor, through: Tensor, matte: Tensor, noise: float, ground: Ground, seed: int = 0
) -> Tensor:
    with torch.no_grad():
        return refine(srgb, through, matte, noise, SIDE, ground, PROCESS, draws(seed))


@pytest.mark.parametrize("transmission", [0.6, 0.2, 0.05])
def test_noise_is_taken_out_where_it_was_lifted(transmission: float) -> None:
    """The error falls below that of division; it is between the least there can be, Wiener's, and twice that,
    which is a sample's of the posterior."""
    size, noise, deviation = (3, 48, 48), 3.0, 0.04
    free = (0.5 + deviation / 2 * torch.randn(size, generator=draws(1))).clamp(0, 1)
    through = torch.full(size, transmission)
    dark = to_srgb(through * to_linear(free))
    seen = (dark + noise / 255 * torch.randn(size, generator=draws(2))).clamp(0, 1)
    divided = to_srgb(to_linear(seen) / through)
    found = refined(seen, through, torch.ones(size[1:]), noise, Ground(0.0, deviation))
    before, after = (float((p - free).square().mean()) for p in (divided, found))
    ideal = 1 / (1 / before + 1 / (deviation / 2) ** 2)  # both are nearly Gaussian
    assert ideal < 1.05 * after
    assert after < min(1.7 * ideal, 0.95 * before)


def test_without_doubt_the_light_is_divided_out_and_nothing_else() -> None:
    """Neither noise nor penumbra: the answer is y / T, whatever the model thinks."""
    srgb = 0.1 + 0.3 * torch.rand(3, 40, 24, generator=draws())
    through, matte = torch.full_like(srgb, 0.5), torch.ones(40, 24)
    found = refined(srgb, through, matte, 0.0, Ground(0.8, 0.1))
    assert torch.allclose(found, to_srgb(to_linear(srgb) / through), atol=2e-5)
    assert not torch.allclose(refined(srgb, through, matte, 5.0, Ground(0.8, 0.1)), found, atol=0.01)


def test_in_the_penumbra_the_model_is_heard_without_noise_too() -> None:
    matte = torch.linspace(0, 1, 33).expand(20, 33)
    through = (1 - 0.8 * matte).expand(3, 20, 33)
    srgb = to_srgb(through * 0.3)
    change = (
        refined(srgb, through, matte, 0.0, Ground(0.9, 0.1)) - to_srgb(torch.full_like(srgb, 0.3))
    ).abs()
    assert change[..., [0, 32]].max() < 1e-3 < 0.01 < change[..., 16].min()


@pytest.mark.parametrize("size", [(5, 7), (16, 16), (17, 40), (90, 15)])
def test_any_size(size: tuple[int, int]) -> None:
    srgb = torch.rand(3, *size, generator=draws())
    found = refined(srgb, torch.full_like(srgb, 0.4), torch.ones(size), 1.5, Ground(0.0, 0.3))
    assert found.shape == srgb.shape and torch.isfinite(found).all()
    assert found.min() >= 0 and found.max() <= 1
    again = refined(srgb, torch.full_like(srgb, 0.4), torch.ones(size), 1.5, Ground(0.0, 0.3))
    assert torch.equal(found, again)


def test_only_windows_in_the_shadow_are_looked_at() -> None:
    srgb, matte = torch.full((3, 160, 160), 0.4), torch.zeros(160, 160)
    matte[70:74, 70:74] = 1
    through = 1 - 0.5 * matte.expand(3, -1, -1)
    near, whole = Ground(0.0, 0.2), Ground(0.0, 0.2)
    refined(srgb, through, matte, 1.5, near)
    refined(srgb, through, torch.ones(160, 160), 1.5, whole)
    assert 0 < near.windows < whole.windows / 20


def test_variance_of_light_is_that_of_noisy_values() -> None:
    srgb = torch.tensor([0.02, 0.05, 0.2, 0.5, 0.9]).expand(3, 1, 5)
    noisy = srgb + 1.5 / 255 * torch.randn(20_000, 3, 1, 5, generator=draws())
    assert torch.allclose(to_linear(noisy).var(dim=0), light_variance(srgb, 1.5), rtol=0.06)
    ends = light_variance(torch.tensor([0.0, 1.0]).expand(3, 1, 2), 1.5)
    assert torch.isfinite(ends).all() and (ends > 0).all()


def test_variance_of_the_matte_is_that_of_wrong_mattes() -> None:
    """x (1 - alpha depth) for alphas around a half, against ten thousand of them."""
    depth, light = 0.7, 0.4
    alphas = 0.5 + 0.1 * torch.randn(20_000, generator=draws())
    sampled = (light * (1 - alphas * depth)).var()
    matte = torch.tensor([[0.0, 0.5, 1.0]])
    through = (1 - matte * depth).expand(3, 1, 3)
    told = matte_variance(to_srgb(light * through), through, matte)
    assert torch.allclose(told[:, 0, 1], sampled.expand(3), rtol=0.05)
    assert not told[..., [0, 2]].any()
