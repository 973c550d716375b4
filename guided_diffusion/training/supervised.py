"""A training run of a network that tells something of images, from images of which it is known."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import Generator, Tensor, nn

from guided_diffusion.runtime import distributed
from guided_diffusion.training.trainer import Trainer


class LabelledTrainer(Trainer):
    """The trainer of a prior with another network, batch and loss: what differs is abstract here."""

    @abstractmethod
    def lessons(self, planes: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) and what is true of them (B, ...), of a batch as it is drawn, uint8."""

    @abstractmethod
    def losses(self, logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is minimised and its two `parts`, each (B,)."""

    @abstractmethod
    def grid(self) -> np.ndarray:
        """The averaged network on images it does not train on, beside the truth: uint8 (H, W, 3)."""

    def example(self) -> tuple[Tensor, ...]:
        side = self.config.model.image_size
        return (torch.empty(self.config.batch_size, 3, side, side),)

    def _learn(self, model: nn.Module, x0: Tensor) -> None:
        """Gradients on lessons that depend on (seed, step, rank) and the batch alone."""
        rng = np.random.default_rng([self.config.seed, self.step, distributed.rank()])
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        images, truth = self.lessons(x0, generator)

        def losses(piece: slice) -> tuple[Tensor, Tensor, Tensor]:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast is not None):
                logits = model(images[piece])
            return self.losses(logits.float(), truth[piece])

        self.backward(model, torch.ones(len(x0), device=self.device), losses)
