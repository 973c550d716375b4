"""The closed forms of q and p against the published tables, Bayes' rule and each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.respace import get_named_beta_schedule, respaced_betas, space_timesteps
from tests.helpers import stored

GOLDEN = stored.numbers("schedules")
RESPACINGS = sorted({key.split("/")[0] for key in GOLDEN if key.endswith("/betas")})
TABLES = sorted({key.split("/")[1] for key in GOLDEN} - {"timesteps"})
PROCESS = GaussianDiffusion(
    respaced_betas(get_named_beta_schedule("linear", 1000), space_timesteps(1000, 50))
)
STEP = st.integers(0, PROCESS.num_timesteps - 1)


def draw(seed: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", RESPACINGS)
@pytest.mark.parametrize("table", TABLES)
def test_tables_are_the_published_ones(name: str, table: str) -> None:
    betas = get_named_beta_schedule("linear", 1000)
    if name != "all":
        betas = respaced_betas(betas, space_timesteps(1000, name))
    ours, published = getattr(GaussianDiffusion(betas), table), GOLDEN[f"{name}/{table}"]
    # The published code rounds the unrespaced betas once more: 4e-13 of their value, nothing in float32.
    assert np.allclose(ours, published, rtol=5e-13 if name == "all" else 1e-15, atol=1e-15)
    assert (ours == 0).sum() == (published == 0).sum()


@pytest.mark.parametrize("t", [1, 7, 49])
def test_the_posterior_is_bayes_rule(t: int) -> None:
    """Prior N(sqrt(a') x0, 1 - a') of x_{t-1}, likelihood N(sqrt(1 - beta) x_{t-1}, beta) of x_t."""
    x0, x_t = draw(0), draw(1)
    before, beta = PROCESS.alphas_cumprod[t - 1], PROCESS.betas[t]
    precision = 1 / (1 - before) + (1 - beta) / beta
    mean = (before**0.5 * x0.double() / (1 - before) + (1 - beta) ** 0.5 * x_t.double() / beta) / precision
    assert close(PROCESS.posterior_mean(x0, x_t, t).double(), mean)
    assert PROCESS.posterior_variance[t] == pytest.approx(1 / precision, rel=1e-12)
    assert close(PROCESS.log_variance(x0, t, large=False), torch.full_like(x0, -np.log(precision)))


def test_the_last_step_has_no_spread_but_a_finite_logarithm() -> None:
    assert PROCESS.posterior_variance[0] == 0
    first = PROCESS.log_variance(draw(0), 0, large=False)
    assert torch.equal(first, PROCESS.log_variance(draw(0), 1, large=False))
    assert torch.equal(first, PROCESS.log_variance(draw(0), 0, large=True))
    assert torch.equal(PROCESS.posterior_mean(draw(0), draw(1), 0), draw(0))


def test_the_large_fixed_variance_is_beta() -> None:
    assert close(
        PROCESS.log_variance(draw(0), 9, large=True).exp(), torch.full((2, 3, 4, 4), PROCESS.betas[9])
    )


def linear(t: int, t_next: int) -> tuple[float, float]:
    """q_step is signal * x + spread * noise; both factors."""
    unit, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    return PROCESS.q_step(unit, t, t_next, zero).item(), PROCESS.q_step(zero, t, t_next, unit).item()


@settings(deadline=None)
@given(st.integers(-1, 48), st.integers(1, 50))
def test_a_jump_towards_noise_equals_its_single_steps(t: int, length: int) -> None:
    t_next = min(t + length, 49)
    signal, variance = 1.0, 0.0
    for step in range(t, t_next):
        a, b = linear(step, step + 1)
        signal, variance = a * signal, a**2 * variance + b**2
    assert linear(t, t_next) == pytest.approx((signal, variance**0.5), rel=1e-5)


@settings(deadline=None)
@given(STEP)
def test_from_a_clean_image_the_jump_is_q_sample(t: int) -> None:
    x0, noise = draw(0), draw(1)
    assert close(PROCESS.q_step(x0, -1, t, noise), PROCESS.q_sample(x0, t, noise))
    expected = PROCESS.alphas_cumprod[t] ** 0.5 * x0 + (1 - PROCESS.alphas_cumprod[t]) ** 0.5 * noise
    assert close(PROCESS.q_sample(x0, t, noise), expected)


def test_time_minus_one_is_clean() -> None:
    assert torch.equal(PROCESS.q_sample(draw(0), -1, draw(1)), draw(0))
    assert PROCESS.alpha_bar(-1) == 1.0
    assert PROCESS.alpha_bar(3) == PROCESS.alphas_cumprod[3]


@settings(deadline=None)
@given(STEP)
def test_x0_and_eps_are_inverses_of_each_other(t: int) -> None:
    x0, noise = draw(0), draw(1)
    x_t = PROCESS.q_sample(x0, t, noise)
    scale = PROCESS.sqrt_recip_alphas_cumprod[
        t
    ]  # how much the division by sqrt(alpha_bar) magnifies rounding
    assert (PROCESS.x0_from_eps(x_t, t, noise) - x0).abs().max() < 5e-6 * scale
    magnified = max(1.0, 1 / PROCESS.sqrt_recipm1_alphas_cumprod[t])
    assert (PROCESS.eps_from_x0(x_t, t, x0) - noise).abs().max() < 5e-6 * magnified


def every_form(t: int | Tensor) -> list[Tensor]:
    a, b = draw(0), draw(1)
    return [
        PROCESS.q_sample(a, t, b),
        PROCESS.x0_from_eps(a, t, b),
        PROCESS.eps_from_x0(a, t, b),
        PROCESS.posterior_mean(a, b, t),
        PROCESS.log_variance(a, t, large=True),
        PROCESS.log_variance(a, t, large=False),
        PROCESS.learned_log_variance(a, t),
    ]


@pytest.mark.parametrize("t", [0, 1, 30, 49])
@pytest.mark.parametrize("shape", [(2,), (2, 1, 4, 4)])
def test_a_tensor_of_times_equals_the_number(t: int, shape: tuple[int, ...]) -> None:
    for number, tensor in zip(every_form(t), every_form(torch.full(shape, t)), strict=True):
        assert torch.equal(number, tensor)


def test_each_image_and_pixel_may_have_its_own_time() -> None:
    by_image = every_form(torch.tensor([3, 40]))
    per_pixel = torch.full((2, 1, 4, 4), 40)
    per_pixel[0], per_pixel[1, 0, 2, 1] = 3, 7
    for a, b, early, late, other in zip(
        by_image, every_form(per_pixel), every_form(3), every_form(40), every_form(7), strict=True
    ):
        assert torch.equal(a[0], early[0]) and torch.equal(a[1], late[1])
        assert torch.equal(b[0], early[0]) and torch.equal(b[1, :, 0], late[1, :, 0])
        assert torch.equal(b[1, :, 2, 1], other[1, :, 2, 1])


@settings(deadline=None)
@given(st.floats(-1, 1, width=32), STEP)
def test_the_learned_variance_stays_between_posterior_and_beta(v: float, t: int) -> None:
    given_v = torch.full((1, 1, 1, 1), v)
    small = PROCESS.posterior_log_variance_clipped[t]
    large = np.log(PROCESS.betas[t])
    learned = PROCESS.learned_log_variance(given_v, t).item()
    assert min(small, large) - 1e-5 <= learned <= max(small, large) + 1e-5
    assert learned == pytest.approx(large * (v + 1) / 2 + small * (1 - v) / 2, abs=1e-5)


@settings(deadline=None)
@given(st.integers(1, 49))
def test_ddim_with_eta_one_is_the_ddpm_posterior(t: int) -> None:
    x_t, x0, noise = draw(0), draw(1), draw(2)
    fixed = PROCESS.log_variance(x_t, t, large=False)
    ddim = PROCESS.ddim_step(x_t, t, t - 1, x0, 1.0, noise)
    assert close(ddim, PROCESS.ddpm_step(x_t, t, x0, fixed, noise), 2e-5)


@settings(deadline=None)
@given(STEP, st.integers(1, 50), st.floats(0, 1))
def test_a_ddim_step_keeps_the_marginal(t: int, length: int, eta: float) -> None:
    """q_sample(x0) must land on q(x_s | x0): mean sqrt(a_s) x0, both noises adding up to 1 - a_s."""
    s = max(t - length, -1)
    unit, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)

    def step(x0: Tensor, eps: Tensor, fresh: Tensor) -> float:
        return PROCESS.ddim_step(PROCESS.q_sample(x0, t, eps), t, s, x0, eta, fresh).item()

    a = PROCESS.alpha_bar(s)
    rounding = 5e-6 * max(1.0, 1 / PROCESS.sqrt_recipm1_alphas_cumprod[t])
    assert step(unit, zero, zero) == pytest.approx(a**0.5, abs=rounding)
    assert step(zero, unit, zero) ** 2 + step(zero, zero, unit) ** 2 == pytest.approx(1 - a, abs=2 * rounding)


def test_ddim_with_eta_zero_and_the_true_x0_arrives_at_it() -> None:
    x0 = draw(0)
    x = PROCESS.q_sample(x0, 49, draw(1))
    for t, t_next in ((49, 20), (20, 3), (3, -1)):
        x = PROCESS.ddim_step(x, t, t_next, x0, 0.0, draw(2))
        if t_next >= 0:
            assert close(x, PROCESS.q_sample(x0, t_next, draw(1)), 1e-4)
    assert torch.equal(x, x0)


def test_the_last_steps_add_no_noise() -> None:
    x_t, x0 = draw(0), draw(1)
    log_variance = torch.zeros_like(x_t)
    quiet, loud = torch.zeros_like(x_t), 1e3 * draw(2)
    assert torch.equal(*(PROCESS.ddpm_step(x_t, 0, x0, log_variance, n) for n in (quiet, loud)))
    assert torch.equal(*(PROCESS.ddim_step(x_t, 5, -1, x0, 1.0, n) for n in (quiet, loud)))


def test_a_score_shifts_the_ddpm_mean_by_the_variance_and_the_ddim_eps_by_the_noise_level() -> None:
    x_t, x0, noise, score = draw(0), draw(1), draw(2), draw(3)
    fixed = PROCESS.log_variance(x_t, 20, large=True)
    shift = PROCESS.ddpm_step(x_t, 20, x0, fixed, noise, score) - PROCESS.ddpm_step(x_t, 20, x0, fixed, noise)
    assert close(shift, PROCESS.betas[20] * score)
    eps = PROCESS.eps_from_x0(x_t, 20, x0) - (1 - PROCESS.alphas_cumprod[20]) ** 0.5 * score
    there = PROCESS.alphas_cumprod[10]
    expected = there**0.5 * PROCESS.x0_from_eps(x_t, 20, eps) + (1 - there) ** 0.5 * eps
    assert close(PROCESS.ddim_step(x_t, 20, 10, x0, 0.0, noise, score), expected)


def test_a_process_of_one_step() -> None:
    process = GaussianDiffusion(np.array([0.4]))
    x0, noise = draw(0), draw(1)
    x = process.q_sample(x0, 0, noise)
    assert close(x, 0.6**0.5 * x0 + 0.4**0.5 * noise)
    assert close(process.x0_from_eps(x, 0, noise), x0)
    log_variance = process.learned_log_variance(draw(2), 0)
    assert close(log_variance, torch.full_like(x0, np.log(0.4)))
    assert torch.equal(process.ddpm_step(x, 0, x0, log_variance, noise), x0)
    assert close(process.log_variance(x0, 0, large=True), log_variance)
    assert close(process.ddim_step(x, 0, -1, x0, 1.0, noise), x0)


@pytest.mark.parametrize("betas", [[], [0.1, 0.0], [0.1, 1.0], [1.2], [[0.1]], [float("nan")]])
def test_betas_that_are_none_are_refused(betas: list[float]) -> None:
    with pytest.raises(ValueError, match=r"betas must be a non-empty 1-d array of numbers in \(0, 1\)"):
        GaussianDiffusion(np.array(betas))
