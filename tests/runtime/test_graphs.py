"""Tests of runtime/graphs.py: compiled networks are bit-identical; failures leave the network as it is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from guided_diffusion.build import build_network
from guided_diffusion.config.schema import ModelConfig
from guided_diffusion.engine import Engine, load_config
from guided_diffusion.inpainting.task import InpaintTask
from guided_diffusion.output.results import Result
from guided_diffusion.runtime import distributed, graphs
from guided_diffusion.runtime.graphs import CompiledNetwork, maybe_compile
from guided_diffusion.runtime.inference import prepare_for_inference
from tests.helpers.project import MODEL, NFE, Project
from tests.helpers.results import inpainted_image

SHAPES = [(1, 16, 16), (2, 16, 24)]


def tiny(weights: Path, precision: str = "fp32") -> nn.Module:
    network = build_network(ModelConfig(**MODEL))
    network.load_state_dict(torch.load(weights))
    network = network.eval().requires_grad_(False)
    return prepare_for_inference(network, torch.device("cpu"), precision, MODEL["image_size"])


def inputs(batch: int, rows: int, cols: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, rows, cols, generator=generator), torch.tensor(100 * seed).expand(batch)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_network_is_bit_identical(tiny_weights: Path, precision: str) -> None:
    network = tiny(tiny_weights, precision)
    compiled = maybe_compile(network, True)
    assert isinstance(compiled, CompiledNetwork)
    with torch.no_grad():
        for seed in range(2):
            for shape in SHAPES:
                x, t = inputs(*shape, seed)
                assert torch.equal(compiled(x, t), network(x, t))
                times = t.view(-1, 1, 1, 1) * (x[:, :1] > 0)  # a time per pixel
                assert torch.equal(compiled(x, times), network(x, times))
    assert len(compiled.compiled) == 2 * len(SHAPES)
    assert all(isinstance(call, torch.jit.ScriptModule) for call in compiled.compiled.values())


class Counting(nn.Module):
    """Doubles its input and counts how often Python ran it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return 2 * x


def test_auto_compiles_each_shape_after_enough_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "CALLS_BEFORE_COMPILING", {"cpu": 4})
    network = Counting()
    compiled = maybe_compile(network, "auto")
    for i in range(10):
        for shape in ((1,), (2,)):
            assert torch.equal(compiled(torch.full(shape, float(i))), torch.full(shape, 2.0 * i))
    assert network.calls == 2 * (4 + 1 + 1)  # before compiling, for the comparison, for the trace


def test_most_recently_used_shapes_stay_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """They include the last shape of a growing batch, which most images are computed in."""
    monkeypatch.setattr(graphs, "MAX_SHAPES", 2)
    compiled = maybe_compile(Counting(), True)
    assert isinstance(compiled, CompiledNetwork)
    for size in (1, 2, 1, 3, 3):
        compiled(torch.zeros(size))
    assert [shape for ((shape, _),) in compiled.compiled] == [(1,), (3,)]
    compiled(torch.zeros(2))
    assert [shape for ((shape, _),) in compiled.compiled] == [(3,), (2,)]


class Full(Counting):
    """A network that has enough memory only after the compiled networks were dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.compiled: CompiledNetwork | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.compiled is not None and (self.compiled.compiled or len(x) > 7):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


@pytest.mark.parametrize("after_calls", [0, 1])
def test_compiled_networks_are_dropped_when_a_call_runs_out_of_memory(after_calls: int) -> None:
    network = Full()
    compiled = CompiledNetwork(network, after_calls)
    for _ in range(after_calls + 1):
        compiled(torch.zeros(1))
    assert len(compiled.compiled) == 1
    network.compiled = compiled
    assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 2.0)) and not compiled.compiled
    with pytest.raises(torch.OutOfMemoryError):
        compiled(torch.ones(8))


class Making:
    """Replaces `trace`: runs out of memory while other compiled networks exist."""

    def __init__(self, compiled: dict[tuple[object, ...], graphs.Call]) -> None:
        self.compiled = compiled

    def __call__(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> graphs.Call:
        if self.compiled:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return lambda *given: network(*given)


def test_compiled_networks_are_dropped_when_compiling_runs_out_of_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiled = CompiledNetwork(Counting(), 0)
    monkeypatch.setattr(graphs, "trace", Making(compiled.compiled))
    for size in (1, 2, 2):
        assert torch.equal(compiled(torch.ones(size)), torch.full((size,), 2.0))
    assert [shape for ((shape, _),) in compiled.compiled] == [(2,)]
    assert not caplog.messages


@pytest.mark.parametrize("holds", ["the answer", "the inputs"])
def test_compilation_that_keeps_old_values_is_rejected(
    holds: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A CUDA graph that was captured on another device does nothing when it is replayed."""

    def stale(network: nn.Module, inputs: tuple[Tensor, ...]) -> graphs.Call:
        answer = network(*inputs)
        return lambda *given: answer if holds == "the answer" else network(given[0], *inputs[1:])

    class Sum(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x + t

    monkeypatch.setattr(graphs, "trace", stale)
    compiled = maybe_compile(Sum(), True)
    for value in range(3):
        for time in (torch.tensor([value]), torch.tensor([[0.5 * value]])):
            x = torch.full((2,), float(value))
            assert torch.equal(compiled(x, time), x + time)
    assert "it would change the network's output" in caplog.messages[0]


class Drifting(Counting):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.calls  # a constant in a trace


class Unwilling(Counting):
    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            raise RuntimeError("no tracing\nhere")
        return super().forward(x)


@pytest.mark.parametrize(
    ("kind", "why"), [(Drifting, "it would change the network's output"), (Unwilling, "no tracing")]
)
def test_failed_compilation_warns_once_and_runs_the_network(
    kind: type[Counting], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    network = kind()
    compiled = maybe_compile(network, True)
    with caplog.at_level(logging.WARNING, "penumbra"):
        compiled(torch.ones(2))
        before = network.calls
        compiled(torch.ones(2))
    assert network.calls == before + 1
    [line] = caplog.messages
    assert why in line and "\n" not in line


def test_maybe_compile_skips_large_cpu_networks_unless_forced() -> None:
    with torch.device("meta"):
        heavy = nn.Linear(10_001, 10_000)
    light = nn.Linear(2, 2)
    with FakeTensorMode():
        weights = nn.Parameter(torch.empty(10_001, 10_000, device="cuda"))
    on_gpu = maybe_compile(nn.ParameterList([weights]), "auto")
    assert isinstance(on_gpu, CompiledNetwork) and on_gpu.after_calls == graphs.CALLS_BEFORE_COMPILING["cuda"]
    assert maybe_compile(heavy, "auto") is heavy
    assert isinstance(maybe_compile(heavy, True), CompiledNetwork)
    assert isinstance(maybe_compile(light, "auto"), CompiledNetwork)
    assert maybe_compile(light, False) is light


def test_run_is_the_same_whether_compiled_or_not(project: Project) -> None:
    """Compile at the start, in the middle of a trajectory, and not at all."""
    conf = project(count=2)
    results = {}
    for wanted in ("false", "true", "auto"):
        engine = Engine(load_config(conf, [f"compile={wanted}"]))
        if wanted == "auto":
            engine.models.network.after_calls = NFE // 2
        results[wanted] = {result.name: result for result in engine()}
        assert isinstance(engine.models.network, CompiledNetwork) is (wanted != "false")
        if wanted != "false":
            assert len(engine.models.network.compiled) == 1
    for name, plain in results["false"].items():
        for other in (results["true"][name], results["auto"][name]):
            assert np.array_equal(inpainted_image(plain), inpainted_image(other))
            assert plain.outputs["inpainted"].key == other.outputs["inpainted"].key


class CUDA:
    """Replaces torch.cuda; records the current device, and that of each stream and graph."""

    def __init__(self) -> None:
        self.current, self.used = 0, list[tuple[str, int]]()

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self.current = self.current, device.index
        yield
        self.current = before

    def CUDAGraph(self) -> SimpleNamespace:
        return SimpleNamespace(replay=lambda: None)

    def Stream(self) -> SimpleNamespace:
        return SimpleNamespace(index=self.current, wait_stream=lambda other: None)

    current_stream = Stream

    @contextmanager
    def stream(self, stream: SimpleNamespace) -> Iterator[None]:
        self.used.append(("warming", stream.index))
        yield

    @contextmanager
    def graph(self, graph: SimpleNamespace, stream: SimpleNamespace) -> Iterator[None]:
        self.used.append(("capturing", stream.index))
        yield


def test_capture_graph_uses_the_network_s_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own stream for captures would be on the device that captured first."""
    cuda = CUDA()
    monkeypatch.setattr(torch, "cuda", cuda)

    class There:
        device = torch.device("cuda:1")

        def clone(self, **_: object) -> There:
            return self

    graphs.capture_graph(nn.Identity(), (There(),))  # type: ignore[arg-type]
    assert cuda.used == [("warming", 1), ("capturing", 1)] and cuda.current == 0


def test_engine_makes_its_device_current_while_it_computes(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda, seen = CUDA(), list[int]()
    monkeypatch.setattr(distributed, "find_device", lambda _name: torch.device("cuda:1"))
    monkeypatch.setattr(torch.cuda, "device", cuda.device)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: cuda.current == 1)
    engine = Engine(load_config(project()))
    assert cuda.current == 0 and engine.precision == "bf16"

    def run(*_: object) -> Iterator[Result]:
        seen.append(cuda.current)
        yield Result("p0")
        seen.append(cuda.current)

    monkeypatch.setattr(InpaintTask, "run", run)
    for _ in engine.stream([]):
        seen.append(cuda.current)
    assert seen == [1, 0, 1] and cuda.current == 0
