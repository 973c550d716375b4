"""What the scene classifier learns from, procedural images cropped and lit anew, and its loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from guided_diffusion.evaluation.feature_network import CELL
from guided_diffusion.scenes.layouts import KINDS
from guided_diffusion.shadow.light import to_linear, to_srgb
from guided_diffusion.training.detection import Draws


def lessons(planes: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Images (B, 3, S, S), sRGB in [0, 1], and how much of each cell every kind covers, as `shares`.

    planes: uint8 (B, 4, S, S): the image, and what each pixel shows (layouts.KINDS, else NO_KIND); on the
    generator's device. Images are mirrored, cropped to 0.7 of the side and more, exposed and balanced anew.
    """
    draws = Draws(len(planes), generator)
    size = draws.uniform(0.7, 1)
    flip = 1 - 2 * draws.chance(0.5)
    centre = draws.uniform(-1, 1, 2) * (1 - size)
    none = torch.zeros_like(size)
    rows = [torch.cat([size * flip, none, centre[:, :1]], 3), torch.cat([none, size, centre[:, 1:]], 3)]
    grid = F.affine_grid(torch.cat(rows, 2)[:, 0], list(planes.shape), align_corners=False)
    light = F.grid_sample(planes[:, :3].float() / 255, grid, padding_mode="border", align_corners=False)
    kinds = F.grid_sample(planes[:, 3:].float(), grid, "nearest", "border", align_corners=False)
    light = to_linear(light) * torch.exp(draws.normal(0.25) + draws.normal(0.06, 3))
    return to_srgb(light).clamp(0, 1), shares(kinds[:, 0])


def shares(kinds: Tensor) -> Tensor:
    """How much of each cell every kind covers, (B, len(KINDS), S/CELL, S/CELL); kinds: of pixels, (B, S, S).

    What is of no kind does not count: the sum over kinds is the share of the cell that is of any.
    """
    shown = torch.stack([(kinds == kind).float() for kind in range(len(KINDS))], 1)
    return F.avg_pool2d(shown, CELL)


def classification_loss(logits: Tensor, covered: Tensor) -> tuple[Tensor, Tensor]:
    """(cross-entropy per pixel that is of some kind (B,), 1 where the largest kind is missed (B,)).

    logits, covered: (B, len(KINDS), h, w). The largest kind is that of the whole image.
    """
    entropy = -(covered * F.log_softmax(logits, 1)).sum((1, 2, 3)) / covered.sum((1, 2, 3)).clamp_min(1)
    return entropy, (largest(logits) != covered.sum((2, 3)).argmax(1)).float()


def largest(logits: Tensor) -> Tensor:
    """The kind that is thought to cover most of each image, (B,)."""
    return torch.softmax(logits, 1).sum((2, 3)).argmax(1)
