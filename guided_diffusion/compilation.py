"""A network made quicker without changing a bit of what it says: traced on a CPU, captured on a GPU.

What Python and the launching of kernels cost is saved; the kernels and their order stay. So whether this is
done changes no picture, and the length of the run may decide it. torch.compile changes bits, and takes a
hundred times as long to set up for much the same gain: docs/benchmarks.md.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

Compile: TypeAlias = Literal["auto", True, False]
"""auto: as soon as it pays; true: at once; false: never."""

PAYS_AFTER = 100  # evaluations: a trace costs what it saves in so many, of the shipped prior on a CPU
LIGHT = 100_000_000  # weights: one evaluation of a larger network outweighs all that could be saved
MOST_SHAPES = 8  # compiled; each keeps memory of its own on a GPU
WARMING = 3  # runs after which a trace is as quick as it gets; CUDA too wants some before it captures

Call: TypeAlias = Callable[..., Tensor]
log = logging.getLogger("penumbra")


def quickened(network: nn.Module, wanted: Compile) -> nn.Module:
    """The network, or what stands before it and compiles it, as is wanted; for use without gradients."""
    weights = sum(parameter.numel() for parameter in network.parameters())
    if wanted is False or (wanted == "auto" and weights > LIGHT):
        return network
    return Compiled(network, PAYS_AFTER if wanted == "auto" else 0)


class Compiled(nn.Module):
    """Compiles a network for each shape of its inputs after `wait` evaluations of that shape.

    The compiled one is taken only if it says the same as the network, to the bit. Where there is no
    compiling, one line tells of it and the network goes on as it is.
    """

    def __init__(self, network: nn.Module, wait: int) -> None:
        super().__init__()
        self.network, self.wait = network, wait
        self.seen: Counter[tuple[object, ...]] = Counter()  # shapes -> evaluations
        self.compiled: dict[tuple[object, ...], Call] = {}

    def forward(self, *inputs: Tensor) -> Tensor:
        shapes = tuple((each.shape, each.dtype) for each in inputs)
        if shapes in self.compiled:
            return self.compiled[shapes](*inputs)
        self.seen[shapes] += 1
        if self.seen[shapes] <= self.wait or len(self.compiled) == MOST_SHAPES:
            return self.network(*inputs)
        out = self.network(*inputs)
        self.compiled[shapes] = self._compile(inputs, out)
        return out

    def _compile(self, inputs: tuple[Tensor, ...], out: Tensor) -> Call:
        """What stands in for the network, which says `out` of these inputs; itself where nothing can."""
        make = captured if out.is_cuda else traced
        try:
            call = make(self.network, inputs)
            if torch.equal(call(*inputs), out):
                return call
            why = "it would change what the network says"
        except (RuntimeError, AttributeError) as error:  # torch's; a torch without torch.jit
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
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARMING):
            network(*own)
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        out = network(*own)

    def replay(*given: Tensor) -> Tensor:
        for mine, each in zip(own, given, strict=True):
            mine.copy_(each)
        graph.replay()
        return out.clone()  # the next replay writes over it

    return replay
