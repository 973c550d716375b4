"""Likelihood terms against torch.distributions and the error function."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from guided_diffusion.losses import (
    LossWeighting,
    coarse_error,
    discretized_gaussian_log_likelihood,
    mean_flat,
    nats_to_bits,
    normal_kl,
    time_weights,
)

LEVELS = torch.arange(256) / 127.5 - 1


def draw(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_normal_kl_is_the_divergence_of_two_gaussians() -> None:
    mean1, logvar1, mean2, logvar2 = (draw(seed) for seed in range(4))
    truth = kl_divergence(Normal(mean1, (logvar1 / 2).exp()), Normal(mean2, (logvar2 / 2).exp()))
    assert torch.allclose(normal_kl(mean1, logvar1, mean2, logvar2), truth, rtol=1e-5, atol=1e-5)
    assert normal_kl(mean1, logvar1, mean1, logvar1).abs().max() < 1e-6


@pytest.mark.parametrize("mean", [-1.4, -1.0, 0.013, 0.8, 2.0])
@pytest.mark.parametrize("scale", [0.002, 0.05, 1.0])
def test_likelihood_bins_sum_to_one(mean: float, scale: float) -> None:
    means, scales = torch.full_like(LEVELS, mean), torch.full_like(LEVELS, math.log(scale))
    log_p = discretized_gaussian_log_likelihood(LEVELS, means, scales)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_likelihood_bin_is_the_mass_around_its_level() -> None:
    mean, scale = 0.1, 0.3

    def cdf(x: float) -> float:
        return 0.5 * (1 + math.erf((x - mean) / scale / 2**0.5))

    means, scales = torch.full_like(LEVELS, mean), torch.full_like(LEVELS, math.log(scale))
    log_p = discretized_gaussian_log_likelihood(LEVELS, means, scales)
    p = log_p.exp()
    for i in (1, 60, 127, 128, 254):
        x = i / 127.5 - 1
        assert p[i].item() == pytest.approx(cdf(x + 1 / 255) - cdf(x - 1 / 255), abs=2e-7)
    assert p[0].item() == pytest.approx(cdf(-1 + 1 / 255), abs=2e-7)
    assert p[255].item() == pytest.approx(1 - cdf(1 - 1 / 255), abs=2e-7)


def test_likelihood_of_far_value_and_its_gradient_are_finite() -> None:
    means = torch.tensor([5.0, -5.0], requires_grad=True)
    log_scales = torch.tensor([-7.0, -7.0], requires_grad=True)
    log_p = discretized_gaussian_log_likelihood(torch.zeros(2), means, log_scales)
    log_p.sum().backward()
    assert log_p.tolist() == pytest.approx([math.log(1e-12)] * 2, rel=1e-5)
    assert means.grad is not None and log_scales.grad is not None
    assert means.grad.isfinite().all() and log_scales.grad.isfinite().all()


def test_mean_flat_keeps_the_batch() -> None:
    x = torch.arange(24.0).view(2, 3, 2, 2)
    assert mean_flat(x).tolist() == [5.5, 17.5]
    assert nats_to_bits(torch.tensor(math.log(8))).item() == pytest.approx(3)


def test_mean_flat_ignores_pixels_outside_where() -> None:
    x, where = torch.arange(24.0).view(2, 3, 2, 2), torch.zeros(2, 1, 2, 2)
    where[0, 0, 0, 1] = where[1, 0, 0] = 1
    x[0, :, 1, 1] = math.nan
    assert mean_flat(x, where).tolist() == [5.0, 16.5]  # of 1, 5, 9 and of 12, 13, 16, 17, 20, 21
    plain = torch.arange(24.0).view(2, 3, 2, 2)
    assert mean_flat(plain, torch.ones(2, 1, 2, 2)).tolist() == mean_flat(plain).tolist()


ALPHA_BAR = torch.linspace(0.999, 0.002, 50, dtype=torch.float64)


def test_time_weights_follow_their_papers() -> None:
    """Hang et al. 2023: min(SNR, 5) / SNR. Choi et al. 2022: 1 / (1 + SNR). Both relative to their mean."""
    snr = [a / (1 - a) for a in ALPHA_BAR.tolist()]
    papers: dict[LossWeighting, list[float]] = {
        "none": [1.0 for _ in snr],
        "min_snr": [min(s, 5.0) / s for s in snr],
        "p2": [1 / (1.0 + s) ** 1.0 for s in snr],
    }
    for kind, wanted in papers.items():
        mean = sum(wanted) / len(wanted)
        weights = time_weights(kind, ALPHA_BAR)
        assert weights.tolist() == pytest.approx([w / mean for w in wanted], rel=1e-12), kind
        assert weights.mean().item() == pytest.approx(1)
    assert time_weights("none", ALPHA_BAR).eq(1).all(), "to the bit"


# errors of coarser images


def test_coarse_error_of_constant_and_of_white_noise() -> None:
    flat = torch.full((2, 3, 16, 16), 0.5)
    assert torch.allclose(coarse_error(flat, (2, 8)), torch.full((2,), 0.25 * (2 + 8)))
    noise = torch.randn(64, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert coarse_error(noise, (8,)).mean().item() == pytest.approx(1 / 8, rel=0.02)
    assert torch.equal(coarse_error(noise, ()), torch.zeros(64))


def test_coarse_error_ignores_details_within_squares() -> None:
    stripes = torch.ones(1, 1, 8, 8)
    stripes[..., 1::2] = -1
    assert coarse_error(stripes, (2, 4)).item() == 0
    assert coarse_error(stripes, (1,)).item() == 1


def test_coarse_error_ignores_pixels_outside_where() -> None:
    """A quarter of the image counts, in whole squares; elsewhere the error may be anything."""
    where = torch.zeros(1, 1, 8, 8)
    where[..., :4, :4] = 1
    error = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = 4 * error[..., :4, :4].mean((2, 3)).square().mean()
    assert coarse_error(error, (4,), where).item() == pytest.approx(expected.item(), rel=1e-5)
    assert coarse_error(error + 9 * (1 - where), (4,), where).item() == pytest.approx(
        expected.item(), rel=1e-5
    )
