"""Training data of the scene classifier, cropped and re-exposed procedural images, and its loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from guided_diffusion.evaluation.feature_network import CELL
from guided_diffusion.images.colour import to_linear, to_srgb
from guided_diffusion.scenes.layouts import KINDS
from guided_diffusion.training.detection import RandomBatch


def draw_training_batch(planes: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Augment a batch of labelled images: mirror, crop to 0.7 of the side or more, vary exposure and balance.

    Args:
        planes: uint8 (B, 4, S, S): the image, and the material of each pixel (index into layouts.KINDS, or
            NO_KIND).
        generator: source of all randomness, on the device of `planes`.

    Returns:
        Images (B, 3, S, S), sRGB in [0, 1], and the material shares of their cells, see `measure_shares`.
    """
    random = RandomBatch(len(planes), generator)
    size = random.uniform(0.7, 1)
    flip = 1 - 2 * random.bernoulli(0.5)
    centre = random.uniform(-1, 1, 2) * (1 - size)
    zero = torch.zeros_like(size)
    rows = [torch.cat([size * flip, zero, centre[:, :1]], 3), torch.cat([zero, size, centre[:, 1:]], 3)]
    grid = F.affine_grid(torch.cat(rows, 2)[:, 0], list(planes.shape), align_corners=False)
    light = F.grid_sample(planes[:, :3].float() / 255, grid, padding_mode="border", align_corners=False)
    kinds = F.grid_sample(planes[:, 3:].float(), grid, "nearest", "border", align_corners=False)
    light = to_linear(light) * torch.exp(random.normal(0.25) + random.normal(0.06, 3))
    return to_srgb(light).clamp(0, 1), measure_shares(kinds[:, 0])


def measure_shares(kinds: Tensor) -> Tensor:
    """Share of each cell that each material covers: (B, len(KINDS), S/CELL, S/CELL), in [0, 1].

    Pixels of no listed material count for none, so the shares of a cell may add up to less than 1.

    Args:
        kinds: material of each pixel, (B, S, S).
    """
    shown = torch.stack([(kinds == kind).float() for kind in range(len(KINDS))], 1)
    return F.avg_pool2d(shown, CELL)


def classification_loss(logits: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of predicted material shares.

    Args:
        logits, shares: (B, len(KINDS), h, w).

    Returns:
        Cross-entropy per pixel of a listed material, (B,); and 1 where the image's largest material is
        missed, else 0, (B,).
    """
    entropy = -(shares * F.log_softmax(logits, 1)).sum((1, 2, 3)) / shares.sum((1, 2, 3)).clamp_min(1)
    return entropy, (predict_kind(logits) != shares.sum((2, 3)).argmax(1)).float()


def predict_kind(logits: Tensor) -> Tensor:
    """Material that is predicted to cover most of each image, (B,)."""
    return torch.softmax(logits, 1).sum((2, 3)).argmax(1)
