"""Weights over times and the compact state of a training run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from guided_diffusion.losses import LossWeighting, coarse_error, time_weights
from tests.helpers.training import perturb_weights, random_images, tiny_trainer


@pytest.mark.parametrize("weighting", ["none", "min_snr", "p2"])
def test_loss_weighting_applies_to_simple_loss_alone(tmp_path: Path, weighting: LossWeighting) -> None:
    run = tiny_trainer(tmp_path, loss_weighting=weighting)
    perturb_weights(run.network)
    x0, t, noise = random_images(4), torch.tensor([0, 3, 1, 2]), random_images(4, 1)
    simple, bound, _ = run.denoiser(run.network).loss(x0, t, noise)
    weights = time_weights(weighting, torch.from_numpy(run.process.alphas_cumprod))[t].float()
    wanted = weights * simple + bound
    wanted.mean().backward()
    gradients = [p.grad.clone() for p in run.network.parameters() if p.grad is not None]
    run.optimizer.zero_grad()
    assert torch.equal(run.accumulate(run.network, x0, t, torch.ones(4), noise), wanted.detach())
    for parameter, gradient in zip(run.network.parameters(), gradients, strict=True):
        assert parameter.grad is not None and torch.allclose(parameter.grad, gradient, atol=1e-6)
    assert run.totals[1] == pytest.approx(simple.mean().item()), "the report shows it unweighted"
    if weighting == "none":
        assert torch.equal(wanted, simple + bound)


def test_loss_factors_are_minimised_and_not_reported(tmp_path: Path) -> None:
    plain, rough = tiny_trainer(tmp_path), tiny_trainer(tmp_path, loss_factors="4,16")
    x0, t, noise = random_images(4), torch.tensor([0, 3, 1, 2]), random_images(4, 1)
    fine, coarse = (run.accumulate(run.network, x0, t, torch.ones(4), noise) for run in (plain, rough))
    extra = coarse_error(noise, (4, 16))  # an untrained network predicts 0
    assert torch.allclose(coarse - fine, extra, atol=1e-4) and extra.min() > 0
    assert plain.totals[1] == rough.totals[1], "the simple loss is reported alone"


def test_compact_state_has_ten_bytes_per_weight_and_is_nearly_exact(tmp_path: Path) -> None:
    """The weights are exact; the average is rounded to half precision, the moments to bfloat16."""
    run, again = (tiny_trainer(tmp_path, compact_state=True, lr=1e-3) for _ in range(2))
    for step in range(3):
        run.train_step(run.network, random_images(2, step))
    run.save()
    weights = sum(p.numel() for p in run.network.parameters())
    content = torch.load(run.state_path, weights_only=True)
    saved = [content["network"], content["ema"], *content["optimizer"]["state"].values()]
    tensors = [tensor for part in saved for tensor in part.values() if tensor.ndim]
    assert sum(tensor.numel() * tensor.element_size() for tensor in tensors) == 10 * weights
    again.restore()
    for restored, wanted in zip(again.ema.parameters(), run.ema.parameters(), strict=True):
        assert restored.dtype == torch.float32 and torch.allclose(restored, wanted, rtol=2**-11, atol=2**-24)
    for key, moments in run.optimizer.state_dict()["state"].items():
        theirs = again.optimizer.state_dict()["state"][key]
        assert theirs["step"] == moments["step"] == 3
        for name in ("exp_avg", "exp_avg_sq"):
            assert theirs[name].dtype == torch.float32
            assert torch.allclose(theirs[name], moments[name], rtol=2**-8, atol=1e-38)
    for restored, wanted in zip(again.network.parameters(), run.network.parameters(), strict=True):
        assert torch.equal(restored, wanted)
    run.train_step(run.network, random_images(2, 9))
    again.train_step(again.network, random_images(2, 9))
    for restored, wanted in zip(again.network.parameters(), run.network.parameters(), strict=True):
        assert (restored - wanted).abs().max() < 0.01 * 1e-3, "a hundredth of the learning rate"
