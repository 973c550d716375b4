"""Classifier guidance: wraps a Denoise into another one that also sets `score`.

Paper: Dhariwal & Nichol 2021 (arXiv 2105.05233), section 4 (classifier guidance).
The raw gradient travels, because the DDPM and DDIM rules use it differently (algorithms 1 and 2).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from guided_diffusion.denoiser import Denoise, Prediction

LOSS_SCALE = 256  # of float16's backward pass, in which a pixel's share of the gradient would underflow


@dataclass(frozen=True)
class GuidedDenoiser:
    """A denoiser with classifier guidance; it is again a Denoise."""

    denoise: Denoise
    classifier: nn.Module
    """(x_t, time) -> logits (B, classes)."""
    timesteps: Tensor
    """(T,), the time the networks were trained with for each index of the process."""
    labels: Tensor
    """(B,), the class wanted for each image."""
    scale: float
    """s of the paper; 0: no guidance."""
    autocast: torch.dtype | None = None
    """The type to which torch narrows the classifier's arithmetic; None: none."""

    def __call__(self, x: Tensor, t: int, clean: Tensor | None = None) -> Prediction:
        if clean is not None:
            raise ValueError("a classifier has not learned from clean pixels beside noisy ones; use repaint")
        return replace(self.denoise(x, t), score=self.score(x, t))

    def score(self, x: Tensor, t: int) -> Tensor:
        """scale * gradient of log p(labels | x_t) with respect to x_t, (B, C, H, W)."""
        loss_scale = LOSS_SCALE if self.autocast is torch.float16 else 1
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            with nullcontext() if self.autocast is None else torch.autocast(x.device.type, self.autocast):
                logits = self.classifier(x, self.timesteps[t : t + 1])
            labels = self.labels.repeat(len(x) // len(self.labels))
            chosen = logits.float().log_softmax(dim=-1).gather(1, labels[:, None])
            (gradient,) = torch.autograd.grad(chosen.sum() * loss_scale, x)
        return gradient.float() * (self.scale / loss_scale)
