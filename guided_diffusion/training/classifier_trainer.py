"""A training run of the scene classifier: the trainer of a prior with another network, batch and loss."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from guided_diffusion import distributed
from guided_diffusion.images import contact_sheet
from guided_diffusion.scene_classifier import SceneClassifier
from guided_diffusion.scenery.layouts import KINDS
from guided_diffusion.scenes import render_labelled, scene_rng
from guided_diffusion.training.classification import classification_loss, largest, lessons, shares
from guided_diffusion.training.trainer import Trainer

_GRID = 8  # pictures


class ClassifierTrainer(Trainer):
    """Everything a run holds. A batch is what LabelledStream gives: uint8 (B, 4, S, S)."""

    parts: ClassVar[tuple[str, str]] = ("entropy", "error")

    def build(self) -> nn.Module:
        return SceneClassifier()

    def example(self) -> tuple[Tensor, ...]:
        side = self.config.model.image_size
        return (torch.empty(self.config.batch_size, 3, side, side),)

    def _learn(self, model: nn.Module, x0: Tensor) -> None:
        """Gradients on lessons that depend on (seed, step, rank) and the pictures alone."""
        rng = np.random.default_rng([self.config.seed, self.step, distributed.rank()])
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        pictures, covered = lessons(x0, generator)

        def losses(piece: slice) -> tuple[Tensor, Tensor, Tensor]:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast is not None):
                logits = model(pictures[piece])
            entropy, error = classification_loss(logits.float(), covered[piece])
            return entropy, entropy.detach(), error

        self.backward(model, torch.ones(len(x0), device=self.device), losses)

    @torch.no_grad()
    def grid(self) -> np.ndarray:
        """Pictures it does not train on, what they show, what is found, a grey per kind: uint8 (H, W, 3)."""
        size = self.config.model.image_size
        rows, labels = [], []
        for index in range(_GRID):
            picture, kinds = render_labelled(scene_rng(self.config.seed + 1, index), size)
            x = torch.from_numpy(picture).to(self.device).permute(2, 0, 1)[None].float() / 255
            logits = self.ema(x)
            truth = int(shares(torch.from_numpy(kinds)[None]).sum((2, 3)).argmax())
            rows.append([picture, _grey(kinds), _grey(logits[0].argmax(0).byte().cpu().numpy())])
            labels.append(f"{KINDS[truth]}, taken for {KINDS[int(largest(logits))]}")
        return contact_sheet(rows, ["picture", "shown", "found"], labels, max(size, 128))


def _grey(kinds: np.ndarray) -> np.ndarray:
    return np.minimum(kinds, len(KINDS)) * np.uint8(255 // len(KINDS))
