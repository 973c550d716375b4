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
    """x (B, C, H, W), best with channels last -> what the convolution that it was says, (B, out, H', W').

    shape: of the x for which its weights lie best; they do for any B, and nearly always for any H and W.
    """

    def __init__(self, plain: nn.Conv2d, shape: list[int]) -> None:
        super().__init__()
        self.bias, self.groups = plain.bias, plain.groups
        self.padding, self.stride, self.dilation = (
            [int(size) for size in sizes] for sizes in (plain.padding, plain.stride, plain.dilation)
        )
        weight = torch.ops.aten.mkldnn_reorder_conv2d_weight(
            plain.weight.data.to_mkldnn(), self.padding, self.stride, self.dilation, self.groups, shape
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


def packed(layer: nn.Module, shape: list[int]) -> nn.Module:
    """What packs the convolution, for inputs of that shape (B, C, H, W).

    Left as they are: those on a GPU, those that oneDNN does not take in their precision on this processor,
    and all where torch lacks the op, which it has for inductor.
    """
    known = hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    if not known or not isinstance(layer, nn.Conv2d) or layer.weight.device.type != "cpu":
        return layer
    try:
        return PackedConv2d(layer, shape)
    except RuntimeError:
        return layer
