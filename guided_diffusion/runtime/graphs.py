"""A network made quicker without changing a bit of what it says: traced on a CPU, captured on a GPU.

What Python and the launching of kernels cost is saved; the kernels and their order stay. So whether this is
done changes no image, and the length of the run may decide it. torch.compile changes bits, and takes a
hundred times as long to set up for much the same gain: docs/reports/benchmarks.md.
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

PAYS_AFTER = {"cpu": 100, "cuda": 5}  # evaluations that save what the making costs
LIGHT = 100_000_000  # weights: on a CPU an evaluation of more outweighs all that could be saved
MOST_SHAPES = 8  # compiled; each keeps memory of its own on a GPU
WARMING = 3  # runs after which a trace is as quick as it gets; CUDA too wants some before it captures

Call: TypeAlias = Callable[..., Tensor]
log = logging.getLogger("penumbra")


def quickened(network: nn.Module, wanted: Compile) -> nn.Module:
    """The network, or what stands before it and compiles it, as is wanted; for use without gradients."""
    weights = list(network.parameters())
    device = "cuda" if any(weight.is_cuda for weight in weights) else "cpu"
    heavy = device == "cpu" and sum(weight.numel() for weight in weights) > LIGHT
    if wanted is False or (wanted == "auto" and heavy):
        return network
    return Compiled(network, PAYS_AFTER[device] if wanted == "auto" else 0)


class Compiled(nn.Module):
    """Compiles a network for each shape of its inputs after `wait` evaluations of that shape.

    The compiled one is taken only if it says the same as the network, to the bit. Where there is no
    compiling, one line tells of it and the network goes on as it is. Beyond MOST_SHAPES, and where a GPU's
    memory runs out, compiled ones are given up and made anew when their shape has come as often again.
    """

    def __init__(self, network: nn.Module, wait: int) -> None:
        super().__init__()
        self.network, self.wait = network, wait
        self.seen: Counter[tuple[object, ...]] = Counter()  # shapes -> evaluations
        self.compiled: dict[tuple[object, ...], Call] = {}  # the one that was used last comes last

    def forward(self, *inputs: Tensor) -> Tensor:
        try:
            return self._answer(inputs)
        except torch.OutOfMemoryError:
            if not self.compiled:
                raise
        self.compiled.clear()  # here, where no traceback holds the failed attempt any longer
        self.seen.clear()
        torch.cuda.empty_cache()
        return self.network(*inputs)

    def _answer(self, inputs: tuple[Tensor, ...]) -> Tensor:
        shapes = tuple((each.shape, each.dtype) for each in inputs)
        if shapes in self.compiled:
            self.compiled[shapes] = call = self.compiled.pop(shapes)
            return call(*inputs)
        self.seen[shapes] += 1
        if self.seen[shapes] <= self.wait:
            return self.network(*inputs)
        if len(self.compiled) == MOST_SHAPES:
            oldest = next(iter(self.compiled))
            del self.compiled[oldest], self.seen[oldest]
        out = self.network(*inputs)
        self.compiled[shapes] = self._compile(inputs, out)
        return out

    def _compile(self, inputs: tuple[Tensor, ...], out: Tensor) -> Call:
        """What stands in for the network, which says `out` of these inputs; itself where nothing can.

        It is made from other inputs: what holds on to theirs, or to the answer, does not pass.
        """
        make = captured if out.is_cuda else traced
        others = tuple((each - 1).abs() for each in inputs)  # classes and times, too, are such as there are
        try:
            call = make(self.network, others)
            if torch.equal(call(*inputs), out):
                return call
            why = "it would change what the network says"
        except (RuntimeError, AttributeError) as error:  # torch's; a torch without torch.jit
            if self.compiled and isinstance(error, torch.OutOfMemoryError):
                raise  # there is memory to be given back
            why = f"{type(error).__name__}: {str(error).strip()}".split("\n")[0]
        log.warning("the network is not compiled and goes on as it is: %s", why)
        return self.network


def traced(network: nn.Module, inputs: tuple[Tensor, ...]) -> Call:
    """The network's operations for inputs of these shapes, run without Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a trace holds fast holds for these shapes
        call = torch.jit.trace(network, inputs, check_trace=False)
    for _ in range(WARMING):
        call(*inputs)
    return call


def captured(network: nn.Module, inputs: tuple[Tensor, ...]) -> Call:
    """The network's kernels for inputs of these shapes, launched as one CUDA graph."""
    own = tuple(each.clone(memory_format=torch.contiguous_format) for each in inputs)
    with torch.cuda.device(own[0].device):  # a stream is of the current device, which may be another
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMING):
                network(*own)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph, stream=stream):
            out = network(*own)

    def replay(*given: Tensor) -> Tensor:
        for mine, each in zip(own, given, strict=True):
            mine.copy_(each)
        graph.replay()
        return out.clone()  # the next replay writes over it

    return replay
