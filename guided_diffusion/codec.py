"""Codec: between uint8 images and the space a model works in. The only place where 127.5 appears."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Codec(Protocol):
    """Turns images and masks into the tensors that a denoiser takes, and back."""

    @property
    def channels(self) -> int:
        """C, the channels of model space."""
        ...

    @property
    def factor(self) -> int:
        """Image pixels per model pixel along each side."""
        ...

    def encode(self, images: Sequence[np.ndarray]) -> Tensor:
        """Encode uint8 images (H, W, 3), all of one size, to float32 (B, C, ceil(H / factor), ...)."""
        ...

    def encode_mask(self, keep: np.ndarray) -> Tensor:
        """Encode masks bool (B, H, W), True = known, to float32 (B, 1, h, w): 1 if all pixels are known."""
        ...

    def decode(self, x: Tensor) -> np.ndarray:
        """Decode (B, C, h, w) to uint8 (B, h * factor, w * factor, 3). Raises ValueError on NaN."""
        ...

    def clamp(self, x: Tensor) -> Tensor:
        """Limit x to the values that model space holds; x itself where it has no limits."""
        ...


@dataclass(frozen=True)
class PixelCodec:
    """Model space is the pixels themselves, 0..255 mapped to [-1, 1]."""

    channels: int = 3
    factor: int = 1

    def encode(self, images: Sequence[np.ndarray]) -> Tensor:
        """Encode uint8 (H, W, 3) each to float32 (B, 3, H, W): v / 127.5 - 1.

        Raises ValueError if the images differ in shape or are not uint8 (H, W, 3).
        """
        shapes = {(str(image.dtype), image.shape) for image in images}
        if len(shapes) != 1 or any(d != "uint8" or len(s) != 3 or s[2] != 3 for d, s in shapes):
            raise ValueError(f"cannot encode {sorted(shapes)}; give uint8 (H, W, 3) images of one size")
        values = np.stack(images).astype(np.float32) / 127.5 - 1  # (B, H, W, 3)
        return torch.from_numpy(values).permute(0, 3, 1, 2).contiguous()  # (B, 3, H, W)

    def encode_mask(self, keep: np.ndarray) -> Tensor:
        """Encode bool (B, H, W) to float32 (B, 1, H, W)."""
        return torch.from_numpy(keep).float()[:, None]

    def decode(self, x: Tensor) -> np.ndarray:
        """Decode (B, 3, H, W) to uint8 (B, H, W, 3): clamped to [-1, 1], rounded to the nearest level.

        Raises ValueError on NaN, which would otherwise become a black image.
        """
        if torch.isnan(x).any():
            raise ValueError("the model's image holds NaN; compute in float32, or check the checkpoint")
        levels = (x.detach().float().clamp(-1, 1) + 1) * 127.5
        return levels.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def clamp(self, x: Tensor) -> Tensor:
        """Clamp to [-1, 1]."""
        return x.clamp(-1, 1)
