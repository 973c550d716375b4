"""Matte: how much of the direct light is blocked at each pixel, 0 lit, 1 full shadow.

Across an edge the matte is alpha = Phi((d - shift) / width): d the distance to the mask's edge, positive
inside, Phi the normal distribution function (a blurred step), so a mask may lie a few pixels off. Width and
shift are chosen where the relit image has the least edge left near the mask's edge, as a whole and then
around each place, since penumbrae widen with the distance to what casts the shadow. Half of what the mean
profile across the edge then still shows is taken out of the matte itself, whatever its shape.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.shadow.field import ShadowField
from guided_diffusion.shadow.light import blur, local_mean, log_light

BAND = 8.0  # pixels on either side of the edge where edges are counted
WIDTHS = torch.tensor([0.4, 0.7, 1.0, 1.4, 2.0, 3.0, 4.5, 6.5])  # pixels
SHIFTS = torch.arange(-4.0, 5.0)  # pixels
_STRONGEST = 0.25  # log light per pixel; a stronger edge is the ground's own
_POOL = 4  # pixels; the costs are averaged over squares of this side
_AROUND = 7.0  # pixels: standard deviation of "around each place"
_LOYALTY = 0.005  # cost of a factor e in width, or two pixels of shift, away from the whole image's choice
_SHARPNESS = 200.0  # of the soft minimum
_RING = 4.0, 14.0  # pixels from the edge where the ground's own level is taken
_ALONG = 8.0  # pixels: standard deviation of the means along the edge
_PROFILE = 6  # pixels from the edge to which its profile is looked at
_OWN_EDGE = 0.15  # log light per pixel that halves a pixel's weight
_SHARE = 0.5  # of the profile that is taken out


@dataclass(frozen=True)
class Edge:
    """width and shift (H, W) of the penumbra, in pixels of that size; correction (H, W) of its matte."""

    width: Tensor
    shift: Tensor
    correction: Tensor

    def matte(self, distance: Tensor) -> Tensor:
        """alpha (H, W) in [0, 1] from the distance (H, W) to the mask's edge, positive inside."""
        return (torch.special.ndtr((distance - self.shift) / self.width) + self.correction).clamp(0, 1)

    def resized(self, size: tuple[int, int], scale: float) -> Edge:
        """The same edge over an image of another size, `scale` times as large."""
        planes = torch.stack([scale * self.width, scale * self.shift, self.correction])
        return Edge(*F.interpolate(planes[None], size=size, mode="bilinear", align_corners=False)[0])


def fit_edge(light: Tensor, distance: Tensor, field: ShadowField) -> Edge:
    """The penumbra of the image `light` (3, H, W), linear, whose umbra `field` describes."""
    band = (distance.abs() <= BAND).float()
    weight = F.avg_pool2d(band[None, None], _POOL, ceil_mode=True)[0, 0]
    cost = _costs(light, distance, field, band) / weight.clamp_min(1e-6)  # (W, S, h, w)
    whole = (cost * weight).sum(dim=(2, 3)) / weight.sum().clamp_min(1e-6)
    best = divmod(int(whole.argmin()), len(SHIFTS))
    around = blur(cost * weight, _AROUND / _POOL) / (blur(weight, _AROUND / _POOL) + 1e-4)
    logs = WIDTHS.log()
    away = (logs - logs[best[0]]).square()[:, None] + ((SHIFTS - SHIFTS[best[1]]) / 2).square()
    chosen = around + _LOYALTY * away[..., None, None]
    share = torch.softmax(-_SHARPNESS * chosen.flatten(0, 1), dim=0).unflatten(0, away.shape)
    width = torch.exp((share.sum(dim=1) * logs[:, None, None]).sum(dim=0))
    shift = (share.sum(dim=0) * SHIFTS[:, None, None]).sum(dim=0)
    width, shift = (_unpooled(plane, distance.shape) for plane in (width, shift))
    edge = Edge(width, shift, torch.zeros_like(width))
    return replace(edge, correction=_correction(light, distance, field, edge.matte(distance)))


def _costs(light: Tensor, distance: Tensor, field: ShadowField, band: Tensor) -> Tensor:
    """The edge that is left for each width and shift, its mean over squares of _POOL: (W, S, h, w).

    Of luminance alone, with the channels' mean field.
    """
    mean, grey = field.grey(), light.mean(dim=0, keepdim=True)
    costs = []
    for width in WIDTHS:
        matte = torch.special.ndtr((distance - SHIFTS[:, None, None]) / width)  # (S, H, W)
        lit = log_light(grey / mean.transmission(grey, matte))
        down, right = torch.gradient(lit, dim=(1, 2))
        edges = torch.hypot(down, right).clamp_max(_STRONGEST) * band
        costs.append(F.avg_pool2d(edges[:, None], _POOL, ceil_mode=True)[:, 0])
    return torch.stack(costs)


def _unpooled(plane: Tensor, size: torch.Size) -> Tensor:
    whole = tuple(_POOL * n for n in plane.shape)
    large = F.interpolate(plane[None, None], size=whole, mode="bilinear", align_corners=False)
    return large[0, 0, : size[0], : size[1]]


def _correction(light: Tensor, distance: Tensor, field: ShadowField, matte: Tensor) -> Tensor:
    """What to add to a matte (H, W) so that the relit luminance crosses the edge evenly.

    At each whole distance from the edge the local mean of log light should lie between those of the rings of
    ground within and without; a pixel on an edge of its own counts less.
    """
    transmission = field.transmission(light, matte)
    lit = log_light(light / transmission)
    grey = lit.mean(dim=0)
    down, right = torch.gradient(grey)
    weight = 1 / (1 + (torch.hypot(down, right) / _OWN_EDGE).square())
    near, far = _RING
    inner, outer = (
        local_mean(grey, weight * ((sign * distance > near) & (sign * distance < far)) + 1e-6, _ALONG)
        for sign in (1, -1)
    )
    along = ((distance + 9) / 18).clamp(0, 1)
    excess = grey - (outer * (1 - along) + inner * along)
    profile = torch.zeros_like(grey)
    for step in torch.arange(-float(_PROFILE), _PROFILE + 1):
        off = (distance - step).abs()
        at_step = weight * torch.exp(-0.5 * (off / 0.6).square()) * (off < 2.5)
        profile += (1 - off).clamp_min(0) * local_mean(excess, at_step, _ALONG)
    blocked = 1 - torch.exp(-field.gain(lit).mean(dim=0).clamp_min(0.3))
    slope = blocked / (1 - matte * blocked)  # of log light in alpha
    return -_SHARE * torch.exp(-((distance / 5) ** 4)) * profile / slope
