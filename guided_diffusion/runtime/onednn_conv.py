"""Convolutions whose weights are stored in the layout of oneDNN's CPU kernels; for use without gradients.

torch reorders a convolution's weights at every call, which costs as much as the arithmetic for few pixels. It
also sends the smallest convolutions to other kernels, so that results depend on the batch size in their last
bits. Prepacked weights avoid both (docs/reports/benchmarks.md).
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


class PackedConv2d(nn.Module):
    """Convolution with prepacked weights: x (B, C, H, W), best in channels_last -> (B, out, H', W')."""

    def __init__(self, plain: nn.Conv2d, shape: list[int]) -> None:
        """Pack the weights of a convolution.

        Args:
            plain: The convolution, on the CPU.
            shape: (B, C, H, W) of the input that the layout is chosen for. Other inputs work too; the layout
                is best for any B, and nearly always for any H and W.
        """
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
        convolve = _scripted_convolve() if torch.jit.is_tracing() else _convolve
        return convolve(x, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups)


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
def _scripted_convolve() -> Any:
    """Return `_convolve` for use in a trace, which cannot record the operator's empty list of scalars."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(_convolve)


def prepack_conv(layer: nn.Module, shape: list[int]) -> nn.Module:
    """Return a PackedConv2d in place of a convolution, or the layer itself where packing is not possible.

    Packing is not possible for other layers, on a GPU, for a precision that oneDNN does not support on this
    processor, and in a torch without the operator.

    Args:
        layer: Any layer.
        shape: (B, C, H, W) of the layer's input.
    """
    has_operator = hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    if not has_operator or not isinstance(layer, nn.Conv2d) or layer.weight.device.type != "cpu":
        return layer
    try:
        return PackedConv2d(layer, shape)
    except RuntimeError:
        return layer
