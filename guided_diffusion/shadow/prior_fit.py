"""Correct a fitted shadow field so that the relit image is likelier under a diffusion prior.

Paper: Mardani et al. 2023, "RED-diff" (arXiv 2305.04391): descend <sg[z - x0_hat(z_t)], z>, without a
backward pass through the network. Where we differ: the unknowns are a few smooth changes of log gain, not
pixels, so the result stays input / field and nothing can be invented; every noise is used with both signs.
Only changes that a prior can judge are free: brightness, colour, and a coarse grid of them. The field's slope
is fixed, since a denoiser always asks for less contrast.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.denoiser import Denoise
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.images.colour import to_srgb
from guided_diffusion.shadow.field import ShadowField
from guided_diffusion.shadow.light import log_light
from guided_diffusion.shadow.palette import AXES

# All constants were chosen by experiment: docs/reports/shadow.md.
NFE = 40  # network function evaluations of a fit
GRID = 4
ROUNDS = NFE // 2  # a round takes two: a noise and its opposite
_WEIGHT = 3_300.0  # weight of the prior, against staying at the start
_MIN_SHARE = 0.2  # share of the image: a smaller shadow says less about its light
_SPREAD = torch.tensor([0.045, 0.04, 0.04])  # deviation of a change of the whole, along AXES
_GRID_SPREAD = torch.tensor([0.10, 0.03, 0.03])  # deviation of the grid's changes, along AXES
_LATEST, _EARLIEST = 0.1, 0.5  # share of the process
_GOLDEN = 0.6180339887  # successive multiples, modulo 1, fill an interval evenly
_RATE, _INERTIA, _MAX_SPEED = 0.15, 0.7, 3.0
_MARGIN = 0.1  # matte above which a pixel counts


@dataclass(frozen=True)
class NetworkView:
    """The image at the size at which the network sees it."""

    light: Tensor
    """Linear light of the image with shadow, (3, h, w)."""
    gain: Tensor
    """Log gain of the umbra, (3, h, w)."""
    matte: Tensor
    """Alpha in [0, 1], (h, w)."""
    grid: Tensor
    """Weights of the nodes, (GRID^2, h, w); in the shadow the mean of a node's is 0."""

    def relight(self, change: Tensor) -> Tensor:
        """Return the relit image in model space (3, h, w) under a change (1 + GRID^2, 3) along AXES, in
        deviations."""
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
    """Correct the offset of a field; light changes by a few percent at most.

    Args:
        light: linear light of the image with shadow, (3, H, W).
        matte: alpha in [0, 1], (H, W).
        field: the field to start from.
        size: (height, width), pixels, at which the network sees the whole image.
        denoise: the diffusion model.
        process: its process.
        generator: source of the noise, on the network's device.
    """
    lit = light / field.transmission(light, matte)
    view = shrink(light, field.gain(log_light(lit)), matte, size)
    change = torch.zeros(1 + GRID**2, 3)
    speed = torch.zeros_like(change)
    weight = (view.matte > _MARGIN).float()
    weight = weight / weight.sum().clamp_min(_MIN_SHARE * weight.numel())
    for step in range(ROUNDS):
        share = _LATEST + (_EARLIEST - _LATEST) * ((step + 0.5) * _GOLDEN % 1)
        t = int(share * process.num_timesteps)
        with torch.enable_grad():
            free = change.clone().requires_grad_()
            z = view.relight(free)
            pull = residual(z.detach(), t, denoise, process, generator)
            loss = _WEIGHT * (weight * pull * z).sum() + 0.5 * free.square().sum()
            (slope,) = torch.autograd.grad(loss, free)
        speed = _INERTIA * speed + (1 - _INERTIA) * slope
        change = change - _RATE * speed.clamp(-_MAX_SPEED, _MAX_SPEED)
    nodes = node_weights(matte, matte.shape)
    return ShadowField(field.offset + spread(change, nodes), field.slope, field.pivot)


def residual(
    z: Tensor, t: int, denoise: Denoise, process: GaussianDiffusion, generator: torch.Generator
) -> Tensor:
    """Return RED-diff's pull at time t, (z - x0_hat) sqrt(alpha_bar / (1 - alpha_bar)), (3, h, w).

    Its expectation is a gradient of the prior. It is averaged over a noise and its opposite.
    """
    device = generator.device
    noise = torch.randn(1, *z.shape, generator=generator, device=device)
    noises = torch.cat([noise, -noise])
    x_t = process.q_sample(z.to(device).expand_as(noises), t, noises)
    a = process.alpha_bar(t)
    return (a / (1 - a)) ** 0.5 * (z - denoise(x_t, t).x0.mean(dim=0).to(z.device))


def shrink(light: Tensor, gain: Tensor, matte: Tensor, size: tuple[int, int]) -> NetworkView:
    """Average light, gain (3, H, W) and matte (H, W) over the pixels of a smaller image, (height, width)."""
    planes = torch.cat([light, gain, matte[None]])
    planes = F.interpolate(planes[None], size=size, mode="area")[0]
    return NetworkView(planes[:3], planes[3:6], planes[6], node_weights(planes[6], size))


def node_weights(matte: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return bicubic weights (GRID^2, H, W) of the grid's nodes, less their mean in the shadow.

    An even change of the whole shadow is thus never the grid's.
    """
    nodes = torch.eye(GRID**2).view(-1, 1, GRID, GRID)
    weights = F.interpolate(nodes, size=size, mode="bicubic", align_corners=False)[:, 0]
    mean = (weights * matte).sum(dim=(1, 2)) / matte.sum().clamp_min(1e-6)
    return weights - mean[:, None, None]


def spread(change: Tensor, grid: Tensor) -> Tensor:
    """Spread changes (1 + GRID^2, 3) by node weights (GRID^2, H, W): a change of log gain, (3, H, W)."""
    back = torch.linalg.inv(AXES)
    whole = back @ (change[0] * _SPREAD)
    nodes = (change[1:] * _GRID_SPREAD) @ back.T
    return whole[:, None, None] + torch.einsum("gc,ghw->chw", nodes, grid)
