"""The simpler fits, for comparison: from the rings of ground on both sides of a shadow's edge.

`ring`: log-affine regression of the lit ring on the dark one (after Gong & Cosker 2014; SP+M, Le & Samaras
2019); `gain`: one gain per channel, the rings' mean difference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from guided_diffusion.shadow.field import ShadowField
from guided_diffusion.shadow.light import blur

# Stage 0 of docs/reports/shadow.md.
_NEAR, _FAR = 3.0, 14.0  # pixels from the edge
_SIGMA = 10.0  # pixels: standard deviation of the local means
_RIDGE = 0.01
_SLOPES = 0.6, 1.4  # bounds of the regression's slope
_ROUNDS = 10


def fit_ring(log: Tensor, distance: Tensor, slope: bool = True) -> ShadowField | None:
    """Fit the field to the rings on both sides; None where no part of the edge has both.

    Args:
        log: logarithmic light (3, H, W).
        distance: to the shadow's edge, pixels, positive in the shadow, (H, W).
        slope: whether to fit a slope; otherwise one gain per channel.
    """
    dark, lit = ((sign * distance > _NEAR) & (sign * distance <= _FAR) for sign in (1, -1))
    near = [blur(ring.float(), _SIGMA) for ring in (dark, lit)]
    edge = (distance.abs() <= 1) & (near[0] > 1e-4) & (near[1] > 1e-4)
    if int(edge.sum()) < 2:
        return None
    sides = [blur(log * ring, _SIGMA)[:, edge] / n[edge] for ring, n in zip((dark, lit), near, strict=True)]
    fits = [_fit_robust_line(x, y, slope) for x, y in zip(*sides, strict=True)]
    a, mu, c = (torch.stack(part) for part in zip(*fits, strict=True))
    return ShadowField((c - mu)[:, None, None].expand_as(log), a - 1, mu)


def _fit_robust_line(x: Tensor, y: Tensor, slope: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Fit a, mu, c of y = a (x - mu) + c by a ridge, reweighted with 1 / max(1, |residual| / scale)^2."""
    weight = torch.ones_like(x)
    for _ in range(_ROUNDS):
        share = weight / weight.sum()
        mu, c = (share * x).sum(), (share * y).sum()
        covariance, variance = (share * (x - mu) * (y - c)).sum(), (share * (x - mu) ** 2).sum()
        a = ((covariance + _RIDGE) / (variance + _RIDGE)).clamp(*_SLOPES) if slope else torch.ones_like(mu)
        off = (y - a * (x - mu) - c).abs()
        weight = 1 / (off / (1.4826 * off.median() + 1e-3)).clamp_min(1) ** 2
    return a, mu, c
