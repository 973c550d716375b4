"""Correct a fitted shadow field so that the relit image is likelier under a diffusion prior.

Paper: Mardani et al. 2023, "RED-diff" (arXiv 2305.04391): descend <sg[z - x0_hat(z_t)], z>, without a
backward pass through the network. Where we differ: the unknowns are a few smooth changes of log gain, not
pixels, so the result stays input / field and nothing can be invented; each noise is drawn with both
signs. Only changes that the prior has been found to tell are free: brightness, colour, and a coarse grid of
them.
The field's slope is not: a denoiser always asks for less contrast.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.denoiser import Denoise
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.shadow.field import ShadowField
from guided_diffusion.shadow.light import log_light, to_srgb
from guided_diffusion.shadow.palette import AXES

NFE = 40  # of the network
GRID = 4
ROUNDS = NFE // 2  # each takes two: a noise and its opposite
_WEIGHT = 3_300.0  # of the prior, against the start
_SMALLEST = 0.2  # share of the image: a smaller shadow tells less of its light
_SPREAD = torch.tensor([0.045, 0.04, 0.04])  # of a change of the whole, along AXES
_GRID_SPREAD = torch.tensor([0.10, 0.03, 0.03])  # of the grid's, along AXES
_LATEST, _EARLIEST = 0.1, 0.5  # share of the process
_GOLDEN = 0.6180339887  # successive multiples, modulo 1, fill an interval evenly
_RATE, _INERTIA, _STEEPEST = 0.15, 0.7, 3.0
_MARGIN = 0.1  # matte above which a pixel is listened to


@dataclass(frozen=True)
class Small:
    """The image as the network sees it: light and gain (3, h, w) linear and log, matte (h, w); grid
    (GRID^2, h, w): the weights of the nodes, each with mean 0 in the shadow."""

    light: Tensor
    gain: Tensor
    matte: Tensor
    grid: Tensor

    def seen(self, change: Tensor) -> Tensor:
        """The relit image in model space (3, h, w); change (1 + GRID^2, 3) along AXES, in deviations."""
        gain = (self.gain + spread(change, self.grid)).clamp_min(0)
        return 2 * to_srgb(self.light / (1 - self.matte * (1 - torch.exp(-gain)))) - 1


def fit_under_prior(
    light: Tensor,
    matte: Tensor,
    field: ShadowField,
    size: tuple[int, int],
    denoise: Denoise,
    process: GaussianDiffusion,
    generator: torch.Generator,
) -> ShadowField:
    """The field, corrected: its offset changes by at most some percent of light.

    light (3, H, W) linear, matte (H, W); size: (height, width) that the network sees of the whole image.
    generator lies on the network's device.
    """
    lit = light / field.transmission(light, matte)
    small = shrink(light, field.gain(log_light(lit)), matte, size)
    change = torch.zeros(1 + GRID**2, 3)
    speed = torch.zeros_like(change)
    heard = (small.matte > _MARGIN).float()
    heard = heard / heard.sum().clamp_min(_SMALLEST * heard.numel())
    for step in range(ROUNDS):
        share = _LATEST + (_EARLIEST - _LATEST) * ((step + 0.5) * _GOLDEN % 1)
        t = int(share * process.num_timesteps)
        with torch.enable_grad():
            free = change.clone().requires_grad_()
            z = small.seen(free)
            pull = residual(z.detach(), t, denoise, process, generator)
            loss = _WEIGHT * (heard * pull * z).sum() + 0.5 * free.square().sum()
            (slope,) = torch.autograd.grad(loss, free)
        speed = _INERTIA * speed + (1 - _INERTIA) * slope
        change = change - _RATE * speed.clamp(-_STEEPEST, _STEEPEST)
    nodes = node_weights(matte, matte.shape)
    return ShadowField(field.offset + spread(change, nodes), field.slope, field.pivot)


def residual(
    z: Tensor, t: int, denoise: Denoise, process: GaussianDiffusion, generator: torch.Generator
) -> Tensor:
    """(z - x0_hat) sqrt(alpha_bar / (1 - alpha_bar)), (3, h, w): RED-diff's pull at time t, whose expectation
    is a gradient of the prior; mean over one noise and its opposite."""
    device = generator.device
    noise = torch.randn(1, *z.shape, generator=generator, device=device)
    both = torch.cat([noise, -noise])
    x_t = process.q_sample(z.to(device).expand_as(both), t, both)
    a = process.alpha_bar(t)
    return (a / (1 - a)) ** 0.5 * (z - denoise(x_t, t).x0.mean(dim=0).to(z.device))


def shrink(light: Tensor, gain: Tensor, matte: Tensor, size: tuple[int, int]) -> Small:
    """light, gain (3, H, W) and matte (H, W) averaged over the pixels of a smaller image."""
    planes = torch.cat([light, gain, matte[None]])
    small = F.interpolate(planes[None], size=size, mode="area")[0]
    return Small(small[:3], small[3:6], small[6], node_weights(small[6], size))


def node_weights(matte: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bicubic weights (GRID^2, H, W) of the grid's nodes, less their mean in the shadow: what is even over
    the shadow is not theirs to tell."""
    nodes = torch.eye(GRID**2).view(-1, 1, GRID, GRID)
    weights = F.interpolate(nodes, size=size, mode="bicubic", align_corners=False)[:, 0]
    mean = (weights * matte).sum(dim=(1, 2)) / matte.sum().clamp_min(1e-6)
    return weights - mean[:, None, None]


def spread(change: Tensor, grid: Tensor) -> Tensor:
    """Change of log gain (3, H, W) from changes (1 + GRID^2, 3) and node weights (GRID^2, H, W)."""
    back = torch.linalg.inv(AXES)
    whole = back @ (change[0] * _SPREAD)
    nodes = (change[1:] * _GRID_SPREAD) @ back.T
    return whole[:, None, None] + torch.einsum("gc,ghw->chw", nodes, grid)
