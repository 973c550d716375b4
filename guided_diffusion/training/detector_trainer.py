"""A training run of the shadow detector: the trainer of a prior with another network, batch and loss."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from guided_diffusion import distributed
from guided_diffusion.images import contact_sheet
from guided_diffusion.scenes import render, scene_rng
from guided_diffusion.shadow.detector import Detector
from guided_diffusion.training.detection import detection_loss, examples
from guided_diffusion.training.trainer import Trainer

_GRID = 8  # pictures


class DetectorTrainer(Trainer):
    """Everything a run holds. A batch is what TripletStream gives: uint8 (B, 7, S, S)."""

    parts: ClassVar[tuple[str, str]] = ("entropy", "dice")

    def build(self) -> nn.Module:
        return Detector()

    def example(self) -> tuple[Tensor, ...]:
        side = self.config.model.image_size
        return (torch.empty(self.config.batch_size, 3, side, side),)

    def _learn(self, model: nn.Module, x0: Tensor) -> None:
        """Gradients on examples that depend on (seed, step, rank) and the triplets alone."""
        rng = np.random.default_rng([self.config.seed, self.step, distributed.rank()])
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        pictures, shadows = examples(x0, generator)

        def losses(piece: slice) -> tuple[Tensor, Tensor, Tensor]:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast is not None):
                logits = model(pictures[piece])
            entropy, dice = detection_loss(logits.float(), shadows[piece])
            return entropy + dice, entropy, dice

        self.backward(model, torch.ones(len(x0), device=self.device), losses)

    def grid(self) -> np.ndarray:
        """The averaged network on pictures it does not train on, beside the truth: uint8 (H, W, 3)."""
        size, rows = self.config.model.image_size, []
        for index in range(_GRID):
            scene = render(scene_rng(self.config.seed + 1, index), size)
            matte = np.rint(255 * scene.matte).astype(np.uint8)
            rows.append([scene.shadow, matte, self._found(scene.shadow), scene.free, self._found(scene.free)])
        return contact_sheet(rows, ["shadow", "matte", "found", "free", "found"], None, max(size, 128))

    @torch.no_grad()
    def _found(self, picture: np.ndarray) -> np.ndarray:
        """uint8 (H, W): 255 = surely shadow."""
        x = torch.from_numpy(picture).to(self.device).permute(2, 0, 1)[None].float() / 255
        return (255 * torch.sigmoid(self.ema(x))).round().byte()[0, 0].cpu().numpy()
