"""Training of the scene classifier."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.utils.data import Dataset

from guided_diffusion.codec import Codec
from guided_diffusion.evaluation.feature_network import SceneClassifier
from guided_diffusion.images.contact_sheet import contact_sheet
from guided_diffusion.scenes.layouts import KINDS
from guided_diffusion.scenes.render import render_labelled, scene_rng
from guided_diffusion.training import classification
from guided_diffusion.training.config import TrainConfig
from guided_diffusion.training.datasets import LabelledStream
from guided_diffusion.training.supervised import SupervisedTrainer

_GRID_IMAGES = 8


class ClassifierTrainer(SupervisedTrainer):
    """Training run of the scene classifier. A batch is uint8 (B, 4, S, S), from LabelledStream."""

    loss_names: ClassVar[tuple[str, str]] = ("entropy", "error")

    @classmethod
    def open_source(cls, config: TrainConfig, codec: Codec) -> Dataset[Tensor]:
        return LabelledStream(config.image_size, config.seed)

    def build(self) -> nn.Module:
        return SceneClassifier()

    def training_batch(self, planes: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        return classification.draw_training_batch(planes, generator)

    def losses(self, logits: Tensor, ground_truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        entropy, error = classification.classification_loss(logits, ground_truth)
        return entropy, entropy.detach(), error

    @torch.no_grad()
    def grid(self) -> np.ndarray:
        """Images that it does not train on, their materials and the predicted ones, a grey per material."""
        size = self.config.image_size
        rows, labels = [], []
        for index in range(_GRID_IMAGES):
            image, kinds = render_labelled(scene_rng(self.config.seed + 1, index), size)
            x = torch.from_numpy(image).to(self.device).permute(2, 0, 1)[None].float() / 255
            logits = self.ema(x)
            shares = classification.measure_shares(torch.from_numpy(kinds)[None])
            true = int(shares.sum((2, 3)).argmax())
            rows.append([image, _to_grey(kinds), _to_grey(logits[0].argmax(0).byte().cpu().numpy())])
            labels.append(f"{KINDS[true]}, taken for {KINDS[int(classification.predict_kind(logits))]}")
        return contact_sheet(rows, ["image", "shown", "found"], labels, max(size, 128))


def _to_grey(kinds: np.ndarray) -> np.ndarray:
    return np.minimum(kinds, len(KINDS)) * np.uint8(255 // len(KINDS))
