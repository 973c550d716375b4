"""Samplers against algebra: a Gaussian prior, for which every paper's promise has a known value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from guided_diffusion.denoiser import Prediction
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.operators import Mask, NoObservation, Operator
from guided_diffusion.respace import get_named_beta_schedule, respaced_betas, space_timesteps
from guided_diffusion.samplers import Noise, Problem, Sampler, Step, base, sample
from guided_diffusion.samplers.ddim import DDIM
from guided_diffusion.samplers.ddnm import DDNM
from guided_diffusion.samplers.ddpm import DDPM
from guided_diffusion.samplers.intermediate import Intermediate
from guided_diffusion.samplers.repaint import RePaint
from guided_diffusion.scheduler import JumpSchedule
from tests.helpers.gaussian import GaussianDenoiser, pixels

COUNT = 20000
MEAN, STD = torch.tensor([0.3, -0.2]), torch.tensor([0.5, 0.2])


def process(steps: int) -> GaussianDiffusion:
    betas = get_named_beta_schedule("linear", 1000)
    return GaussianDiffusion(respaced_betas(betas, space_timesteps(1000, steps)))


def noise(seed: int, count: int = COUNT, size: int = 2) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(count, 1, 1, size, generator=generator)


def run(sampler: Sampler, problem: Problem) -> Tensor:
    return [step.x for step in sample(sampler, problem)][-1][:, 0, 0]  # (B, D)


def independent(steps: int, y: Tensor, operator: Operator, seed: int = 0) -> Problem:
    q = process(steps)
    denoise = GaussianDenoiser(q, MEAN, torch.diag(STD**2))
    return Problem(y.expand(COUNT, 1, 1, 2), operator, denoise, q, noise(seed))


@pytest.mark.parametrize(("sampler", "steps"), [(DDPM(), 100), (DDIM(eta=1.0), 1000), (RePaint(), 100)])
def test_stochastic_samplers_return_the_prior(sampler: Sampler, steps: int) -> None:
    x = run(sampler, independent(steps, torch.zeros(1, 1, 1, 2), NoObservation()))
    assert torch.allclose(x.mean(0), MEAN, atol=0.012)
    assert torch.allclose(x.std(0), STD, rtol=0.03)


def test_ddim_maps_noise_to_the_prior_deterministically() -> None:
    problem = independent(1000, torch.zeros(1, 1, 1, 2), NoObservation())
    x = run(DDIM(eta=0.0), problem)
    start = noise(0)()[:, 0, 0]
    a = problem.process.alpha_bar(999)
    flow = MEAN + STD * (start - a**0.5 * MEAN) / (a * STD**2 + 1 - a).sqrt()  # probability flow, exact
    assert (x - flow).abs().max() < 0.02


def test_intermediate_returns_the_posterior_of_the_noised_image() -> None:
    y, t = pixels(0.9, 0.9), 30
    problem = independent(100, y, NoObservation())
    x = run(Intermediate(t_start=t), problem)
    a = problem.process.alpha_bar(t)
    spread = 1 / (1 / STD**2 + a / (1 - a))
    gain = spread * a**0.5 / (1 - a)
    mean = spread * MEAN / STD**2 + gain * a**0.5 * 0.9
    assert torch.allclose(x.mean(0), mean, atol=0.012)
    assert torch.allclose(x.var(0), spread + gain**2 * (1 - a), rtol=0.05)


def test_intermediate_starts_and_denoises_at_the_same_step() -> None:
    assert list(Intermediate(t_start=5).times(process(10))) == [5, 4, 3, 2, 1, 0, -1]
    with pytest.raises(ValueError, match="t_start 10 is not a step"):
        Intermediate(t_start=10).times(process(10))


def test_ddnm_keeps_the_observation_and_draws_the_rest() -> None:
    keep = pixels(1.0, 0.0)
    x = run(DDNM(), independent(100, pixels(0.77, 99.0), Mask(keep)))
    assert torch.equal(x[:, 0], torch.full((COUNT,), 0.77))
    assert torch.allclose(x[:, 1].mean(), MEAN[1], atol=0.012)
    assert torch.allclose(
        x[:, 1].std(), STD[1], rtol=0.15
    )  # a fixed variance: the paper's sampler is narrower


class Pulled(GaussianDenoiser):
    """Also has a score, which pulls every pixel up."""

    def __call__(self, x: Tensor, t: int, clean: Tensor | None = None) -> Prediction:
        return replace(super().__call__(x, t), score=torch.ones_like(x))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_guidance_moves_only_unknown_pixels_of_ddnm(eta: float) -> None:
    plain = independent(50, pixels(0.77, 99.0), Mask(pixels(1.0, 0.0)))
    denoise = Pulled(plain.process, MEAN, torch.diag(STD**2))
    x, free = run(DDNM(eta), replace(plain, denoise=denoise, noise=noise(0))), run(DDNM(eta), plain)
    assert torch.equal(x[:, 0], torch.full((COUNT,), 0.77))
    assert x[:, 1].mean() > free[:, 1].mean() + 0.02


@pytest.mark.parametrize(("shift", "noisy_as"), [(0, 3), (1, 4), (4, 7), (99, 9)])
def test_repaint_jump_adds_the_noise_of_the_shifted_step(shift: int, noisy_as: int) -> None:
    """x sqrt(1 - beta) + sqrt(beta) noise with the beta of step 3 + shift, at most that of the last step."""
    problem = independent(10, torch.zeros(1, 1, 1, 2), NoObservation())
    x = torch.full((COUNT, 1, 1, 2), 2.0)
    step = RePaint(inpa_inj_time_shift=shift).up(problem, Step(3, x), 4)
    beta = problem.process.betas[noisy_as]
    assert step.t == 4
    assert torch.allclose(step.x, (1 - beta) ** 0.5 * x + beta**0.5 * noise(0)(), atol=1e-6)


CORRELATION = torch.tensor([[1.0, 0.95], [0.95, 1.0]]) * 0.25


def conditional(repeats: int, merge: bool = False) -> tuple[float, float]:
    """Mean and correlation error of RePaint for pixel 1 given pixel 0, prior correlation .95."""
    q = process(50)
    observed = noise(7, 4000)()[..., :1] * 0.5  # pixel 0 drawn from its own prior
    y = torch.cat([observed, torch.zeros_like(observed)], dim=-1)
    denoise = GaussianDenoiser(q, torch.zeros(2), CORRELATION)
    schedule = JumpSchedule(jump_length=5, jump_n_sample=repeats, merge_jumps=merge)
    problem = Problem(y, Mask(pixels(1.0, 0.0)), denoise, q, noise(1, 4000))
    x = run(RePaint(schedule), problem)
    error = x[:, 1] - 0.95 * observed[:, 0, 0, 0]  # the conditional mean is .95 y
    return float(error.square().mean()), float(np.corrcoef(x[:, 1], observed[:, 0, 0, 0])[0, 1])


def test_resampling_brings_repaint_closer_to_the_conditional() -> None:
    once, often = conditional(1), conditional(10)
    best = 0.25 * (1 - 0.95**2)
    assert best * 0.9 < often[0] < once[0]
    assert often[1] > once[1]
    assert often[0] - best < 0.5 * (once[0] - best)


def test_merged_jumps_keep_the_distribution() -> None:
    assert conditional(10, merge=True) == pytest.approx(conditional(10), rel=0.08)
    problem = independent(10, torch.zeros(1, 1, 1, 2), NoObservation())
    x = torch.full((COUNT, 1, 1, 2), 2.0)
    step = RePaint().up(problem, Step(3, x), 7)
    signal = np.prod(1 - problem.process.betas[4:8])
    assert step.t == 7
    assert torch.allclose(step.x, signal**0.5 * x + (1 - signal) ** 0.5 * noise(0)(), atol=1e-6)


def test_merged_jumps_refuse_shifted_noise() -> None:
    merged = JumpSchedule(jump_length=2, jump_n_sample=2, merge_jumps=True)
    with pytest.raises(ValueError, match="inpa_inj_time_shift 2 adds noise step by step; set it to 1"):
        RePaint(merged, inpa_inj_time_shift=2).times(process(10))


DING = RePaint(rule="ding")


def row(sampler: RePaint, count: int = 2000) -> tuple[float, float]:
    """Inpaint the middle 4 of a row of 8 pixels, each correlated .9 with the next, in 25 steps.

    Returns the mean square by which their conditional mean is missed, and their variance, both over the
    conditional variance: exact draws have 0 and 1.
    """
    betas = get_named_beta_schedule("cosine", 1000)
    q, i = GaussianDiffusion(respaced_betas(betas, space_timesteps(1000, 25))), torch.arange(8)
    covariance, keep = 0.25 * 0.9 ** (i[:, None] - i).abs(), (i < 2) | (i > 5)
    draw = noise(5, count, 8)
    y = (draw()[:, 0, 0] @ torch.linalg.cholesky(covariance).T)[:, None, None] * keep
    problem = Problem(
        y, Mask(keep.float()[None, None, None]), GaussianDenoiser(q, torch.zeros(8), covariance), q, draw
    )
    x, seen = run(sampler, problem), y[:, 0, 0][:, keep]
    gain = covariance[~keep][:, keep] @ torch.linalg.inv(covariance[keep][:, keep])
    true = (covariance[~keep][:, ~keep] - gain @ covariance[keep][:, ~keep]).diagonal().mean()
    error = x[:, ~keep] - seen @ gain.T
    missed = seen @ torch.linalg.lstsq(seen, error).solution
    return float(missed.square().mean() / true), float((error - missed).var(0).mean() / true)


def test_ding_finds_the_conditional_in_a_fourth_of_the_nfe() -> None:
    schedule = JumpSchedule(jump_length=10, jump_n_sample=5, merge_jumps=True)  # 105 evaluations
    (missed, variance), (often, wide) = row(DING), row(RePaint(schedule))
    assert missed < 0.03 and 0.7 < variance < 1.1
    assert often > 5 * missed and wide > 1.3


def test_ding_adds_the_predicted_noise_to_known_pixels() -> None:
    problem = independent(10, pixels(0.77, 99.0), Mask(pixels(1.0, 0.0)))
    x = noise(3)()
    step = DING.down(problem, Step(6, x), 5)
    eps, a = problem.denoise(x, 6).eps, problem.process.alpha_bar(5)
    assert torch.allclose(step.x[..., 0], a**0.5 * 0.77 + (1 - a) ** 0.5 * eps[..., 0], atol=1e-6)
    free = RePaint(rule="ddim", eta=1.0, inpa_inj_sched_prev=False).down(
        replace(problem, noise=noise(0)), Step(6, x), 5
    )
    assert torch.equal(step.x[..., 1], free.x[..., 1])
    assert torch.equal(run(DING, problem)[:, 0], torch.full((COUNT,), 0.77))


def test_ding_without_known_pixels_is_ddim() -> None:
    first, second = (independent(10, torch.zeros(1, 1, 1, 2), NoObservation()) for _ in range(2))
    assert torch.equal(run(DING, first), run(RePaint(rule="ddim", eta=1.0), second))


def test_guidance_shifts_both_rules_to_the_same_posterior() -> None:
    """A score that is exactly grad log p(y | x_t) must give the Gaussian posterior, by DDPM and by DDIM."""
    q, y, tau = process(1000), 0.6, 0.3  # y = x0 + tau * noise is seen of pixel 0

    class Scored(GaussianDenoiser):
        def __call__(self, x: Tensor, t: int, clean: Tensor | None = None) -> Prediction:
            p = super().__call__(x, t)
            a = self.process.alpha_bar(t)
            spread = 1 / (1 / STD**2 + a / (1 - a))
            gain = spread * a**0.5 / (1 - a)
            score = gain * (y - p.x0) / (tau**2 + spread)
            return type(p)(p.x0, p.eps, p.log_variance, score * pixels(1.0, 0.0))

    spread = 1 / (1 / STD[0] ** 2 + 1 / tau**2)
    mean = spread * (MEAN[0] / STD[0] ** 2 + y / tau**2)
    for sampler in (DDPM(), DDIM(eta=0.0)):
        denoise = Scored(q, MEAN, torch.diag(STD**2))
        problem = Problem(torch.zeros(4000, 1, 1, 2), NoObservation(), denoise, q, noise(3, 4000))
        x = run(sampler, problem)
        assert abs(x[:, 0].mean() - mean) < 0.02
        assert torch.allclose(x[:, 0].std(), spread.sqrt(), rtol=0.06)
        assert torch.allclose(x[:, 1].mean(), MEAN[1], atol=0.02)


@pytest.mark.parametrize("at_once", [1, 2])
def test_noise_of_an_image_ignores_its_batch(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where several steps are drawn together, as on a GPU: each image's are those of its stream."""

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(i) for i in range(3)]

    monkeypatch.setattr(base, "draws_at_once", lambda _device, _shape: at_once)
    together = Noise(generators(), (3, 8, 8))
    alone = Noise(generators()[1:2], (3, 8, 8))
    drawn = []
    for _ in range(3):
        drawn.append(together())
        assert drawn[-1].shape == (3, 3, 8, 8) and drawn[-1].is_contiguous()
        assert torch.equal(drawn[-1][1], alone()[0])
    stream = torch.Generator().manual_seed(1)
    expected = torch.cat([torch.randn(at_once, 3, 8, 8, generator=stream) for _ in range(3)])
    assert all(torch.equal(step[1], e) for step, e in zip(drawn, expected[:3], strict=True))


def test_draws_at_once_is_one_on_a_cpu_and_for_large_images() -> None:
    gpu = torch.device("cuda:0")
    assert base.draws_at_once(torch.device("cpu"), (3, 8, 8)) == 1
    ahead = [base.draws_at_once(gpu, (3, side, side)) for side in (64, 128, 256, 1024)]
    assert ahead == [21, 5, 1, 1]


def test_noise_of_a_single_image_equals_the_global_generator_s() -> None:
    torch.manual_seed(0)
    expected = [torch.randn(1, 3, 8, 8) for _ in range(3)]
    draw = Noise([torch.Generator().manual_seed(0)], (3, 8, 8))
    assert all(torch.equal(draw(), e) for e in expected)
