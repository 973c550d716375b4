"""What the shadow detector learns from: procedural triplets, made harder; and its loss.

Half of the images are without shadow, so that it learns to say "none". Both halves get dark materials with
sharp outlines, uneven light, and cameras of all kinds. Loss: cross-entropy plus Dice (Milletari et al. 2016,
arXiv 1606.04797).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from guided_diffusion.shadow.light import to_linear, to_srgb

_SMOOTH = 30.0  # pixels of shadow that Dice forgives


class Draws:
    """Random numbers for a batch, each (B, width, 1, 1), from one generator."""

    def __init__(self, batch: int, generator: Generator) -> None:
        self.batch, self.generator = batch, generator

    def uniform(self, low: float, high: float, width: int = 1) -> Tensor:
        device = self.generator.device
        drawn = torch.rand(self.batch, width, 1, 1, generator=self.generator, device=device)
        return low + (high - low) * drawn

    def normal(self, deviation: float, width: int = 1) -> Tensor:
        device = self.generator.device
        drawn = torch.randn(self.batch, width, 1, 1, generator=self.generator, device=device)
        return deviation * drawn

    def chance(self, share: float) -> Tensor:
        """1 with this probability, else 0."""
        return (self.uniform(0, 1) < share).float()


def examples(triplets: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Images (B, 3, S, S), sRGB in [0, 1], and their shadows (B, 1, S, S), 1 = shadow.

    triplets: uint8 (B, 7, S, S): the image with shadow, without, and the matte; on the generator's device.
    """
    draws = Draws(len(triplets), generator)
    moved = _moved(triplets.float() / 255, draws)
    matte = moved[:, 6:]
    shadow, free = to_linear(moved[:, :3]), to_linear(moved[:, 3:6])
    shadow, free = _with_materials(_of_lamps(shadow, free, matte, draws), free, matte, draws)
    dark = draws.chance(0.5)
    light = (dark * shadow + (1 - dark) * free) * _uneven(draws, matte.shape[-1])
    return _photographed(light, draws), dark * (matte > 0.5)


def _moved(planes: Tensor, draws: Draws) -> Tensor:
    """Mirrored, turned by quarters, scaled, a little skewed: the same way for all planes (B, C, S, S)."""
    flip = 1 - 2 * draws.chance(0.5)
    quarter = torch.floor(draws.uniform(0, 4)) * (math.pi / 2) + draws.normal(0.1)
    size, aspect = torch.exp(draws.uniform(-0.6, 0.3)), torch.exp(draws.normal(0.12))
    cos, sin = torch.cos(quarter), torch.sin(quarter)
    centre = draws.uniform(-1, 1, 2) * (1 - size).clamp_min(0)  # a crop lies anywhere in the image
    rows = [torch.cat([cos * size * aspect * flip, -sin * size, centre[:, :1]], 3)]
    rows.append(torch.cat([sin * size * aspect * flip, cos * size, centre[:, 1:]], 3))
    grid = F.affine_grid(torch.cat(rows, 2)[:, 0], list(planes.shape), align_corners=False)
    return F.grid_sample(planes, grid, padding_mode="reflection", align_corners=False)


def _of_lamps(shadow: Tensor, free: Tensor, matte: Tensor, draws: Draws) -> Tensor:
    """Some shadows weaker, some no bluer than what is lit: those of lamps."""
    weaker = shadow.lerp(free, draws.chance(0.4) * draws.uniform(0, 0.5))
    return weaker * (1 - matte * (1 - torch.exp(_warm(draws, 0.3, 0.6))))


def _warm(draws: Draws, share: float, most: float) -> Tensor:
    """Log factors (B, 3, 1, 1): less green and still less blue in this share of the images."""
    blue = draws.chance(share) * draws.uniform(0, most)
    return torch.cat([0 * blue, -0.5 * blue, -blue], 1)


def _with_materials(shadow: Tensor, free: Tensor, matte: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Another image's ground in the outline of yet another's shadow, or paint: no shadow, though dark.

    shadow, free (B, 3, S, S) in linear light, matte (B, 1, S, S). Paint is redder than light from the sky.
    """
    umbra = (matte > 0.9).float() + 1e-4 * matte
    passed = (umbra * shadow).sum((2, 3), keepdim=True) / ((umbra * free).sum((2, 3), keepdim=True) + 1e-6)
    factor = 1 - matte * (1 - passed.clamp(0, 1))
    ground = free.roll(1, 0) * torch.exp(draws.uniform(-2.7, 0.3) + draws.normal(0.2, 3))
    blue = draws.uniform(0.25, 0.7)
    tint = torch.cat([0 * blue, -blue * draws.uniform(0, 1), -blue], 1)
    paint = free * torch.exp(draws.uniform(-1.4, -0.3) + tint)
    painted = draws.chance(0.3)
    material = painted * paint + (1 - painted) * ground
    place = (matte.roll(2, 0) > 0.5) * draws.chance(0.6)
    return shadow.lerp(material * factor, place), free.lerp(material, place)


def _uneven(draws: Draws, side: int) -> Tensor:
    """Light (B, 1, S, S) that falls off to the corners and to one side."""
    line = torch.linspace(-1, 1, side, device=draws.generator.device)
    x, y = line.view(1, 1, 1, side), line.view(1, 1, side, 1)
    slope = draws.normal(0.2, 2)
    fall = draws.uniform(0, 0.5) * draws.chance(0.5)
    return torch.exp(slope[:, :1] * x + slope[:, 1:] * y - fall * (x * x + y * y))


def _photographed(light: Tensor, draws: Draws) -> Tensor:
    """sRGB in [0, 1] of linear light by another exposure, white balance, tone curve and sensor."""
    light = light * torch.exp(draws.normal(0.25) + draws.normal(0.1, 3) + _warm(draws, 0.2, 1.2))
    grey = draws.chance(0.05)
    light = grey * light.mean(1, keepdim=True) + (1 - grey) * light
    image = to_srgb(light) ** torch.exp(draws.normal(0.12))
    device = draws.generator.device
    noise = torch.randn(image.shape, generator=draws.generator, device=device) * draws.uniform(0, 0.02)
    return (image + noise).clamp(0, 1)


def detection_loss(logits: Tensor, shadow: Tensor) -> tuple[Tensor, Tensor]:
    """(cross-entropy (B,), Dice (B,)) of logits (B, 1, S, S) against shadows (B, 1, S, S), 1 = shadow."""
    entropy = F.binary_cross_entropy_with_logits(logits, shadow, reduction="none").mean((1, 2, 3))
    found = torch.sigmoid(logits)
    common, both = (found * shadow).sum((1, 2, 3)), (found + shadow).sum((1, 2, 3))
    return entropy, 1 - (2 * common + _SMOOTH) / (both + _SMOOTH)
