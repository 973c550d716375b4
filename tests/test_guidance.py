"""Classifier guidance against the gradient that algebra gives for a linear classifier of noisy images."""

from __future__ import annotations

from functools import cached_property

import pytest
import torch
from torch import Tensor, nn

from guided_diffusion.build import build_classifier, build_process
from guided_diffusion.config.schema import ClassifierConfig, Config, ProcessConfig
from guided_diffusion.denoiser import Prediction
from guided_diffusion.guidance import GuidedDenoiser
from guided_diffusion.models import Models
from guided_diffusion.runtime.seeds import ImageSeed

WEIGHTS = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))  # 4 classes of 3 x 2 x 2 pixels
TIMES = torch.tensor([0.0, 10.0, 40.0])
LABELS = torch.tensor([2, 0])


class Linear(nn.Module):
    """Logits W x / (1 + time): less sure the noisier the image."""

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


def denoise(x: Tensor, t: int, clean: Tensor | None = None) -> Prediction:
    return Prediction(x / 2, x / 3, torch.zeros_like(x))


def image() -> Tensor:
    return torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(1))


def guided(classifier: nn.Module, scale: float = 1.0) -> GuidedDenoiser:
    return GuidedDenoiser(denoise, classifier, TIMES, LABELS, scale)


@pytest.mark.parametrize("t", [0, 1, 2])
def test_score_of_a_linear_classifier_has_its_closed_form(t: int) -> None:
    """grad log softmax_y(W x) = W_y - sum_k p_k W_k."""
    x = image()
    weights = WEIGHTS / (1 + TIMES[t])
    p = (x.flatten(1) @ weights.T).softmax(-1)
    expected = (weights[LABELS] - p @ weights).view_as(x)
    assert torch.allclose(guided(Linear())(x, t).score, expected, atol=1e-6)


def test_score_is_the_slope_of_the_log_probability() -> None:
    x, step = image().double(), 1e-5
    score = guided(Curved()).score(x, 1)

    def log_p(x: Tensor) -> Tensor:
        return Curved()(x, TIMES[1].expand(2)).log_softmax(-1)[torch.arange(2), LABELS]

    for c, i, j in ((0, 0, 0), (2, 1, 0), (1, 0, 1)):
        nudge = torch.zeros_like(x)
        nudge[:, c, i, j] = step
        slope = (log_p(x + nudge) - log_p(x - nudge)) / (2 * step)
        assert torch.allclose(score[:, c, i, j].double(), slope, atol=1e-3)


def test_step_along_the_score_makes_the_label_likelier() -> None:
    x = image()
    score = guided(Linear()).score(x, 0)

    def chance(x: Tensor) -> Tensor:
        return Linear()(x, torch.zeros(2)).softmax(-1)[torch.arange(2), LABELS]

    assert (chance(x + 0.05 * score) > chance(x)).all()


def test_scale_multiplies_and_zero_is_none() -> None:
    x = image()
    once = guided(Linear(), 1.0).score(x, 1)
    assert torch.allclose(guided(Linear(), 4.5).score(x, 1), 4.5 * once)
    assert torch.equal(guided(Linear(), 0.0).score(x, 1), torch.zeros_like(x))


def test_images_of_a_batch_are_guided_separately() -> None:
    x = image()
    alone = GuidedDenoiser(denoise, Linear(), TIMES, LABELS[1:], 1.0).score(x[1:], 1)
    assert torch.allclose(guided(Linear()).score(x, 1)[1:], alone, atol=1e-6)


def test_guidance_keeps_the_prediction_and_no_graph() -> None:
    x, classifier = image(), Linear()
    with torch.no_grad():
        p = guided(classifier)(x, 1)
    assert torch.equal(p.x0, x / 2) and torch.equal(p.eps, x / 3)
    assert p.score is not None and not p.score.requires_grad
    assert classifier.weights.grad is None and not x.requires_grad


def test_windows_of_an_image_have_its_label() -> None:
    """Windows come one after the other, each of all images."""
    x, more = image(), image().flip(-1)
    both = guided(Linear()).score(torch.cat([x, more]), 1)
    apart = torch.cat([guided(Linear()).score(half_batch, 1) for half_batch in (x, more)])
    assert torch.allclose(both, apart, atol=1e-6)


def off(score: Tensor, truth: Tensor) -> float:
    return ((score - truth).norm() / truth.norm()).item()


def test_score_in_bfloat16_is_a_few_percent_off() -> None:
    """Of a network such as the published one, smaller and with random weights."""
    config = ClassifierConfig(classifier_width=64, classifier_depth=1, classifier_pool="attention")
    classifier = build_classifier(config, 32, "1,2").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for weight in classifier.parameters():
        draws = torch.randn(weight.shape, generator=generator)
        weight += 0.05 * draws if weight.ndim < 2 else draws * weight[0].numel() ** -0.5 - weight
    x = torch.randn(2, 3, 32, 32, generator=generator)
    exact, half = (
        GuidedDenoiser(denoise, classifier, TIMES, LABELS, 1.0, dtype).score(x, 1)
        for dtype in (None, torch.bfloat16)
    )
    assert half.dtype == torch.float32 and 1e-3 < off(half, exact) < 0.06


def test_score_in_float16_keeps_small_gradients() -> None:
    class Sure(nn.Module):
        """Nearly certain of class 0 by the mean of many pixels, each of which has a share of the doubt."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 2, 1, bias=False)
            nn.init.constant_(self.layer.weight, 0.5)
            nn.init.constant_(self.layer.weight[1], -0.5)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.layer(x).mean(dim=(2, 3)) + torch.tensor([5.0, 0.0])

    classifier, x = Sure().requires_grad_(False), torch.zeros(1, 3, 256, 256)
    label = torch.zeros(1, dtype=torch.long)
    exact, half = (
        GuidedDenoiser(denoise, classifier, TIMES, label, 2.0, dtype).score(x, 0)
        for dtype in (None, torch.float16)
    )
    assert 0 < exact.abs().max() < 3e-7 and off(half, exact) < 0.03


class ReadyModels(Models):
    """Models whose networks need no files."""

    @cached_property
    def network(self) -> nn.Module:
        return nn.Identity()

    @cached_property
    def classifier(self) -> nn.Module:
        return Linear()


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", None), ("tf32", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_classifier_has_the_precision_of_the_network(precision: str, dtype: torch.dtype | None) -> None:
    process, times = build_process(ProcessConfig(timestep_respacing="6"))
    config = Config("run", "model.pt", classifier=ClassifierConfig("classifier.pt", 1.0), cond_y=3)
    models = ReadyModels(config, process, times, torch.device("cpu"), precision)
    wrapped = models.denoiser([ImageSeed(0, "a")])
    assert isinstance(wrapped, GuidedDenoiser) and wrapped.autocast is dtype
