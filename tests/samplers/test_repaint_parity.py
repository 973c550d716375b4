"""Whole runs of RePaint against whole runs of the published code, from the same seed.

With 2 threads, as the numbers were made, the runs are bit-equal; the thread count alone moves a whole run by
up to 2e-5, hence 1e-4.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from guided_diffusion.build import build_process
from guided_diffusion.config.schema import ProcessConfig
from guided_diffusion.denoiser import Denoiser
from guided_diffusion.operators import Mask
from guided_diffusion.samplers import Noise, Problem, Step, sample
from guided_diffusion.samplers.repaint import RePaint
from guided_diffusion.scheduler import JumpSchedule
from tests.helpers import stored

GOLDEN = stored.tensors("repaint")
KEYS = ("t_T", "n_sample", "jump_length", "jump_n_sample")
CROP = (..., slice(8, 12), slice(8, 12))  # what is kept of the traces


class Oracle(nn.Module):
    """eps = sqrt(1 - alpha_bar[t]) x with alpha_bar of the 1000 training steps, v = -0.3."""

    def __init__(self) -> None:
        super().__init__()
        every_step, _ = build_process(ProcessConfig(timestep_respacing=""))
        self.alpha_bar = torch.from_numpy(every_step.alphas_cumprod).float()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        spread = torch.sqrt(1 - self.alpha_bar[t])[:, None, None, None]
        return torch.cat([spread * x, torch.full_like(x, -0.3)], dim=1)


class OneGenerator:
    """The published code draws a whole batch from one generator."""

    def __init__(self, shape: torch.Size) -> None:
        self.generator, self.shape = torch.Generator().manual_seed(0), shape

    def __call__(self) -> Tensor:
        return torch.randn(self.shape, generator=self.generator)


def run(name: str, network: nn.Module, noise: Any) -> list[Step]:
    process, times = build_process(ProcessConfig(timestep_respacing="50"))
    gt, mask = GOLDEN[f"run/{name}/gt"], GOLDEN[f"run/{name}/mask"]
    values = dict(zip(KEYS, map(int, GOLDEN[f"run/{name}/schedule"]), strict=True))
    denoiser = Denoiser(network, process, times)
    return list(sample(RePaint(JumpSchedule(**values)), Problem(gt, Mask(mask), denoiser, process, noise)))


def check(name: str, steps: list[Step]) -> None:
    assert len(steps) == int(GOLDEN[f"run/{name}/n_reverse"])
    published, last = GOLDEN[f"run/{name}/sample"], steps[-1]
    assert last.t == -1
    assert (last.x - published).abs().max() < 1e-4
    assert last.x0 is not None and (last.x0 - published).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["tiny/T50", "tiny/T12"])
def test_image_with_a_generator_ends_as_published(name: str) -> None:
    noise = Noise([torch.Generator().manual_seed(0)], (3, 32, 32))
    steps = run(name, stored.tiny_network(), noise)
    check(name, steps)
    if name == "tiny/T50":
        check_means(steps, GOLDEN[f"run/{name}/step_means"])
    else:
        check_trace(name, steps)


@pytest.mark.parametrize("name", ["oracle/T50", "oracle/T12"])
def test_batch_ends_as_published(name: str) -> None:
    steps = run(name, Oracle(), OneGenerator(GOLDEN[f"run/{name}/gt"].shape))
    check(name, steps)
    if name == "oracle/T12":
        check_trace(name, steps)


def check_trace(name: str, steps: list[Step]) -> None:
    """x and x0 after every evaluation; early x0 magnifies rounding up to 200-fold before it is clipped."""
    for step, x, x0 in zip(
        steps, GOLDEN[f"run/{name}/trace_sample"], GOLDEN[f"run/{name}/trace_x0"], strict=True
    ):
        assert step.x0 is not None
        assert (step.x[CROP] - x).abs().max() < 1e-4
        assert (step.x0[CROP] - x0).abs().max() < 1e-3


def check_means(steps: list[Step], published: Tensor) -> None:
    """Mean and spread of x and x0 after every evaluation, and the share of x0 that was clipped."""
    for step, row in zip(steps, published, strict=True):
        assert step.x0 is not None
        moments = [
            step.x.mean(),
            step.x.std(),
            step.x0.mean(),
            step.x0.std(),
            (step.x0.abs() == 1).float().mean(),
        ]
        assert torch.allclose(torch.stack(moments), row, atol=1e-3)
        assert torch.allclose(torch.stack(moments[:2]), row[:2], atol=1e-5)


def test_repaint_itself_does_not_keep_known_pixels() -> None:
    """That is why the engine pastes them back."""
    gt, keep = GOLDEN["run/tiny/T50/gt"], GOLDEN["run/tiny/T50/mask"]
    wrong = ((GOLDEN["run/tiny/T50/sample"] - gt) * keep).abs()
    assert 0 < wrong.max() < 0.2
