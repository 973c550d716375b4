"""Convolutions whose weights lie as oneDNN's kernels on a CPU read them, for use without gradients.

torch lays a convolution's weights out anew at every call, which for few pixels costs as much as the
arithmetic, and takes the smallest convolutions elsewhere, so that the size of a batch shows in their bits.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


class PackedConv2d(nn.Module):
    """x (B, C, H, W), best with channels last -> what the convolution that it was says, (B, out, H', W')."""

    def __init__(self, plain: nn.Conv2d) -> None:
        super().__init__()
        self.bias, self.groups = plain.bias, plain.groups
        self.padding, self.stride, self.dilation = (
            [int(size) for size in sizes] for sizes in (plain.padding, plain.stride, plain.dilation)
        )
        weight = torch._C._nn.mkldnn_reorder_conv2d_weight(
            plain.weight.data.to_mkldnn(), self.padding, self.stride, self.dilation, self.groups
        )
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        layer = _for_traces() if torch.jit.is_tracing() else _convolve
        return layer(x, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups)


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: list[int],
    stride: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    return torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, padding, stride, dilation, groups, "none", [], ""
    )


@cache
def _for_traces() -> Any:
    """`_convolve` as a trace can hold it: of a list of scalars, though empty, it can make nothing itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(_convolve)


def packed(network: nn.Module) -> nn.Module:
    """The network, its convolutions packed in place, one at a time, so that no second copy of all is held.

    Left as they are: those on a GPU, those that oneDNN does not take in their precision on this processor,
    all where torch lacks the op, which inductor has it for.
    """
    for name, child in network.named_children():
        if type(child) is nn.Conv2d:
            setattr(network, name, _packed(child))
        else:
            packed(child)
    return network


def _packed(layer: nn.Conv2d) -> nn.Module:
    if layer.weight.device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return layer
    try:
        return PackedConv2d(layer)
    except RuntimeError:
        return layer
