"""compilation: the same bits, sooner or later; what cannot be compiled goes on as it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
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
from guided_diffusion.runtime import device, distributed, graphs
from guided_diffusion.runtime.graphs import CompiledNetwork, maybe_compile
from guided_diffusion.runtime.inference import prepare_for_inference
from tests.conftest import MODEL, NFE
from tests.helpers.results import inpainted

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
def test_the_compiled_network_says_the_same_to_the_bit(tiny_weights: Path, precision: str) -> None:
    network = tiny(tiny_weights, precision)
    quick = maybe_compile(network, True)
    assert isinstance(quick, CompiledNetwork)
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
    monkeypatch.setattr(graphs, "CALLS_BEFORE_COMPILING", {"cpu": 4})
    network = Counting()
    quick = maybe_compile(network, "auto")
    for i in range(10):
        for shape in ((1,), (2,)):
            assert torch.equal(quick(torch.full(shape, float(i))), torch.full(shape, 2.0 * i))
    assert network.calls == 2 * (4 + 1 + 1)  # the waiting, the one to compare with, the trace


def test_the_shapes_used_last_stay_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the last of a batch that grows, which most are made in, is one of them."""
    monkeypatch.setattr(graphs, "MAX_SHAPES", 2)
    quick = maybe_compile(Counting(), True)
    assert isinstance(quick, CompiledNetwork)
    for size in (1, 2, 1, 3, 3):
        quick(torch.zeros(size))
    assert [shape for ((shape, _),) in quick.compiled] == [(1,), (3,)]
    quick(torch.zeros(2))
    assert [shape for ((shape, _),) in quick.compiled] == [(3,), (2,)]


class Full(Counting):
    """A network for which memory is found only once the compiled ones have given theirs back."""

    def __init__(self) -> None:
        super().__init__()
        self.quick: CompiledNetwork | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.quick is not None and (self.quick.compiled or len(x) > 7):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


@pytest.mark.parametrize("after_calls", [0, 1])
def test_memory_of_the_compiled_is_given_back_where_there_is_none_left(after_calls: int) -> None:
    network = Full()
    quick = CompiledNetwork(network, after_calls)
    for _ in range(after_calls + 1):
        quick(torch.zeros(1))
    assert len(quick.compiled) == 1
    network.quick = quick
    assert torch.equal(quick(torch.ones(2)), torch.full((2,), 2.0)) and not quick.compiled
    with pytest.raises(torch.OutOfMemoryError):
        quick(torch.ones(8))


class Making:
    """In place of `trace`: a maker that fails for want of memory while others are compiled."""

    def __init__(self, compiled: dict[tuple[object, ...], graphs.Call]) -> None:
        self.compiled = compiled

    def __call__(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> graphs.Call:
        if self.compiled:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return lambda *given: network(*given)


def test_the_compiled_give_way_to_one_that_finds_no_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    quick = CompiledNetwork(Counting(), 0)
    monkeypatch.setattr(graphs, "trace", Making(quick.compiled))
    for size in (1, 2, 2):
        assert torch.equal(quick(torch.ones(size)), torch.full((size,), 2.0))
    assert [shape for ((shape, _),) in quick.compiled] == [(2,)]
    assert not caplog.messages


@pytest.mark.parametrize("holds", ["the answer", "the inputs"])
def test_what_holds_on_to_what_it_was_made_from_is_not_taken(
    holds: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a CUDA graph that was captured on another device: its replay does nothing."""

    def stale(network: nn.Module, inputs: tuple[Tensor, ...]) -> graphs.Call:
        answer = network(*inputs)
        return lambda *given: answer if holds == "the answer" else network(given[0], *inputs[1:])

    class Sum(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x + t

    monkeypatch.setattr(graphs, "trace", stale)
    quick = maybe_compile(Sum(), True)
    for value in range(3):
        for time in (torch.tensor([value]), torch.tensor([[0.5 * value]])):
            x = torch.full((2,), float(value))
            assert torch.equal(quick(x, time), x + time)
    assert "it would change the network's output" in caplog.messages[0]


class Drifting(Counting):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.calls  # which a trace holds fast


class Unwilling(Counting):
    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            raise RuntimeError("no tracing\nhere")
        return super().forward(x)


@pytest.mark.parametrize(
    ("kind", "why"), [(Drifting, "it would change the network's output"), (Unwilling, "no tracing")]
)
def test_what_cannot_be_compiled_goes_on_and_one_line_tells(
    kind: type[Counting], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    network = kind()
    quick = maybe_compile(network, True)
    with caplog.at_level(logging.WARNING, "penumbra"):
        quick(torch.ones(2))
        before = network.calls
        quick(torch.ones(2))
    assert network.calls == before + 1
    [line] = caplog.messages
    assert why in line and "\n" not in line


def test_heavy_networks_on_a_cpu_are_left_alone_unless_asked_for() -> None:
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


def test_a_run_gives_the_same_pictures_under_the_same_keys(project: Callable[..., Path]) -> None:
    """However early it is compiled: in the middle of a walk too."""
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
            assert np.array_equal(inpainted(plain), inpainted(other)) and plain.key == other.key


class CUDA:
    """In place of torch.cuda: its current device, and that of each stream and graph."""

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


def test_a_network_is_captured_on_the_device_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's own stream for captures it would be on the one that captured first."""
    cuda = CUDA()
    monkeypatch.setattr(torch, "cuda", cuda)

    class There:
        device = torch.device("cuda:1")

        def clone(self, **_: object) -> There:
            return self

    graphs.capture_graph(nn.Identity(), (There(),))  # type: ignore[arg-type]
    assert cuda.used == [("warming", 1), ("capturing", 1)] and cuda.current == 0


def test_the_engine_makes_its_device_the_current_one(
    project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(distributed, "find_device", lambda _name: torch.device("cuda:1"))
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(device, "has_bf16", lambda _device: bool(chosen))
    engine = Engine(load_config(project()))
    assert chosen == [torch.device("cuda:1")] and engine.precision == "bf16"
