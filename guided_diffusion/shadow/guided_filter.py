"""Guided filter: make a coarse map follow the edges of an image, at any size.

Paper: He, Sun & Tang 2013 (colour guide), He & Sun 2015 (arXiv 1505.00996: coefficients at a small size serve
the large one). Where we differ: the guide is logarithmic light, in which a shadow is a step of one height.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def coefficients(guide: Tensor, coarse: Tensor, radius: int, smooth: float) -> Tensor:
    """Fit the affine map (4, H, W) from a guide to a coarse map, around each pixel.

    Args:
        guide: (3, H, W).
        coarse: the map to be followed, (H, W).
        radius: of the square windows, pixels.
        smooth: variance of the guide below which edges do not count.
    """
    mean, target = _box(guide, radius), _box(coarse[None], radius)[0]
    products = (guide[:, None] * guide[None]).flatten(0, 1)  # (9, H, W)
    spread = _box(products, radius).unflatten(0, (3, 3)) - mean[:, None] * mean[None]
    ridge = spread.permute(2, 3, 0, 1) + smooth * torch.eye(3)
    common = (_box(guide * coarse, radius) - mean * target).permute(1, 2, 0)
    slope = torch.linalg.solve(ridge, common[..., None])[..., 0].permute(2, 0, 1)
    offset = target - (slope * mean).sum(0)
    return _box(torch.cat([slope, offset[None]]), radius)


def apply(coefficients: Tensor, guide: Tensor) -> Tensor:
    """Evaluate the affine map over a guide (3, H, W) of any size: (H, W)."""
    grown = F.interpolate(coefficients[None], size=guide.shape[-2:], mode="bilinear", align_corners=False)[0]
    return (grown[:3] * guide).sum(0) + grown[3]


def _box(planes: Tensor, radius: int) -> Tensor:
    """Average (C, H, W) over squares of side 2 radius + 1, as far as they lie in the frame."""
    side = 2 * radius + 1
    down = F.avg_pool2d(planes[None], (side, 1), 1, (radius, 0), count_include_pad=False)
    return F.avg_pool2d(down, (1, side), 1, (0, radius), count_include_pad=False)[0]
