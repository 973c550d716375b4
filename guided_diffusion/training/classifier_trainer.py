"""A training run of the scene classifier."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Generator, Tensor, nn

from guided_diffusion.evaluation.feature_network import SceneClassifier
from guided_diffusion.images.formats import contact_sheet
from guided_diffusion.scenes.layouts import KINDS
from guided_diffusion.scenes.render import render_labelled, scene_rng
from guided_diffusion.training.classification import classification_loss, largest, lessons, shares
from guided_diffusion.training.supervised import LabelledTrainer

_GRID = 8  # images


class ClassifierTrainer(LabelledTrainer):
    """Everything a run holds. A batch is what LabelledStream gives: uint8 (B, 4, S, S)."""

    parts: ClassVar[tuple[str, str]] = ("entropy", "error")

    def build(self) -> nn.Module:
        return SceneClassifier()

    def lessons(self, planes: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        return lessons(planes, generator)

    def losses(self, logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        entropy, error = classification_loss(logits, truth)
        return entropy, entropy.detach(), error

    @torch.no_grad()
    def grid(self) -> np.ndarray:
        """Images it does not train on, what they show, what is found, a grey per kind: uint8 (H, W, 3)."""
        size = self.config.model.image_size
        rows, labels = [], []
        for index in range(_GRID):
            image, kinds = render_labelled(scene_rng(self.config.seed + 1, index), size)
            x = torch.from_numpy(image).to(self.device).permute(2, 0, 1)[None].float() / 255
            logits = self.ema(x)
            truth = int(shares(torch.from_numpy(kinds)[None]).sum((2, 3)).argmax())
            rows.append([image, _grey(kinds), _grey(logits[0].argmax(0).byte().cpu().numpy())])
            labels.append(f"{KINDS[truth]}, taken for {KINDS[int(largest(logits))]}")
        return contact_sheet(rows, ["image", "shown", "found"], labels, max(size, 128))


def _grey(kinds: np.ndarray) -> np.ndarray:
    return np.minimum(kinds, len(KINDS)) * np.uint8(255 // len(KINDS))
