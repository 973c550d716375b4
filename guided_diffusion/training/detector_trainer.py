"""Training of the shadow detector."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.utils.data import Dataset

from guided_diffusion.codec import Codec
from guided_diffusion.images.contact_sheet import contact_sheet
from guided_diffusion.scenes.render import render, scene_rng
from guided_diffusion.shadow.detector import Detector
from guided_diffusion.training import detection
from guided_diffusion.training.config import TrainConfig
from guided_diffusion.training.datasets import TripletStream
from guided_diffusion.training.supervised import SupervisedTrainer

_GRID_IMAGES = 8


class DetectorTrainer(SupervisedTrainer):
    """Training run of the shadow detector. A batch is uint8 (B, 7, S, S), from TripletStream."""

    loss_names: ClassVar[tuple[str, str]] = ("entropy", "dice")

    @classmethod
    def open_source(cls, config: TrainConfig, codec: Codec) -> Dataset[Tensor]:
        return TripletStream(config.image_size, config.seed)

    def build(self) -> nn.Module:
        return Detector()

    def training_batch(self, planes: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        return detection.draw_training_batch(planes, generator)

    def losses(self, logits: Tensor, ground_truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        entropy, dice = detection.detection_loss(logits, ground_truth)
        return entropy + dice, entropy, dice

    def grid(self) -> np.ndarray:
        """Images that it does not train on, with and without shadow, the true matte and the detections."""
        size, rows = self.config.image_size, []
        for index in range(_GRID_IMAGES):
            scene = render(scene_rng(self.config.seed + 1, index), size)
            matte = np.rint(255 * scene.matte).astype(np.uint8)
            rows.append(
                [scene.shadow, matte, self._detect(scene.shadow), scene.free, self._detect(scene.free)]
            )
        return contact_sheet(rows, ["shadow", "matte", "found", "free", "found"], None, max(size, 128))

    @torch.no_grad()
    def _detect(self, image: np.ndarray) -> np.ndarray:
        """Probability of shadow, uint8 (H, W), 255 = 1."""
        x = torch.from_numpy(image).to(self.device).permute(2, 0, 1)[None].float() / 255
        return (255 * torch.sigmoid(self.ema(x))).round().byte()[0, 0].cpu().numpy()
