"""Faster networks with bit-identical output: traced on a CPU, captured as a CUDA graph on a GPU.

Tracing and capturing save the cost of Python and of launching kernels; the kernels and their order stay. So
compiling changes no image, and the length of a run may decide whether it is done. torch.compile changes bits
and takes a hundred times as long to set up for about the same gain: docs/reports/benchmarks.md.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from guided_diffusion.config.types import Compile

# Chosen by measurements in docs/reports/benchmarks.md.
CALLS_BEFORE_COMPILING = {"cpu": 100, "cuda": 5}  # calls that save as much time as compiling takes
MAX_CPU_WEIGHTS = 100_000_000  # on a CPU, one call of a larger network outweighs all that could be saved
MAX_SHAPES = 8  # compiled input shapes; each keeps its own memory on a GPU
WARMUP_RUNS = 3  # a trace reaches its full speed after them; CUDA needs some before capturing too

Call: TypeAlias = Callable[..., Tensor]
log = logging.getLogger("penumbra")


def maybe_compile(network: nn.Module, wanted: Compile) -> nn.Module:
    """Return the network, wrapped in a CompiledNetwork if `wanted` says so; for use without gradients.

    `auto` compiles after CALLS_BEFORE_COMPILING calls, and never a network of more than MAX_CPU_WEIGHTS
    weights on a CPU.
    """
    weights = list(network.parameters())
    device = "cuda" if any(weight.is_cuda for weight in weights) else "cpu"
    is_heavy = device == "cpu" and sum(weight.numel() for weight in weights) > MAX_CPU_WEIGHTS
    if wanted is False or (wanted == "auto" and is_heavy):
        return network
    return CompiledNetwork(network, CALLS_BEFORE_COMPILING[device] if wanted == "auto" else 0)


class CompiledNetwork(nn.Module):
    """Compiles a network for each shape of its inputs, after `after_calls` calls with that shape.

    The compiled network is used only if its output is bit-identical. Otherwise one warning is logged and the
    network runs as it is. Beyond MAX_SHAPES, and when a GPU's memory runs out, compiled networks are dropped;
    a dropped one is compiled again after as many further calls.
    """

    def __init__(self, network: nn.Module, after_calls: int) -> None:
        super().__init__()
        self.network, self.after_calls = network, after_calls
        self.calls: Counter[tuple[object, ...]] = Counter()  # shapes -> number of calls
        self.compiled: dict[tuple[object, ...], Call] = {}  # the most recently used comes last

    def forward(self, *inputs: Tensor) -> Tensor:
        try:
            return self._run(inputs)
        except torch.OutOfMemoryError:
            if not self.compiled:
                raise
        self.compiled.clear()  # here, where no traceback holds the failed attempt any longer
        self.calls.clear()
        torch.cuda.empty_cache()
        return self.network(*inputs)

    def _run(self, inputs: tuple[Tensor, ...]) -> Tensor:
        shapes = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        if shapes in self.compiled:
            self.compiled[shapes] = call = self.compiled.pop(shapes)
            return call(*inputs)
        self.calls[shapes] += 1
        if self.calls[shapes] <= self.after_calls:
            return self.network(*inputs)
        if len(self.compiled) == MAX_SHAPES:
            oldest = next(iter(self.compiled))
            del self.compiled[oldest], self.calls[oldest]
        out = self.network(*inputs)
        self.compiled[shapes] = self._compile(inputs, out)
        return out

    def _compile(self, inputs: tuple[Tensor, ...], out: Tensor) -> Call:
        """Return the compiled network for inputs of these shapes, or the network itself if that fails.

        It is compiled with other values than `inputs`, so that a result that holds on to the values it was
        made from fails the comparison with `out`.
        """
        compile_network = capture_graph if out.is_cuda else trace
        examples = tuple((tensor - 1).abs() for tensor in inputs)  # valid as labels and timesteps too
        try:
            call = compile_network(self.network, examples)
            if torch.equal(call(*inputs), out):
                return call
            reason = "it would change the network's output"
        except (RuntimeError, AttributeError) as error:  # torch's; a torch without torch.jit
            if self.compiled and isinstance(error, torch.OutOfMemoryError):
                raise  # there is memory to give back
            reason = f"{type(error).__name__}: {str(error).strip()}".split("\n")[0]
        log.warning("the network is not compiled and runs as it is: %s", reason)
        return self.network


def trace(network: nn.Module, inputs: tuple[Tensor, ...]) -> Call:
    """Return the network's operations for inputs of these shapes, run without Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes become constants, which is right for these shapes
        call = torch.jit.trace(network, inputs, check_trace=False)
    for _ in range(WARMUP_RUNS):
        call(*inputs)
    return call


def capture_graph(network: nn.Module, inputs: tuple[Tensor, ...]) -> Call:
    """Return the network's kernels for inputs of these shapes, launched as one CUDA graph."""
    buffers = tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in inputs)
    with torch.cuda.device(buffers[0].device):  # a stream belongs to the current device, maybe another one
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_RUNS):
                network(*buffers)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph, stream=stream):
            out = network(*buffers)

    def replay(*inputs: Tensor) -> Tensor:
        for buffer, tensor in zip(buffers, inputs, strict=True):
            buffer.copy_(tensor)
        graph.replay()
        return out.clone()  # the next replay overwrites it

    return replay
