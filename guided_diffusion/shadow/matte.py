"""Matte: how much of the direct light is blocked at each pixel, 0 lit, 1 full shadow.

Across an edge the matte is alpha = Phi((d - shift) / width): d the distance to the mask's edge, positive
inside, Phi the normal distribution function (a blurred step), so a mask may lie a few pixels off. Width and
shift are chosen where the relit picture has the least edge left near the mask's edge, as a whole and then
around each place, since penumbrae widen with the distance to what casts the shadow.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.shadow.field import ShadowField
from guided_diffusion.shadow.light import blur, log_light

BAND = 8.0  # pixels on either side of the edge where edges are counted
WIDTHS = torch.tensor([0.4, 0.7, 1.0, 1.4, 2.0, 3.0, 4.5, 6.5])  # pixels
SHIFTS = torch.arange(-4.0, 5.0)  # pixels
_STRONGEST = 0.25  # log light per pixel; a stronger edge is the ground's own
_POOL = 4  # pixels; the costs are averaged over squares of this side
_AROUND = 10.0  # pixels: standard deviation of "around each place"
_LOYALTY = 0.01  # cost of a factor e in width, or two pixels of shift, away from the whole picture's choice
_SHARPNESS = 300.0  # of the soft minimum


@dataclass(frozen=True)
class Edge:
    """width and shift (H, W) of the penumbra, in pixels of that size."""

    width: Tensor
    shift: Tensor

    def matte(self, distance: Tensor) -> Tensor:
        """alpha (H, W) from the distance (H, W) to the mask's edge, positive inside."""
        return torch.special.ndtr((distance - self.shift) / self.width)

    def resized(self, size: tuple[int, int], scale: float) -> Edge:
        """The same edge over a picture of another size, `scale` times as large."""

        def grow(plane: Tensor) -> Tensor:
            plane = F.interpolate(plane[None, None], size=size, mode="bilinear", align_corners=False)
            return scale * plane[0, 0]

        return Edge(grow(self.width), grow(self.shift))


def fit_edge(light: Tensor, distance: Tensor, field: ShadowField) -> Edge:
    """The penumbra of the picture `light` (3, H, W), linear, whose umbra `field` describes."""
    band = (distance.abs() <= BAND).float()
    cost = _costs(light, distance, field, band)  # (W, S, h, w)
    weight = F.avg_pool2d(band[None, None], _POOL, ceil_mode=True)[0, 0]
    whole = (cost * weight).sum(dim=(2, 3)) / weight.sum().clamp_min(1e-6)
    best = divmod(int(whole.argmin()), len(SHIFTS))
    around = blur(cost * weight, _AROUND / _POOL) / (blur(weight, _AROUND / _POOL) + 1e-4)
    logs = WIDTHS.log()
    away = (logs - logs[best[0]]).square()[:, None] + ((SHIFTS - SHIFTS[best[1]]) / 2).square()
    chosen = around + _LOYALTY * away[..., None, None]
    share = torch.softmax(-_SHARPNESS * chosen.flatten(0, 1), dim=0).unflatten(0, away.shape)
    width = torch.exp((share.sum(dim=1) * logs[:, None, None]).sum(dim=0))
    shift = (share.sum(dim=0) * SHIFTS[:, None, None]).sum(dim=0)
    return Edge(*(_unpooled(plane, distance.shape) for plane in (width, shift)))


def _costs(light: Tensor, distance: Tensor, field: ShadowField, band: Tensor) -> Tensor:
    """Mean edge that is left for each width and shift, within squares of _POOL: (W, S, h, w).

    Of luminance alone, with the channels' mean field.
    """
    mean = ShadowField(field.offset.mean(0, True), field.slope.mean(0, True), field.pivot.mean(0, True))
    grey = light.mean(dim=0, keepdim=True)
    weight = F.avg_pool2d(band[None, None], _POOL, ceil_mode=True)[0, 0].clamp_min(1e-6)
    costs = []
    for width in WIDTHS:
        matte = torch.special.ndtr((distance - SHIFTS[:, None, None]) / width)  # (S, H, W)
        lit = log_light(grey / mean.transmission(grey, matte))
        down, right = torch.gradient(lit, dim=(1, 2))
        edges = torch.hypot(down, right).clamp_max(_STRONGEST) * band
        costs.append(F.avg_pool2d(edges[:, None], _POOL, ceil_mode=True)[:, 0] / weight)
    return torch.stack(costs)


def _unpooled(plane: Tensor, size: torch.Size) -> Tensor:
    whole = tuple(_POOL * n for n in plane.shape)
    large = F.interpolate(plane[None, None], size=whole, mode="bilinear", align_corners=False)
    return large[0, 0, : size[0], : size[1]]
