"""Training data of the shadow detector, augmented procedural scenes, and its loss.

Half of the images are free of shadow, so that the detector learns to find none. Both halves contain dark
materials with sharp outlines, uneven light, and the looks of many cameras. Loss: cross-entropy plus Dice
(Milletari et al. 2016, arXiv 1606.04797).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from guided_diffusion.images.colour import to_linear, to_srgb

_SMOOTH = 30.0  # pixels added to both areas of Dice, so that a few pixels of shadow do not rule the loss


class RandomBatch:
    """Random numbers for a batch of B images, each call (B, width, 1, 1), from one generator."""

    def __init__(self, batch: int, generator: Generator) -> None:
        self.batch, self.generator = batch, generator

    def uniform(self, low: float, high: float, width: int = 1) -> Tensor:
        """Uniform in [low, high)."""
        device = self.generator.device
        drawn = torch.rand(self.batch, width, 1, 1, generator=self.generator, device=device)
        return low + (high - low) * drawn

    def normal(self, deviation: float, width: int = 1) -> Tensor:
        """Normal with mean 0 and this standard deviation."""
        device = self.generator.device
        drawn = torch.randn(self.batch, width, 1, 1, generator=self.generator, device=device)
        return deviation * drawn

    def bernoulli(self, probability: float) -> Tensor:
        """1 with this probability, else 0."""
        return (self.uniform(0, 1) < probability).float()


def draw_training_batch(triplets: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Augment a batch of scenes; half of the images lose their shadow.

    Args:
        triplets: uint8 (B, 7, S, S): the image with shadow, without, and the matte.
        generator: source of all randomness, on the device of `triplets`.

    Returns:
        Images (B, 3, S, S), sRGB in [0, 1], and their shadow masks (B, 1, S, S), 1 = shadow.
    """
    random = RandomBatch(len(triplets), generator)
    planes = _transform(triplets.float() / 255, random)
    matte = planes[:, 6:]
    shadow, free = to_linear(planes[:, :3]), to_linear(planes[:, 3:6])
    shadow, free = _add_dark_materials(_vary_shadow(shadow, free, matte, random), free, matte, random)
    shadowed = random.bernoulli(0.5)
    light = (shadowed * shadow + (1 - shadowed) * free) * _draw_uneven_light(random, matte.shape[-1])
    return _photograph(light, random), shadowed * (matte > 0.5)


def _transform(planes: Tensor, random: RandomBatch) -> Tensor:
    """Mirror, rotate by quarters and a little more, scale and stretch: alike for all planes (B, C, S, S)."""
    flip = 1 - 2 * random.bernoulli(0.5)
    angle = torch.floor(random.uniform(0, 4)) * (math.pi / 2) + random.normal(0.1)
    size, aspect = torch.exp(random.uniform(-0.6, 0.3)), torch.exp(random.normal(0.12))
    cos, sin = torch.cos(angle), torch.sin(angle)
    centre = random.uniform(-1, 1, 2) * (1 - size).clamp_min(0)  # a crop lies anywhere in the image
    rows = [torch.cat([cos * size * aspect * flip, -sin * size, centre[:, :1]], 3)]
    rows.append(torch.cat([sin * size * aspect * flip, cos * size, centre[:, 1:]], 3))
    grid = F.affine_grid(torch.cat(rows, 2)[:, 0], list(planes.shape), align_corners=False)
    return F.grid_sample(planes, grid, padding_mode="reflection", align_corners=False)


def _vary_shadow(shadow: Tensor, free: Tensor, matte: Tensor, random: RandomBatch) -> Tensor:
    """Weaken some shadows, and make some no bluer than the lit ground, as lamps do."""
    weaker = shadow.lerp(free, random.bernoulli(0.4) * random.uniform(0, 0.5))
    return weaker * (1 - matte * (1 - torch.exp(_draw_warm_tint(random, 0.3, 0.6))))


def _draw_warm_tint(random: RandomBatch, share: float, limit: float) -> Tensor:
    """Log factors (B, 3, 1, 1): less green and still less blue in this share of the images.

    limit: largest reduction of blue, natural log.
    """
    blue = random.bernoulli(share) * random.uniform(0, limit)
    return torch.cat([0 * blue, -0.5 * blue, -blue], 1)


def _add_dark_materials(
    shadow: Tensor, free: Tensor, matte: Tensor, random: RandomBatch
) -> tuple[Tensor, Tensor]:
    """Lay dark materials, which are no shadow, into the outline of another image's shadow.

    The material is another image's ground, or paint, which is redder than light from the sky.

    Args:
        shadow, free: linear light with and without shadow, (B, 3, S, S).
        matte: (B, 1, S, S), 1 = all direct light is blocked.
    """
    umbra = (matte > 0.9).float() + 1e-4 * matte
    passed = (umbra * shadow).sum((2, 3), keepdim=True) / ((umbra * free).sum((2, 3), keepdim=True) + 1e-6)
    factor = 1 - matte * (1 - passed.clamp(0, 1))
    ground = free.roll(1, 0) * torch.exp(random.uniform(-2.7, 0.3) + random.normal(0.2, 3))
    blue = random.uniform(0.25, 0.7)
    tint = torch.cat([0 * blue, -blue * random.uniform(0, 1), -blue], 1)
    paint = free * torch.exp(random.uniform(-1.4, -0.3) + tint)
    painted = random.bernoulli(0.3)
    material = painted * paint + (1 - painted) * ground
    region = (matte.roll(2, 0) > 0.5) * random.bernoulli(0.6)
    return shadow.lerp(material * factor, region), free.lerp(material, region)


def _draw_uneven_light(random: RandomBatch, side: int) -> Tensor:
    """Light (B, 1, S, S) that falls off towards the corners and towards a side."""
    line = torch.linspace(-1, 1, side, device=random.generator.device)
    x, y = line.view(1, 1, 1, side), line.view(1, 1, side, 1)
    slope = random.normal(0.2, 2)
    fall = random.uniform(0, 0.5) * random.bernoulli(0.5)
    return torch.exp(slope[:, :1] * x + slope[:, 1:] * y - fall * (x * x + y * y))


def _photograph(light: Tensor, random: RandomBatch) -> Tensor:
    """Linear light to sRGB in [0, 1], with random exposure, white balance, tone curve and sensor noise."""
    light = light * torch.exp(random.normal(0.25) + random.normal(0.1, 3) + _draw_warm_tint(random, 0.2, 1.2))
    grey = random.bernoulli(0.05)
    light = grey * light.mean(1, keepdim=True) + (1 - grey) * light
    image = to_srgb(light) ** torch.exp(random.normal(0.12))
    device = random.generator.device
    noise = torch.randn(image.shape, generator=random.generator, device=device) * random.uniform(0, 0.02)
    return (image + noise).clamp(0, 1)


def detection_loss(logits: Tensor, shadow: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy (B,) and Dice loss (B,) of logits against shadow masks, both (B, 1, S, S), 1 = shadow."""
    entropy = F.binary_cross_entropy_with_logits(logits, shadow, reduction="none").mean((1, 2, 3))
    probability = torch.sigmoid(logits)
    common, total = (probability * shadow).sum((1, 2, 3)), (probability + shadow).sum((1, 2, 3))
    return entropy, 1 - (2 * common + _SMOOTH) / (total + _SMOOTH)
