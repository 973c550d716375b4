"""Tests that no sampler transfers data or synchronises with the device in a step.

Sampling runs on the meta device, where reading a value (`.item()`, `if tensor:`) raises. A dispatch mode
counts copies between devices.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from guided_diffusion import build
from guided_diffusion.codec import PixelCodec
from guided_diffusion.config.schema import ModelConfig, ProcessConfig
from guided_diffusion.denoiser import Denoiser
from guided_diffusion.inpainting.coarse_guidance import CoarseGuidedDenoiser
from guided_diffusion.inpainting.tiled_denoiser import TiledDenoiser
from guided_diffusion.operators import Mask
from guided_diffusion.samplers import Problem, Sampler, sample
from guided_diffusion.samplers.ddim import DDIM
from guided_diffusion.samplers.ddnm import DDNM
from guided_diffusion.samplers.ddpm import DDPM
from guided_diffusion.samplers.ilvr import ILVR
from guided_diffusion.samplers.intermediate import Intermediate
from guided_diffusion.samplers.repaint import RePaint
from guided_diffusion.samplers.td_paint import TDPaint
from guided_diffusion.scheduler import JumpSchedule
from tests.helpers.project import MODEL


class CountTransfers(TorchDispatchMode):
    """Counts tensors that come from outside the device."""

    def __init__(self) -> None:
        super().__init__()
        self.transfers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = [a for a in args if isinstance(a, Tensor)]
        if isinstance(out, Tensor) and any(a.device != out.device and a.ndim for a in inputs):
            self.transfers += 1
        return out


SAMPLERS = [
    RePaint(JumpSchedule(jump_length=2, jump_n_sample=2)),
    RePaint(JumpSchedule(jump_length=2, jump_n_sample=2), rule="ddim", eta=0.5),
    RePaint(rule="ding"),
    DDPM(),
    DDIM(),
    DDNM(),
    Intermediate(t_start=3),
    ILVR(down_n=3),
    TDPaint(),
]


def problem_of(side: int) -> Problem:
    """Return a problem of two images on the meta device."""
    with torch.device("meta"):
        network = build.build_network(ModelConfig(**MODEL)).eval()
        y, keep = torch.zeros(2, 3, side, side), torch.ones(2, 1, side, side)
    process, times = build.build_process(ProcessConfig(timestep_respacing="6"))
    denoise = Denoiser(network, process, times.to("meta"))
    return Problem(y, Mask(keep), denoise, process, lambda: torch.empty_like(y))


def uploads_nothing(sampler: Sampler, problem: Problem) -> None:
    with CountTransfers() as counter:
        steps = list(sample(sampler, problem))
    assert steps[-1].x.device.type == "meta"
    assert counter.transfers == 0


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: f"{type(s).__name__}-{getattr(s, 'rule', '')}")
def test_samplers_neither_synchronise_nor_upload(sampler: Sampler) -> None:
    uploads_nothing(sampler, problem_of(16))


@pytest.mark.parametrize("sampler", [SAMPLERS[0], TDPaint()], ids=lambda s: type(s).__name__)
def test_overlapping_windows_do_not_upload_and_plan_their_layout_once(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, region, done = problem_of(32), torch.ones(32, 32, dtype=torch.bool), list[str]()

    def corners(tiled: TiledDenoiser, height: int, width: int) -> list[tuple[int, int]]:
        done.append("corners")
        return plain_corners(tiled, height, width)

    plain_corners = TiledDenoiser.corners
    monkeypatch.setattr(TiledDenoiser, "corners", corners)
    tiled = TiledDenoiser(problem.denoise, 16, 8, region)
    shown = torch.ones(1, 1, 32, 32, device="meta")
    coarse, clamp = torch.zeros_like(problem.y), PixelCodec().clamp
    guided = CoarseGuidedDenoiser(tiled, problem.process, coarse, shown, (4, 4), 2, clamp)

    def interpolate(plane: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        if plane is shown:
            done.append("region")
        return plain_interpolate(plane, *arguments, **keywords)

    plain_interpolate = torch.nn.functional.interpolate
    monkeypatch.setattr(torch.nn.functional, "interpolate", interpolate)
    uploads_nothing(sampler, replace(problem, denoise=guided))
    assert sorted(done) == ["corners", "region"]


def test_count_transfers_sees_an_upload() -> None:
    with CountTransfers() as counter:
        torch.zeros(3).to("meta")
    assert counter.transfers == 1
