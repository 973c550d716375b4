"""Logarithms of light, and Gaussian blurs. Tensors (..., C, H, W), float32."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.images.colour import DARK


def log_light(light: Tensor) -> Tensor:
    """Return log(light + DARK); DARK keeps noise near black small."""
    return torch.log(light + DARK)


def blur(planes: Tensor, sigma: float) -> Tensor:
    """Blur (..., H, W) by a Gaussian of deviation `sigma` pixels, cut at 3 sigma; 0 beyond the frame."""
    reach = max(1, math.ceil(3 * sigma))
    at = torch.arange(-reach, reach + 1, dtype=planes.dtype)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel = kernel / kernel.sum()
    flat = planes.reshape(-1, 1, *planes.shape[-2:])
    flat = F.conv2d(flat, kernel[None, None, :, None], padding=(reach, 0))
    flat = F.conv2d(flat, kernel[None, None, None, :], padding=(0, reach))
    return flat.reshape(planes.shape)


def local_mean(planes: Tensor, weight: Tensor, sigma: float) -> Tensor:
    """Average (..., H, W) under a Gaussian, pixels weighted by `weight` (H, W); 0 where none is near."""
    return blur(planes * weight, sigma) / blur(weight, sigma).clamp_min(1e-6)
