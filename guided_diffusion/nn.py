"""Small layers shared by the networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer = TypeVar("Layer", bound=nn.Module)
Embedding: TypeAlias = "Tensor | dict[int, Tensor]"
"""What residual blocks are told of the time: (B, E); or, where it differs from place to place, for each
height h that features have a (B, h, w, E), after the blocks' SiLU, which is taken once for all of them."""


class GroupNorm32(nn.GroupNorm):
    """Group normalisation computed in float32 whatever the input's precision; returns the input's dtype."""

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), normalised; given scale and shift, (B or 1, C, 1 or H, 1 or W), that times
        (1 + scale) plus shift. Those that are the same for all pixels become the normalisation's own."""
        if scale is None or shift is None:
            return self._scaled(x, self.weight, self.bias)
        if scale.shape[2:] != (1, 1) or (len(scale) > 1 and not _row_by_row(x)):
            return self(x) * (1 + scale) + shift
        if len(scale) == 1:
            return self._told(x, scale[0], shift[0])
        return torch.cat([self._told(*row) for row in zip(x.split(1), scale, shift, strict=True)])

    def _told(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """scale and shift (C, 1, 1)."""
        factor = 1 + scale.flatten().float()
        weight, bias = self.weight * factor, self.bias * factor + shift.flatten()
        return self._scaled(x, weight.to(self.weight.dtype), bias.to(self.weight.dtype))

    def _scaled(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if _lies_badly(x):
            return self._summed(x.contiguous(), weight, bias).contiguous(memory_format=torch.channels_last)
        return self._summed(x, weight, bias)

    def _summed(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if weight.dtype == x.dtype and not torch.is_grad_enabled():  # torch's kernels add up in float32
            return F.group_norm(x, self.num_groups, weight, bias, self.eps)
        wide = F.group_norm(x.float(), self.num_groups, weight.float(), bias.float(), self.eps)
        return wide.to(x.dtype)  # going back the kernels are slow in half


def _row_by_row(x: Tensor) -> bool:
    """True where images are to be treated singly for their bits not to depend on the batch: on a CPU, whose
    products of one row are not quite those of several. Training need not care, and has many."""
    return x.device.type == "cpu" and not torch.is_grad_enabled()


def _lies_badly(x: Tensor) -> bool:
    """True for what torch's normalisation on a CPU takes number by number instead of many at once: few pixels
    in bfloat16 with their channels last. To lay them out anew, twice, costs a tenth of that."""
    few = x.ndim == 4 and x.shape[2] * x.shape[3] < 1024  # where torch changes kernels
    return few and x.dtype == torch.bfloat16 and x.device.type == "cpu" and not x.is_contiguous()


def normalization(channels: int, groups: int = 32) -> GroupNorm32:
    """The U-Net's normalisation. Raises ValueError where the groups do not divide the channels."""
    if channels % groups:
        raise ValueError(
            f"norm_num_groups {groups} does not divide {channels} channels; choose a divisor of all widths"
        )
    return GroupNorm32(groups, channels)


def zero_module(module: Layer) -> Layer:
    """Set every parameter to zero, so that a residual branch starts as nothing; returns the module."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class Upsample(nn.Module):
    """Nearest x2, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


def in_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x), in float32 where autocast has made x half as wide."""
    if x.dtype not in (torch.float16, torch.bfloat16):
        return layer(x)
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.float())


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Sinusoidal embedding of (possibly fractional) timesteps (Vaswani et al. 2017, section 3.5).

    t: any shape, any numeric dtype. Returns (*shape, dim) float32: cosines first, then sines, a zero if dim
    is odd.
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    frequencies = torch.exp(-math.log(max_period) * steps / half)
    angles = t[..., None].float() * frequencies
    embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return F.pad(embedding, (0, dim % 2))


def embed_places(embed: Callable[[Tensor], Tensor], times: Tensor, levels: int) -> Embedding:
    """The Embedding of a time per pixel, (B, 1, H, W): each coarser level sees the mean of 2 x 2 times.

    embed: times (B, h, w) -> (B, h, w, E); levels: how often the features are halved, plus one.
    """
    maps = [times]
    for _ in range(levels - 1):
        maps.append(F.avg_pool2d(maps[-1], 2))
    return {int(each.shape[2]): F.silu(embed(each[:, 0])) for each in maps}


def project_embedding(layers: nn.Sequential, emb: Embedding, height: int) -> Tensor:
    """What `layers`, a SiLU and a Linear, make of the embedding for features of this height: (B, out, 1, 1),
    or (B, out, h, w)."""
    if isinstance(emb, Tensor):
        rows = len(emb) > 1 and _row_by_row(emb)
        told = torch.cat([layers(row) for row in emb.split(1)]) if rows else layers(emb)
        return told[:, :, None, None]
    _, linear = layers
    return linear(emb[int(height)]).permute(0, 3, 1, 2)


def attend(qkv: Tensor, heads: int, new_order: bool) -> Tensor:
    """Multi-head self-attention over positions. qkv (B, T, 3C) -> (B, T, C).

    Old order: channels are (head, q/k/v, width); new order: (q/k/v, head, width).
    """
    b, length, width = qkv.shape
    if new_order:
        parts = qkv.view(b, length, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4)
    else:
        parts = qkv.view(b, length, heads, 3, width // (3 * heads)).permute(3, 0, 2, 1, 4)
    out = _attended(*parts)  # (B, heads, T, C / heads)
    return out.transpose(1, 2).reshape(b, length, width // 3)


def _attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each (B, heads, T, C / heads). On a CPU torch's own kernel is made for many places; up to 1024, in
    bfloat16, the two products as they are written take half its time."""
    few = q.shape[2] <= 1024 and q.dtype == torch.bfloat16 and q.device.type == "cpu"
    if not few or torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v)
    weights = torch.matmul(q * q.shape[3] ** -0.5, k.transpose(2, 3)).softmax(dim=-1)
    return torch.matmul(weights, v)


def pointwise(layer: nn.Conv1d, tokens: Tensor) -> Tensor:
    """A 1x1 convolution of tokens (B, T, C) as the matrix product it is; (B, T, out)."""
    return F.linear(tokens, layer.weight.squeeze(-1), layer.bias)
