"""A training run of the shadow detector."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Generator, Tensor, nn

from guided_diffusion.images.formats import contact_sheet
from guided_diffusion.scenes.render import render, scene_rng
from guided_diffusion.shadow.detector import Detector
from guided_diffusion.training.detection import detection_loss, examples
from guided_diffusion.training.supervised import LabelledTrainer

_GRID = 8  # images


class DetectorTrainer(LabelledTrainer):
    """Everything a run holds. A batch is what TripletStream gives: uint8 (B, 7, S, S)."""

    parts: ClassVar[tuple[str, str]] = ("entropy", "dice")

    def build(self) -> nn.Module:
        return Detector()

    def lessons(self, planes: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        return examples(planes, generator)

    def losses(self, logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        entropy, dice = detection_loss(logits, truth)
        return entropy + dice, entropy, dice

    def grid(self) -> np.ndarray:
        size, rows = self.config.model.image_size, []
        for index in range(_GRID):
            scene = render(scene_rng(self.config.seed + 1, index), size)
            matte = np.rint(255 * scene.matte).astype(np.uint8)
            rows.append([scene.shadow, matte, self._found(scene.shadow), scene.free, self._found(scene.free)])
        return contact_sheet(rows, ["shadow", "matte", "found", "free", "found"], None, max(size, 128))

    @torch.no_grad()
    def _found(self, image: np.ndarray) -> np.ndarray:
        """uint8 (H, W): 255 = surely shadow."""
        x = torch.from_numpy(image).to(self.device).permute(2, 0, 1)[None].float() / 255
        return (255 * torch.sigmoid(self.ema(x))).round().byte()[0, 0].cpu().numpy()
