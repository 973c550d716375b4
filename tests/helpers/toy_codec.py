"""A toy codec: 2x2 pixel-unshuffle. Stands for an autoencoder in tests: other channels, other size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class ToyCodec:
    """Each block of 2x2 pixels is one model pixel with 12 channels in [-1, 1]."""

    channels: int = 12
    factor: int = 2

    def encode(self, images: Sequence[np.ndarray]) -> Tensor:
        """Encode uint8 images (H, W, 3) to float32 (B, 12, ceil(H / 2), ceil(W / 2)), odd sides padded."""
        pixels = torch.from_numpy(np.stack(images).astype(np.float32)).permute(0, 3, 1, 2)
        return F.pixel_unshuffle(_pad(pixels / 127.5 - 1), 2)

    def encode_mask(self, keep: np.ndarray) -> Tensor:
        """Encode masks bool (B, H, W) to float32 (B, 1, h, w): 1 if all four pixels are known."""
        return F.pixel_unshuffle(_pad(torch.from_numpy(keep).float()[:, None]), 2).amin(dim=1, keepdim=True)

    def decode(self, x: Tensor) -> np.ndarray:
        """Decode (B, 12, h, w) to uint8 (B, 2h, 2w, 3). Raises ValueError on NaN."""
        if torch.isnan(x).any():
            raise ValueError("NaN in the toy codec's model space")
        levels = (F.pixel_shuffle(x.float(), 2).clamp(-1, 1) + 1) * 127.5
        return levels.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()

    def clamp(self, x: Tensor) -> Tensor:
        """Clamp to [-1, 1]."""
        return x.clamp(-1, 1)


def _pad(plane: Tensor) -> Tensor:
    """Repeat the last row and column of (B, C, H, W) where a side is odd."""
    return F.pad(plane, (0, plane.shape[-1] % 2, 0, plane.shape[-2] % 2), mode="replicate")
