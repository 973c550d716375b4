"""Refine and ShadowOperator against algebra: a Gaussian prior, a linear observation, their posterior."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from guided_diffusion.denoiser import Prediction
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.images.colour import to_linear, to_srgb
from guided_diffusion.operators import ShadowOperator
from guided_diffusion.respace import get_named_beta_schedule, respaced_betas, space_timesteps
from guided_diffusion.samplers import Problem, Step, sample
from guided_diffusion.samplers.refine import Refine
from tests.helpers.gaussian import GaussianDenoiser, pixels

COUNT = 4000
THROUGH, NOISE = pixels(1.0, 0.5, 0.2, 0.5), pixels(0.0, 0.1, 0.1, math.inf)  # T, deviation of y
TRUTH = pixels(0.3, 0.4, -0.6, 0.7)


def same(x: Tensor) -> Tensor:
    return x


def linear(transmission: Tensor, variance: Tensor) -> ShadowOperator:
    """Model space is linear light itself: everything is Gaussian."""
    return ShadowOperator(transmission, variance, same, same)


def displayed(transmission: Tensor, variance: Tensor) -> ShadowOperator:
    """Model space is 2 sRGB - 1."""
    return ShadowOperator(
        transmission, variance, lambda x: to_linear((x + 1) / 2), lambda light: 2 * to_srgb(light) - 1
    )


def process(steps: int) -> GaussianDiffusion:
    betas = get_named_beta_schedule("linear", 1000)
    return GaussianDiffusion(respaced_betas(betas, space_timesteps(1000, steps)))


def problem(deviation: float, steps: int = 100, seed: int = 0) -> Problem:
    """y = T truth seen by the operator, prior N(0, deviation^2) for each of four pixels."""
    q, draws = process(steps), torch.Generator().manual_seed(seed)
    denoise = GaussianDenoiser(q, torch.zeros(4), torch.eye(4) * deviation**2)
    y = (THROUGH * TRUTH).expand(COUNT, 1, 1, 4)
    return Problem(
        y, linear(THROUGH, NOISE**2), denoise, q, lambda: torch.randn(COUNT, 1, 1, 4, generator=draws)
    )


def posterior(mean: Tensor, variance: Tensor, y: Tensor) -> Tensor:
    """Posterior mean of x ~ N(mean, variance) from y = T x + noise, in information form, for each pixel."""
    out = mean.expand_as(y).clone()
    for i, (t, s) in enumerate(zip(THROUGH.flatten().tolist(), NOISE.flatten().tolist(), strict=True)):
        if s == 0:
            out[..., i] = y[..., i] / t
        elif s < math.inf:
            observed, known = t * y[..., i] / s**2, 1 / variance[..., i]
            out[..., i] = (out[..., i] * known + observed) / (known + t**2 / s**2)
    return out


@pytest.mark.parametrize("variance", [1e-4, 0.01, 1.0, 100.0])
def test_shadow_operator_has_the_exact_posterior_mean(variance: float) -> None:
    x0, y = pixels(0.1, -0.2, 0.5, 0.9), THROUGH * TRUTH
    actual = linear(THROUGH, NOISE**2).posterior_mean(x0, y, variance)
    assert torch.allclose(actual, posterior(x0, torch.full_like(y, variance), y), atol=1e-6)


def test_posterior_mean_is_exact_at_its_extremes() -> None:
    x0, y = torch.rand(1, 3, 5, 5) * 2 - 1, torch.rand(1, 3, 5, 5) * 2 - 1
    half = torch.full((1, 3, 5, 5), 0.5)
    sure, blind = (linear(half, torch.full((1, 1, 5, 5), v)) for v in (0.0, math.inf))
    assert torch.equal(sure.posterior_mean(x0, y, 0.3), y / 0.5)
    assert torch.equal(blind.posterior_mean(x0, y, 0.3), x0)
    assert torch.equal(linear(torch.ones_like(half), torch.zeros(1)).posterior_mean(x0, y, 0.3), y)
    # A prediction beyond doubt gives way to what is exactly seen, and to nothing else.
    assert torch.equal(sure.posterior_mean(x0, y, 0.0), y / 0.5)
    unsure = linear(half, torch.full((1, 1, 5, 5), 1e-3))
    assert torch.allclose(unsure.posterior_mean(x0, y, 0.0), x0, atol=1e-6)


def test_shadow_operator_darkens_light_and_pinv_inverts_it() -> None:
    x = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    through = 0.05 + 0.95 * torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    shade = displayed(through, torch.zeros(1))
    dark = shade.forward(x)
    assert torch.allclose(to_linear((dark + 1) / 2), through * to_linear((x + 1) / 2), atol=1e-5)
    assert torch.allclose(shade.pinv(dark), x, atol=1e-3)
    assert torch.allclose(shade.forward(shade.pinv(dark)), dark, atol=1e-4)  # A A^+ A = A
    assert torch.isfinite(shade.pinv(torch.ones_like(x))).all()  # brighter than the image can be


@pytest.mark.parametrize("t", [3, 20])
def test_step_predicts_the_mean_given_x_t_and_the_observation(t: int) -> None:
    """A wide prior tells nothing: of x given x_t the mean is x_t / a^1/2, the variance (1 - a) / a."""
    case = problem(deviation=300.0)
    x, a = case.noise(), case.process.alpha_bar(t)
    actual = Refine(doubt=1.0).down(case, Step(t, x), t - 1)
    assert actual.t == t - 1 and actual.x0 is not None
    wanted = posterior(x / a**0.5, torch.full_like(x, (1 - a) / a), case.y)
    assert torch.allclose(actual.x0, wanted, atol=2e-3)


def test_refine_ends_in_the_posterior() -> None:
    """Exact pixels to the last bit, noisy ones N(y / T, noise^2 / T^2)."""
    x = [step.x for step in sample(Refine(t_start=1.0, steps=200, doubt=1.0), problem(300.0, steps=200))][-1][
        :, 0, 0
    ]
    assert torch.equal(x[:, 0], TRUTH[0, 0, 0, 0].expand(COUNT))
    spread = (NOISE / THROUGH).flatten()
    for i in (1, 2):
        assert abs(float(x[:, i].mean() - TRUTH[0, 0, 0, i])) < 0.1 * spread[i]
        assert float(x[:, i].std()) == pytest.approx(float(spread[i]), rel=0.1)


def test_unobserved_pixels_follow_the_prior() -> None:
    """The blind pixel enters at t_start as the relit image has it, and goes where plain sampling goes."""
    x = [step.x for step in sample(Refine(t_start=1.0, steps=100), problem(0.5))][-1][:, 0, 0]
    assert float(x[:, 3].mean()) == pytest.approx(0, abs=0.03)
    late = [step.x for step in sample(Refine(t_start=0.1), problem(0.5))][-1][:, 0, 0]
    a = process(100).alpha_bar(9)
    # Of the relit 0.7: the posterior mean given x_t, averaged.
    prior_share = a * 0.5**2 / (a * 0.5**2 + 1 - a)
    assert float(late[:, 3].mean()) == pytest.approx(0.7 * prior_share, abs=0.02)


def test_doubt_keeps_closer_to_the_observation() -> None:
    x, case = torch.zeros(COUNT, 1, 1, 4), problem(0.3)
    means = []
    for doubt in (0.01, 0.1, 1.0):
        x0 = Refine(doubt=doubt).down(case, Step(10, x), 9).x0
        assert x0 is not None
        means.append(float(x0[..., 1].mean()))
    assert 0 < means[0] < means[1] < means[2] < 0.4


def test_refine_starts_from_the_relit_image_at_t_start() -> None:
    case, sampler = problem(0.5), Refine(t_start=0.3, steps=30)
    times = list(sampler.times(case.process))
    assert times == list(range(29, -2, -1))
    start, a = sampler.start(case, 29), case.process.alpha_bar(29)
    assert torch.allclose(start.mean(0), a**0.5 * TRUTH[0], atol=0.06)
    assert float(start.std(0).mean()) == pytest.approx((1 - a) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("t_start", "steps", "times"),
    [
        (0.2, 10, [19, 17, 15, 13, 11, 8, 6, 4, 2, 0, -1]),
        (0.2, 1000, [*range(19, -1, -1), -1]),
        (0.2, 1, [19, -1]),
        (1.0, 2, [99, 0, -1]),
        (0.0, 10, [0, -1]),
    ],
)
def test_times_are_spread_from_t_start_to_0(t_start: float, steps: int, times: list[int]) -> None:
    assert list(Refine(t_start=t_start, steps=steps).times(process(100))) == times


def test_refine_in_srgb_keeps_lit_pixels_and_the_range() -> None:
    draws = torch.Generator().manual_seed(0)
    y = torch.rand(1, 3, 8, 8, generator=draws) * 2 - 1
    through = torch.where(torch.arange(8) < 4, 1.0, 0.02).expand(1, 3, 8, 8)
    variance = torch.where(torch.arange(8) < 4, 0.0, 1e-3).expand(1, 1, 8, 8)

    def denoise(x: Tensor, t: int, clean: Tensor | None = None) -> Prediction:
        x0 = x.clamp(-1, 1)
        return Prediction(x0, x - x0, torch.zeros_like(x))

    case = Problem(
        y,
        displayed(through, variance),
        denoise,
        process(20),
        lambda: torch.randn(1, 3, 8, 8, generator=draws),
    )
    x = [step.x for step in sample(Refine(), case)][-1]
    assert torch.allclose(x[..., :4], y[..., :4], atol=1e-5)
    assert np.isfinite(x.numpy()).all() and x.abs().max() <= 1
    again = [step.x for step in sample(Refine(), replace(case, noise=lambda: torch.zeros(1, 3, 8, 8)))][-1]
    assert not torch.equal(x[..., 4:], again[..., 4:])
