"""Matte: how much of the direct light is blocked at each pixel, 0 lit, 1 full shadow.

Across an edge the matte is alpha = Phi((d - shift) / width): d the distance to the mask's edge, positive
inside, Phi the normal distribution function (a blurred step). A mask may therefore lie a few pixels off.
Width and shift are chosen to leave the least edge in the relit image near the mask's edge: first for the
whole image, then locally, since penumbrae widen with the distance to what casts the shadow. Half of what the
mean profile across the edge then still shows is taken out of the matte, whatever its shape.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.shadow.field import ShadowField
from guided_diffusion.shadow.light import blur, local_mean, log_light

# All constants were chosen by experiment: docs/reports/shadow.md.
BAND = 8.0  # pixels on either side of the edge where edges are counted
WIDTHS = torch.tensor([0.4, 0.7, 1.0, 1.4, 2.0, 3.0, 4.5, 6.5])  # pixels
SHIFTS = torch.arange(-4.0, 5.0)  # pixels
_STRONGEST = 0.25  # log light per pixel; a stronger edge is the ground's own
_POOL = 4  # pixels; the costs are averaged over squares of this side
_LOCAL = 7.0  # pixels: standard deviation of the local costs
_LOYALTY = 0.005  # cost of a factor e in width, or two pixels of shift, away from the whole image's choice
_SHARPNESS = 200.0  # of the soft minimum
_RING = 4.0, 14.0  # pixels from the edge where the level of the ground is measured
_ALONG = 8.0  # pixels: standard deviation of the means along the edge
_PROFILE = 6  # pixels from the edge within which its profile is measured
_TEXTURE_EDGE = 0.15  # log light per pixel that halves a pixel's weight
_SHARE = 0.5  # share of the profile that is taken out
_RAMP = 9.0  # pixels from the edge over which the expected level goes from the outer ring's to the inner's
_STEP_SIGMA, _STEP_REACH = 0.6, 2.5  # pixels: standard deviation and cut of a whole distance's Gaussian
_MIN_GAIN = 0.3  # log gain that the slope of log light in alpha is computed with at least
_FADE, _FADE_POWER = 5.0, 4  # the correction fades as exp(-(distance / pixels)^power)


@dataclass(frozen=True)
class Edge:
    """The penumbra along a shadow's edge."""

    width: Tensor
    """Standard deviation of the blurred step, pixels, (H, W)."""
    shift: Tensor
    """How far its middle lies inside the mask's edge, pixels, (H, W)."""
    correction: Tensor
    """Added to the matte, (H, W)."""

    def matte(self, distance: Tensor) -> Tensor:
        """Alpha (H, W) in [0, 1] from the distance (H, W) to the mask's edge, pixels, positive inside."""
        return (torch.special.ndtr((distance - self.shift) / self.width) + self.correction).clamp(0, 1)

    def resize(self, size: tuple[int, int], scale: float) -> Edge:
        """Carry the edge over to an image of another size (height, width), `scale` times as large."""
        planes = torch.stack([scale * self.width, scale * self.shift, self.correction])
        return Edge(*F.interpolate(planes[None], size=size, mode="bilinear", align_corners=False)[0])


def fit_edge(light: Tensor, distance: Tensor, field: ShadowField) -> Edge:
    """Fit the penumbra of a shadow.

    Args:
        light: linear light of the image with shadow, (3, H, W).
        distance: to the mask's edge, pixels, positive in the shadow, (H, W).
        field: the gain of the umbra.
    """
    band = (distance.abs() <= BAND).float()
    weight = F.avg_pool2d(band[None, None], _POOL, ceil_mode=True)[0, 0]
    cost = _measure_costs(light, distance, field, band) / weight.clamp_min(1e-6)  # (W, S, h, w)
    whole = (cost * weight).sum(dim=(2, 3)) / weight.sum().clamp_min(1e-6)
    best = divmod(int(whole.argmin()), len(SHIFTS))
    local = blur(cost * weight, _LOCAL / _POOL) / (blur(weight, _LOCAL / _POOL) + 1e-4)
    logs = WIDTHS.log()
    away = (logs - logs[best[0]]).square()[:, None] + ((SHIFTS - SHIFTS[best[1]]) / 2).square()
    total = local + _LOYALTY * away[..., None, None]
    share = torch.softmax(-_SHARPNESS * total.flatten(0, 1), dim=0).unflatten(0, away.shape)
    width = torch.exp((share.sum(dim=1) * logs[:, None, None]).sum(dim=0))
    shift = (share.sum(dim=0) * SHIFTS[:, None, None]).sum(dim=0)
    width, shift = (_unpool(plane, distance.shape) for plane in (width, shift))
    edge = Edge(width, shift, torch.zeros_like(width))
    return replace(edge, correction=_fit_correction(light, distance, field, edge.matte(distance)))


def _measure_costs(light: Tensor, distance: Tensor, field: ShadowField, band: Tensor) -> Tensor:
    """Measure the edge that each width and shift leaves, averaged over squares of _POOL: (W, S, h, w).

    Only the mean of the channels is measured, with the channels' mean field.
    """
    mean, grey = field.to_grey(), light.mean(dim=0, keepdim=True)
    costs = []
    for width in WIDTHS:
        matte = torch.special.ndtr((distance - SHIFTS[:, None, None]) / width)  # (S, H, W)
        lit = log_light(grey / mean.transmission(grey, matte))
        down, right = torch.gradient(lit, dim=(1, 2))
        edges = torch.hypot(down, right).clamp_max(_STRONGEST) * band
        costs.append(F.avg_pool2d(edges[:, None], _POOL, ceil_mode=True)[:, 0])
    return torch.stack(costs)


def _unpool(plane: Tensor, size: torch.Size) -> Tensor:
    whole = tuple(_POOL * n for n in plane.shape)
    large = F.interpolate(plane[None, None], size=whole, mode="bilinear", align_corners=False)
    return large[0, 0, : size[0], : size[1]]


def _fit_correction(light: Tensor, distance: Tensor, field: ShadowField, matte: Tensor) -> Tensor:
    """Fit what to add to a matte (H, W) so that the relit image crosses the edge evenly.

    At each whole distance from the edge the local mean of log light should lie between those of the rings of
    ground inside and outside. A pixel on an edge of the texture counts less.
    """
    transmission = field.transmission(light, matte)
    lit = log_light(light / transmission)
    grey = lit.mean(dim=0)
    down, right = torch.gradient(grey)
    weight = 1 / (1 + (torch.hypot(down, right) / _TEXTURE_EDGE).square())
    near, far = _RING
    inner, outer = (
        local_mean(grey, weight * ((sign * distance > near) & (sign * distance < far)) + 1e-6, _ALONG)
        for sign in (1, -1)
    )
    along = ((distance + _RAMP) / (2 * _RAMP)).clamp(0, 1)
    excess = grey - (outer * (1 - along) + inner * along)
    profile = torch.zeros_like(grey)
    for step in torch.arange(-float(_PROFILE), _PROFILE + 1):
        off = (distance - step).abs()
        at_step = weight * torch.exp(-0.5 * (off / _STEP_SIGMA).square()) * (off < _STEP_REACH)
        profile += (1 - off).clamp_min(0) * local_mean(excess, at_step, _ALONG)
    blocked = 1 - torch.exp(-field.gain(lit).mean(dim=0).clamp_min(_MIN_GAIN))
    slope = blocked / (1 - matte * blocked)  # derivative of log light by alpha
    return -_SHARE * torch.exp(-((distance / _FADE) ** _FADE_POWER)) * profile / slope
