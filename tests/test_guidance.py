"""Classifier guidance against the gradient that algebra gives for a linear classifier of noisy pictures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from guided_diffusion.denoiser import Prediction
from guided_diffusion.guidance import Guided

WEIGHTS = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))  # 4 classes of 3 x 2 x 2 pixels
TIMES = torch.tensor([0.0, 10.0, 40.0])
LABELS = torch.tensor([2, 0])


class Linear(nn.Module):
    """Logits W x / (1 + time): less sure the noisier the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(WEIGHTS.clone())

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x.flatten(1) @ self.weights.T / (1 + t[:, None])


class Curved(nn.Module):
    """A classifier whose gradient depends on x in no simple way."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return (
            torch.sin(x.flatten(1)) @ WEIGHTS.T.to(x.dtype) + x.square().mean((1, 2, 3))[:, None] * t[:, None]
        )


def denoise(x: Tensor, t: int) -> Prediction:
    return Prediction(x / 2, x / 3, torch.zeros_like(x))


def picture() -> Tensor:
    return torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(1))


def guided(classifier: nn.Module, scale: float = 1.0) -> Guided:
    return Guided(denoise, classifier, TIMES, LABELS, scale)


@pytest.mark.parametrize("t", [0, 1, 2])
def test_the_score_of_a_linear_classifier_is_its_closed_form(t: int) -> None:
    """grad log softmax_y(W x) = W_y - sum_k p_k W_k."""
    x = picture()
    weights = WEIGHTS / (1 + TIMES[t])
    p = (x.flatten(1) @ weights.T).softmax(-1)
    expected = (weights[LABELS] - p @ weights).view_as(x)
    assert torch.allclose(guided(Linear())(x, t).score, expected, atol=1e-6)


def test_the_score_is_the_slope_of_the_log_probability() -> None:
    x, step = picture().double(), 1e-5
    score = guided(Curved()).score(x, 1)

    def log_p(x: Tensor) -> Tensor:
        return Curved()(x, TIMES[1].expand(2)).log_softmax(-1)[torch.arange(2), LABELS]

    for c, i, j in ((0, 0, 0), (2, 1, 0), (1, 0, 1)):
        nudge = torch.zeros_like(x)
        nudge[:, c, i, j] = step
        slope = (log_p(x + nudge) - log_p(x - nudge)) / (2 * step)
        assert torch.allclose(score[:, c, i, j].double(), slope, atol=1e-3)


def test_a_step_along_the_score_makes_the_label_likelier() -> None:
    x = picture()
    score = guided(Linear()).score(x, 0)

    def chance(x: Tensor) -> Tensor:
        return Linear()(x, torch.zeros(2)).softmax(-1)[torch.arange(2), LABELS]

    assert (chance(x + 0.05 * score) > chance(x)).all()


def test_scale_multiplies_and_zero_is_none() -> None:
    x = picture()
    once = guided(Linear(), 1.0).score(x, 1)
    assert torch.allclose(guided(Linear(), 4.5).score(x, 1), 4.5 * once)
    assert torch.equal(guided(Linear(), 0.0).score(x, 1), torch.zeros_like(x))


def test_pictures_of_a_batch_are_guided_apart() -> None:
    x = picture()
    alone = Guided(denoise, Linear(), TIMES, LABELS[1:], 1.0).score(x[1:], 1)
    assert torch.allclose(guided(Linear()).score(x, 1)[1:], alone, atol=1e-6)


def test_the_prediction_is_untouched_and_no_graph_is_kept() -> None:
    x, classifier = picture(), Linear()
    with torch.no_grad():
        p = guided(classifier)(x, 1)
    assert torch.equal(p.x0, x / 2) and torch.equal(p.eps, x / 3)
    assert p.score is not None and not p.score.requires_grad
    assert classifier.weights.grad is None and not x.requires_grad


def test_each_of_a_pictures_windows_has_its_label() -> None:
    """Windows come one after the other, each of all pictures."""
    x, more = picture(), picture().flip(-1)
    both = guided(Linear()).score(torch.cat([x, more]), 1)
    apart = torch.cat([guided(Linear()).score(each, 1) for each in (x, more)])
    assert torch.allclose(both, apart, atol=1e-6)
