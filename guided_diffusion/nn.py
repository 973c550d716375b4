"""Small layers shared by the networks."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupNorm32(nn.GroupNorm):
    """Group normalisation computed in float32 whatever the input's precision; returns the input's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.float()
        bias = None if self.bias is None else self.bias.float()
        return F.group_norm(x.float(), self.num_groups, weight, bias, self.eps).to(x.dtype)


def normalization(channels: int) -> GroupNorm32:
    """The U-Net's normalisation: 32 groups."""
    return GroupNorm32(32, channels)


def zero_module(module: nn.Module) -> nn.Module:
    """Set every parameter to zero, so that a residual branch starts as nothing; returns the module."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def in_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x), in float32 where autocast has made x half as wide."""
    if x.dtype not in (torch.float16, torch.bfloat16):
        return layer(x)
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.float())


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Sinusoidal embedding of (possibly fractional) timesteps (Vaswani et al. 2017, section 3.5).

    t: (B,), any numeric dtype. Returns (B, dim) float32: cosines first, then sines, a zero if dim is odd.
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    frequencies = torch.exp(-math.log(max_period) * steps / half)
    angles = t[:, None].float() * frequencies[None]
    embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return F.pad(embedding, (0, dim % 2))
