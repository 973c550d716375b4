"""Held-out losses of the ideal denoiser of Gaussian images, all of which are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from guided_diffusion.denoiser import Denoiser
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.respace import get_named_beta_schedule
from guided_diffusion.training.held_out import HeldOutLosses, measure, prior_bits, strata

MEAN, DEVIATION, TIMES = 0.1, 0.25, 24
PROCESS = GaussianDiffusion(get_named_beta_schedule("cosine", TIMES))


def variance(a: np.ndarray) -> np.ndarray:
    """Variance of x_t, for alpha_bar a."""
    return a * DEVIATION**2 + 1 - a


def reverse_variance() -> np.ndarray:
    """Variance of the exact p(x_{t-1} | x_t), (T,)."""
    a = PROCESS.alphas_cumprod
    spread = DEVIATION**2 * (1 - a) / variance(a)  # of x_0 given x_t
    return PROCESS.posterior_variance + PROCESS.posterior_mean_coef1**2 * spread


class Ideal(nn.Module):
    """For independent pixels N(MEAN, DEVIATION^2): mean eps given x_t, and v of the exact reverse step.

    off: added to eps.
    """

    def __init__(self, off: float = 0.0) -> None:
        super().__init__()
        a, lowest = PROCESS.alphas_cumprod, PROCESS.posterior_log_variance_clipped
        v = 2 * (np.log(reverse_variance()) - lowest) / (np.log(PROCESS.betas) - lowest) - 1
        self.signal, self.gain, self.v = (
            torch.from_numpy(table).float()[:, None, None, None]
            for table in (np.sqrt(a), np.sqrt(1 - a) / variance(a), v)
        )
        self.off = off

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        eps = self.gain[times] * (x - self.signal[times] * MEAN) + self.off
        return torch.cat([eps, self.v[times].expand_as(x)], dim=1)


def gaussian_images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return MEAN + DEVIATION * torch.randn(count, 3, 16, 16, generator=generator)


def measure_ideal(count: int, seed: int = 0, off: float = 0.0) -> HeldOutLosses:
    denoiser = Denoiser(Ideal(off), PROCESS, torch.arange(TIMES), clip=False)
    return measure(denoiser, gaussian_images(count), seed)


@pytest.fixture(scope="module")
def losses() -> HeldOutLosses:
    return measure_ideal(200)


def test_error_is_variance_of_eps_given_x_t(losses: HeldOutLosses) -> None:
    a = PROCESS.alphas_cumprod
    truth = a * DEVIATION**2 / variance(a)
    assert losses.error.mean() == pytest.approx(truth.mean(), rel=0.01)
    assert losses.error_by_third.mean(0) == pytest.approx(truth.reshape(3, -1).mean(1), rel=0.02)
    assert losses.error == pytest.approx(losses.error_by_third.mean(1))  # here the thirds are equally long


def test_bound_of_ideal_denoiser_is_the_entropy(losses: HeldOutLosses) -> None:
    """Its reverse steps are exact, so the bound is tight; 127.5 levels of 8 bits are one unit."""
    truth = 0.5 * math.log2(2 * math.pi * math.e * DEVIATION**2) + math.log2(127.5)
    assert losses.bits.mean() == pytest.approx(truth, abs=0.02)


def test_offset_of_eps_raises_error_and_bound_as_computed(losses: HeldOutLosses) -> None:
    """The error rises by its square, the bound by the squared shift of the step's mean over 2 variances."""
    off = measure_ideal(200, off=0.1)
    assert (off.error - losses.error).mean() == pytest.approx(0.01, rel=0.05)
    shift = 0.1 * PROCESS.posterior_mean_coef1 * PROCESS.sqrt_recipm1_alphas_cumprod
    truth = (shift**2 / (2 * reverse_variance())).sum() / math.log(2)
    assert (off.bits - losses.bits).mean() == pytest.approx(truth, rel=0.1)


def test_measure_depends_on_seed_and_index_alone() -> None:
    six, two, other = measure_ideal(6), measure_ideal(2), measure_ideal(6, seed=1)
    assert np.array_equal(six.simple[:2], two.simple) and np.array_equal(six.bound[:2], two.bound)
    assert not np.isclose(six.simple, other.simple).all(1).any()


def test_prior_bits_is_a_kl_divergence() -> None:
    process = GaussianDiffusion(np.array([0.2, 0.3]))
    alpha_bar, image = 0.8 * 0.7, torch.tensor([-1.0, 0.0, 0.5])[:, None, None]
    truth = kl_divergence(Normal(alpha_bar**0.5 * image, (1 - alpha_bar) ** 0.5), Normal(0.0, 1.0)).mean()
    assert prior_bits(process, image) == pytest.approx(truth.item() / math.log(2), rel=1e-5)


@pytest.mark.parametrize("times", [3, 4, 24, 25, 100, 1000, 4000])
def test_strata_partition_all_times(times: int) -> None:
    edges, third = strata(times)
    assert edges[0] == 0 and edges[1] == 1 and edges[-1] == times and (np.diff(edges) > 0).all()
    middles = (edges[:-1] + edges[1:] - 1) / 2
    assert third.tolist() == [min(2, int(3 * (middle + 0.5) / times)) for middle in middles]
    assert set(third) == {0, 1, 2}


def test_measure_and_strata_refuse_empty_input() -> None:
    with pytest.raises(ValueError, match="at least one"):
        measure_ideal(0)
    with pytest.raises(ValueError, match="2 times have no thirds"):
        strata(2)
