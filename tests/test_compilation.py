"""compilation: the same bits, sooner or later; what cannot be compiled goes on as it is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from guided_diffusion import compilation
from guided_diffusion.assembly import build_network, place
from guided_diffusion.compilation import Compiled, quickened
from guided_diffusion.config import ModelConfig
from guided_diffusion.engine import Engine, load_config
from tests.conftest import EVALUATIONS, MODEL

SHAPES = [(1, 16, 16), (2, 16, 24)]


def tiny(weights: Path, precision: str = "fp32") -> nn.Module:
    network = build_network(ModelConfig(**MODEL))
    network.load_state_dict(torch.load(weights))
    return place(network.eval().requires_grad_(False), torch.device("cpu"), precision, MODEL["image_size"])


def inputs(batch: int, rows: int, cols: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, rows, cols, generator=generator), torch.tensor(100 * seed).expand(batch)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_compiled_network_says_the_same_to_the_bit(tiny_weights: Path, precision: str) -> None:
    network = tiny(tiny_weights, precision)
    quick = quickened(network, True)
    assert isinstance(quick, Compiled)
    with torch.no_grad():
        for seed in range(2):
            for shape in SHAPES:
                x, t = inputs(*shape, seed)
                assert torch.equal(quick(x, t), network(x, t))
                places = t.view(-1, 1, 1, 1) * (x[:, :1] > 0)  # a time per pixel
                assert torch.equal(quick(x, places), network(x, places))
    assert len(quick.compiled) == 2 * len(SHAPES)
    assert all(isinstance(call, torch.jit.ScriptModule) for call in quick.compiled.values())


class Counting(nn.Module):
    """Doubles its input and counts how often Python ran it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return 2 * x


def test_auto_waits_until_it_pays_for_each_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "PAYS_AFTER", 4)
    network = Counting()
    quick = quickened(network, "auto")
    for i in range(10):
        for shape in ((1,), (2,)):
            assert torch.equal(quick(torch.full(shape, float(i))), torch.full(shape, 2.0 * i))
    assert network.calls == 2 * (4 + 1 + 1)  # the waiting, the one to compare with, the trace


def test_so_many_shapes_are_compiled_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "MOST_SHAPES", 2)
    quick = quickened(Counting(), True)
    for size in (1, 2, 3, 1, 3):
        quick(torch.zeros(size))
    assert isinstance(quick, Compiled) and len(quick.compiled) == 2


class Drifting(Counting):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.calls  # which a trace holds fast


class Unwilling(Counting):
    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            raise RuntimeError("no tracing\nhere")
        return super().forward(x)


@pytest.mark.parametrize(
    ("kind", "why"), [(Drifting, "it would change what the network says"), (Unwilling, "no tracing")]
)
def test_what_cannot_be_compiled_goes_on_and_one_line_tells(
    kind: type[Counting], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    network = kind()
    quick = quickened(network, True)
    with caplog.at_level(logging.WARNING, "penumbra"):
        quick(torch.ones(2))
        before = network.calls
        quick(torch.ones(2))
    assert network.calls == before + 1
    [line] = caplog.messages
    assert why in line and "\n" not in line


def test_heavy_networks_are_left_alone_unless_asked_for() -> None:
    with torch.device("meta"):
        heavy = nn.Linear(10_001, 10_000)
    light = nn.Linear(2, 2)
    assert quickened(heavy, "auto") is heavy
    assert isinstance(quickened(heavy, True), Compiled)
    assert isinstance(quickened(light, "auto"), Compiled)
    assert quickened(light, False) is light


def test_a_run_gives_the_same_pictures_under_the_same_keys(project: Callable[..., Path]) -> None:
    """However early it is compiled: in the middle of a walk too."""
    conf = project(count=2)
    results = {}
    for wanted in ("false", "true", "auto"):
        engine = Engine(load_config(conf, [f"compile={wanted}"]))
        if wanted == "auto":
            engine.networks.network.wait = EVALUATIONS // 2
        results[wanted] = {result.name: result for result in engine()}
        assert isinstance(engine.networks.network, Compiled) is (wanted != "false")
        if wanted != "false":
            assert len(engine.networks.network.compiled) == 1
    for name, plain in results["false"].items():
        for other in (results["true"][name], results["auto"][name]):
            assert np.array_equal(plain.filled, other.filled) and plain.key == other.key
