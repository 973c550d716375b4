"""Importance sampling of timesteps: the draws, and that the expected loss stays the plain mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from guided_diffusion.training.resample import SAMPLERS, LossAwareSampler, UniformSampler

LOSSES = np.array([0.1, 2.0, 0.5, 0.02, 1.0])  # of five timesteps


def filled(history: int = 4, share: float = 0.001) -> LossAwareSampler:
    sampler = LossAwareSampler(5, history, share)
    for i in range(history):
        sampler.update(torch.arange(5), torch.from_numpy(LOSSES * (1 + i)).float())
    return sampler


def test_uniform_sampler_draws_each_step_equally_often() -> None:
    t, weights = UniformSampler(5).sample(50_000, np.random.default_rng(0))
    assert t.dtype == torch.int64 and torch.equal(weights, torch.ones(50_000))
    assert np.allclose(np.bincount(t, minlength=5) / 50_000, 0.2, atol=0.01)


def test_loss_aware_probabilities_follow_root_mean_square() -> None:
    p = filled(share=0.0).probabilities()
    root = LOSSES * np.sqrt(np.mean([1, 4, 9, 16]))
    assert np.allclose(p, root / root.sum())
    mixed = filled(share=0.25).probabilities()
    assert np.allclose(mixed, 0.75 * p + 0.25 / 5)
    assert mixed.sum() == pytest.approx(1)


def test_loss_aware_weights_keep_the_plain_mean() -> None:
    sampler = filled()
    t, weights = sampler.sample(200_000, np.random.default_rng(0))
    p = sampler.probabilities()
    assert np.allclose(np.bincount(t, minlength=5) / 200_000, p, atol=0.004)
    values = np.array([3.0, -1.0, 0.5, 8.0, 2.0])  # any function of t
    weight_of = {int(step): float(w) for step, w in zip(t[:5000], weights[:5000], strict=True)}
    assert sum(p[s] * w * values[s] for s, w in weight_of.items()) == pytest.approx(values.mean(), rel=1e-5)
    drawn = weights.numpy() * LOSSES[t]
    assert drawn.mean() == pytest.approx(LOSSES.mean(), rel=0.01)
    assert drawn.std() < 0.1 * LOSSES.std()  # that is the point: almost no variance is left


def test_loss_aware_is_uniform_until_history_is_full() -> None:
    sampler = LossAwareSampler(3, history=2)
    for t in ([0, 1, 2], [0, 0, 1]):
        sampler.update(torch.tensor(t), torch.tensor([1.0, 2.0, 3.0]))
        assert np.array_equal(sampler.probabilities(), np.full(3, 1 / 3))
    sampler.update(torch.tensor([2]), torch.tensor([9.0]))
    assert sampler.probabilities()[2] > 1 / 3


def test_loss_aware_weighs_history_evenly() -> None:
    sampler = LossAwareSampler(2, history=2, uniform_share=0.0)
    sampler.update(torch.tensor([0, 1, 0, 1]), torch.tensor([1.0, 2.0, 3.0, 2.0]))
    root = np.sqrt([(1 + 9) / 2, 4])
    assert np.allclose(sampler.probabilities(), root / root.sum())


def test_loss_aware_forgets_old_losses() -> None:
    sampler = filled(history=2, share=0.0)
    for _ in range(2):
        sampler.update(torch.arange(5), torch.ones(5))
    assert np.allclose(sampler.probabilities(), 0.2)


def test_loss_aware_state_restores_an_independent_copy() -> None:
    first, second = filled(), LossAwareSampler(5, 4)
    second.restore(first.state())
    assert np.array_equal(first.probabilities(), second.probabilities())
    before = first.probabilities()
    second.update(torch.tensor([0]), torch.tensor([50.0]))  # must not write into the first
    assert np.array_equal(first.probabilities(), before)
    first.update(torch.tensor([0]), torch.tensor([50.0]))
    assert np.array_equal(first.probabilities(), second.probabilities())
    assert UniformSampler(5).state() == {}


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_draws_depend_on_generator_alone(name: str) -> None:
    sampler = SAMPLERS[name](100)
    draws = [sampler.sample(20, np.random.default_rng(3))[0] for _ in range(2)]
    assert torch.equal(*draws)
