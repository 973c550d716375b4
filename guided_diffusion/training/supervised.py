"""Training of a network that recognises something in an image, from images with known ground truth."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import Generator, Tensor, nn

from guided_diffusion.runtime import distributed
from guided_diffusion.training.trainer import Trainer


class SupervisedTrainer(Trainer):
    """Training run of a recogniser. Subclasses define the network, the training batch and the loss."""

    @abstractmethod
    def training_batch(self, planes: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Augment a batch of the source.

        Args:
            planes: items of the source, uint8 (B, C, S, S).
            generator: source of all randomness, on the device of `planes`.

        Returns:
            Images (B, 3, S, S), sRGB in [0, 1], and their ground truth (B, ...).
        """

    @abstractmethod
    def losses(self, logits: Tensor, ground_truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss to minimise and its two reported terms (`loss_names`), each (B,)."""

    def example_inputs(self) -> tuple[Tensor, ...]:
        side = self.config.image_size
        return (torch.empty(self.config.batch_size, 3, side, side),)

    def sampler_state(self) -> dict[str, Tensor]:
        return {}

    def restore_sampler(self, state: dict[str, Tensor]) -> None:
        """Do nothing: there are no timesteps."""

    def compute_gradients(self, model: nn.Module, batch: Tensor) -> None:
        """Add the gradients of this step's loss; the augmentation depends on (seed, step, rank) alone."""
        rng = np.random.default_rng([self.config.seed, self.step, distributed.rank()])
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        images, ground_truth = self.training_batch(batch, generator)

        def losses(chunk: slice) -> tuple[Tensor, Tensor, Tensor]:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast is not None):
                logits = model(images[chunk])
            return self.losses(logits.float(), ground_truth[chunk])

        self.backward(model, torch.ones(len(batch), device=self.device), losses)
