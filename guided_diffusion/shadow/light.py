"""Light: sRGB and linear values, their logarithms, and Gaussian blurs. Tensors (..., C, H, W), float32."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

DARK = 2e-3  # linear light added before a logarithm: seven levels of eight bits at the dark end


def to_linear(srgb: Tensor) -> Tensor:
    """sRGB values in [0, 1] to linear light (IEC 61966-2-1)."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb.clamp_min(0) + 0.055) / 1.055) ** 2.4)


def to_srgb(light: Tensor) -> Tensor:
    """Linear light to sRGB; both are clipped to [0, 1]."""
    light = light.clamp(0, 1)
    return torch.where(light <= 0.0031308, 12.92 * light, 1.055 * light.clamp_min(1e-4) ** (1 / 2.4) - 0.055)


def log_light(light: Tensor) -> Tensor:
    """log(light + DARK), so that noise near black stays small."""
    return torch.log(light + DARK)


def blur(planes: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (..., H, W), standard deviation `sigma` pixels, cut at 3 sigma; 0 beyond the frame."""
    reach = max(1, math.ceil(3 * sigma))
    at = torch.arange(-reach, reach + 1, dtype=planes.dtype)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel = kernel / kernel.sum()
    flat = planes.reshape(-1, 1, *planes.shape[-2:])
    flat = F.conv2d(flat, kernel[None, None, :, None], padding=(reach, 0))
    flat = F.conv2d(flat, kernel[None, None, None, :], padding=(0, reach))
    return flat.reshape(planes.shape)


def local_mean(planes: Tensor, weight: Tensor, sigma: float) -> Tensor:
    """Gaussian mean of (..., H, W) over pixels weighted by `weight` (H, W); 0 where none is near."""
    return blur(planes * weight, sigma) / blur(weight, sigma).clamp_min(1e-6)
