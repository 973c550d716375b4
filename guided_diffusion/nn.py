"""Plain layers of the networks. runtime/cpu_kernels.py holds faster ones with the same parameters.

Shapes: B batch, C channels, H x W pixels, T tokens, E width of the time embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer = TypeVar("Layer", bound=nn.Module)
Embedding: TypeAlias = "Tensor | dict[int, Tensor]"
"""The time embedding that residual blocks get: (B, E), or, where the time differs between pixels, a map
(B, h, w, E) for each height h that features have. The maps are already behind the blocks' SiLU, which is the
same for all blocks."""


class GroupNorm32(nn.GroupNorm):
    """Group normalisation in float32 whatever the input's precision; returns the input's dtype."""

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """Normalise x; with scale and shift return norm(x) * (1 + scale) + shift.

        Args:
            x: (B, C, H, W) or (B, C).
            scale: (B or 1, C, 1 or H, 1 or W).
            shift: Like scale.
        """
        weight, bias = self.weight.float(), self.bias.float()
        out = F.group_norm(x.float(), self.num_groups, weight, bias, self.eps).to(x.dtype)
        return out if scale is None or shift is None else out * (1 + scale) + shift


def normalization(channels: int, groups: int = 32) -> GroupNorm32:
    """Return the U-Net's normalisation. Raises ValueError if the groups do not divide the channels."""
    if channels % groups:
        raise ValueError(
            f"norm_num_groups {groups} does not divide {channels} channels; choose a divisor of all widths"
        )
    return GroupNorm32(groups, channels)


def zero_module(module: Layer) -> Layer:
    """Set every parameter to zero, so that a residual branch adds nothing at first; return the module."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class Upsample(nn.Module):
    """Nearest-neighbour x2, then a 3x3 convolution."""

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
    """Return layer(x), computed in float32 where x is in half precision."""
    if x.dtype not in (torch.float16, torch.bfloat16):
        return layer(x)
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.float())


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Return the sinusoidal embedding of timesteps (Vaswani et al. 2017, section 3.5).

    Args:
        t: Timesteps, possibly fractional; any shape, any numeric dtype.
        dim: Width of the embedding.
        max_period: Longest period of the sines, in timesteps.

    Returns:
        (*shape, dim), float32: cosines first, then sines, then a zero if dim is odd.
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    frequencies = torch.exp(-math.log(max_period) * steps / half)
    angles = t[..., None].float() * frequencies
    embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return F.pad(embedding, (0, dim % 2))


def embed_time_map(embed: Callable[[Tensor], Tensor], times: Tensor, levels: int) -> Embedding:
    """Return the Embedding of one time per pixel; each coarser level takes the mean of 2 x 2 times.

    Args:
        embed: Maps times (B, h, w) to (B, h, w, E).
        times: (B, 1, H, W).
        levels: Number of resolutions of the features.
    """
    maps = [times]
    for _ in range(levels - 1):
        maps.append(F.avg_pool2d(maps[-1], 2))
    return {int(level.shape[2]): F.silu(embed(level[:, 0])) for level in maps}


class EmbeddingProjection(nn.Sequential):
    """The SiLU and the Linear layer that fit the time embedding to the channels of a residual block."""

    def forward(self, emb: Embedding, height: int) -> Tensor:  # type: ignore[override]
        """Return (B, out, 1, 1), or (B, out, h, w) from an embedding per pixel.

        Args:
            emb: The time embedding.
            height: Height of the block's features.
        """
        if isinstance(emb, Tensor):
            return self._project(emb)[:, :, None, None]
        _, linear = self
        return linear(emb[int(height)]).permute(0, 3, 1, 2)

    def _project(self, emb: Tensor) -> Tensor:
        """(B, E) -> (B, out)."""
        return super().forward(emb)


class QKVAttention(nn.Module):
    """Multi-head self-attention over positions, without parameters: qkv (B, T, 3C) -> (B, T, C).

    Old order: channels are (head, q/k/v, width); new order: (q/k/v, head, width).
    """

    def __init__(self, heads: int, new_order: bool) -> None:
        super().__init__()
        self.heads, self.new_order = heads, new_order

    def forward(self, qkv: Tensor) -> Tensor:
        b, length, width = qkv.shape
        if self.new_order:
            parts = qkv.view(b, length, 3, self.heads, width // (3 * self.heads)).permute(2, 0, 3, 1, 4)
        else:
            parts = qkv.view(b, length, self.heads, 3, width // (3 * self.heads)).permute(3, 0, 2, 1, 4)
        out = self._attend(*parts)  # (B, heads, T, C / heads)
        return out.transpose(1, 2).reshape(b, length, width // 3)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v (B, heads, T, C / heads) -> the same shape."""
        return F.scaled_dot_product_attention(q, k, v)


def pointwise(layer: nn.Conv1d, tokens: Tensor) -> Tensor:
    """Apply a 1x1 convolution to tokens (B, T, C) as a matrix product; return (B, T, out)."""
    return F.linear(tokens, layer.weight.squeeze(-1), layer.bias)


class AttentionPool2d(nn.Module):
    """CLIP's attention pooling: a mean token attends over all pixels. (B, C, S, S) -> (B, out)."""

    def __init__(self, side: int, channels: int, head_channels: int, out: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(channels, side**2 + 1) / channels**0.5)
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, out, 1)
        self.attention = QKVAttention(channels // head_channels, new_order=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)  # (B, C, S*S)
        x = torch.cat([x.mean(dim=-1, keepdim=True), x], dim=-1) + self.positional_embedding.to(x.dtype)
        tokens = self.attention(pointwise(self.qkv_proj, x.transpose(1, 2)))
        return pointwise(self.c_proj, tokens[:, :1])[:, 0]
