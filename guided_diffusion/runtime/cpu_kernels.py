"""Faster layers for inference, mostly on a CPU; parameters and their names are those of the plain layers.

Each class is a layer of nn.py whose sums are taken in another order or by another kernel. Where gradients
are enabled, and on a GPU, they compute as the plain layers do, but for the folding of scale and shift, which
is done everywhere. What each gains is in docs/reports/benchmarks.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided_diffusion.nn import EmbeddingProjection, GroupNorm32, QKVAttention

_FEW_PIXELS = 1024  # torch's group norm for channels_last takes another kernel from here on
_FEW_TOKENS = 1024  # up to here, two matrix products take half the time of torch's attention in bfloat16


class FoldedGroupNorm(GroupNorm32):
    """GroupNorm32 that folds scale and shift into its weight and bias, and avoids slow kernels."""

    def __init__(self, plain: GroupNorm32) -> None:
        super().__init__(plain.num_groups, plain.num_channels, plain.eps)
        self.weight, self.bias = plain.weight, plain.bias
        self.train(plain.training)

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        if scale is None or shift is None:
            return self._normalise(x, self.weight, self.bias)
        if scale.shape[2:] != (1, 1) or (len(scale) > 1 and not _computes_by_row(x)):
            return self(x) * (1 + scale) + shift
        if len(scale) == 1:
            return self._modulated(x, scale[0], shift[0])
        return torch.cat([self._modulated(*row) for row in zip(x.split(1), scale, shift, strict=True)])

    def _modulated(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Return norm(x) * (1 + scale) + shift for scale and shift (C, 1, 1)."""
        factor = 1 + scale.flatten().float()
        weight, bias = self.weight * factor, self.bias * factor + shift.flatten()
        return self._normalise(x, weight.to(self.weight.dtype), bias.to(self.weight.dtype))

    def _normalise(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if not _needs_contiguous(x):
            return self._group_norm(x, weight, bias)
        return self._group_norm(x.contiguous(), weight, bias).contiguous(memory_format=torch.channels_last)

    def _group_norm(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if weight.dtype == x.dtype and not torch.is_grad_enabled():  # torch's kernels sum in float32
            return F.group_norm(x, self.num_groups, weight, bias, self.eps)
        wide = F.group_norm(x.float(), self.num_groups, weight.float(), bias.float(), self.eps)
        return wide.to(x.dtype)  # the backward kernels are slow in half precision


class RowwiseProjection(EmbeddingProjection):
    """EmbeddingProjection of one image at a time, so that the bits do not depend on the batch.

    On a CPU the product of one row and that of several rows differ in the last bits.
    """

    def __init__(self, plain: EmbeddingProjection) -> None:
        super().__init__(*plain)
        self.train(plain.training)

    def _project(self, emb: Tensor) -> Tensor:
        if len(emb) == 1 or not _computes_by_row(emb):
            return super()._project(emb)
        project = super()._project
        return torch.cat([project(row) for row in emb.split(1)])


class FewTokensAttention(QKVAttention):
    """QKVAttention with two plain matrix products for few tokens in bfloat16 on a CPU."""

    def __init__(self, plain: QKVAttention) -> None:
        super().__init__(plain.heads, plain.new_order)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        is_small = q.shape[2] <= _FEW_TOKENS and q.dtype == torch.bfloat16 and q.device.type == "cpu"
        if not is_small or torch.is_grad_enabled():
            return super()._attend(q, k, v)
        weights = torch.matmul(q * q.shape[3] ** -0.5, k.transpose(2, 3)).softmax(dim=-1)
        return torch.matmul(weights, v)


def use_faster_layers(network: nn.Module) -> nn.Module:
    """Replace the plain layers of a network by the faster ones, which share their parameters; return it."""
    for name, layer in [*network.named_modules()]:
        if type(layer) is GroupNorm32:
            network.set_submodule(name, FoldedGroupNorm(layer))
        elif type(layer) is EmbeddingProjection:
            network.set_submodule(name, RowwiseProjection(layer))
        elif type(layer) is QKVAttention:
            network.set_submodule(name, FewTokensAttention(layer))
    return network


def _computes_by_row(x: Tensor) -> bool:
    """Return whether images are computed one at a time: on a CPU, without gradients.

    The bits of an image must not depend on its batch. In training they may, and batches are large.
    """
    return x.device.type == "cpu" and not torch.is_grad_enabled()


def _needs_contiguous(x: Tensor) -> bool:
    """Return whether torch's CPU group norm would take its scalar path.

    It does for channels_last bfloat16 below 1024 pixels. Two layout copies cost a tenth of that.
    """
    is_small = x.ndim == 4 and x.shape[2] * x.shape[3] < _FEW_PIXELS
    return is_small and x.dtype == torch.bfloat16 and x.device.type == "cpu" and not x.is_contiguous()
