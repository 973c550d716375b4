"""The loop asks nothing of the device: no transfer and no waiting per step, whatever the sampler.

The walk runs on the meta device, where a value that is read (`.item()`, `if tensor:`) raises; copies between
devices are counted by a dispatch mode.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from guided_diffusion import assembly
from guided_diffusion.config import ModelConfig, ProcessConfig
from guided_diffusion.denoiser import Denoiser
from guided_diffusion.operators import Mask
from guided_diffusion.samplers import (
    DDIM,
    DDNM,
    DDPM,
    ILVR,
    Intermediate,
    Problem,
    RePaint,
    Sampler,
    TDPaint,
    walk,
)
from guided_diffusion.scheduler import JumpSchedule
from tests.conftest import MODEL


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


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: f"{type(s).__name__}-{getattr(s, 'rule', '')}")
def test_the_loop_neither_waits_nor_uploads(sampler: Sampler) -> None:
    with torch.device("meta"):
        network = assembly.build_network(ModelConfig(**MODEL)).eval()
        y, keep = torch.zeros(2, 3, 16, 16), torch.ones(2, 1, 16, 16)
    process, times = assembly.build_process(ProcessConfig(timestep_respacing="6"))
    denoise = Denoiser(network, process, times.to("meta"))
    problem = Problem(y, Mask(keep), denoise, process, lambda: torch.empty_like(y))
    with CountTransfers() as counter:
        steps = list(walk(sampler, problem))
    assert steps[-1].x.device.type == "meta"
    assert counter.transfers == 0


def test_the_counter_sees_an_upload() -> None:
    with CountTransfers() as counter:
        torch.zeros(3).to("meta")
    assert counter.transfers == 1
