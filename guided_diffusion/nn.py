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

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dtype == x.dtype and not torch.is_grad_enabled():
            return super().forward(x)  # torch's kernels add up in float32; going back they are slow in half
        weight = None if self.weight is None else self.weight.float()
        bias = None if self.bias is None else self.bias.float()
        return F.group_norm(x.float(), self.num_groups, weight, bias, self.eps).to(x.dtype)


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
        return layers(emb)[:, :, None, None]
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
    out = F.scaled_dot_product_attention(*parts)  # (B, heads, T, C / heads)
    return out.transpose(1, 2).reshape(b, length, width // 3)


def pointwise(layer: nn.Conv1d, tokens: Tensor) -> Tensor:
    """A 1x1 convolution of tokens (B, T, C) as the matrix product it is; (B, T, out)."""
    return F.linear(tokens, layer.weight.squeeze(-1), layer.bias)
