"""A small network that classifies the materials of grounds and walls; its features compare sets of images.

Trained in this project on procedural images alone (confs/train/scene_classifier.yml). Residual blocks (He
et al. 2016, arXiv 1603.05027) with group normalisation, behind a pixel-unshuffle (Shi et al. 2016,
arXiv 1609.05158).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided_diffusion import checkpoints
from guided_diffusion.images.formats import resize
from guided_diffusion.scenes.layouts import KINDS

SIDE = 64  # pixels: side of the training images
CELL = 8  # pixels: side of the squares that are classified; height and width are multiples of it
_WIDTHS = (32, 64, 96)
_LOCAL_MEAN = 9  # pixels: side of the mean that is subtracted from an image to show its texture
_GAIN = 8  # factor by which that texture is amplified
_GROUPS = 8
_BATCH = 64


class _Block(nn.Module):
    """Residual block: (B, C, H, W) -> (B, out, H, W)."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(_GROUPS, channels),
            nn.SiLU(),
            nn.Conv2d(channels, out, 3, padding=1),
            nn.GroupNorm(_GROUPS, out),
            nn.SiLU(),
            nn.Conv2d(out, out, 3, padding=1),
        )
        self.skip = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.body(x)


class SceneClassifier(nn.Module):
    """Classifier of materials: images (B, 3, H, W), sRGB in [0, 1] -> logits per cell.

    The logits are (B, len(KINDS), H/CELL, W/CELL). H and W are multiples of CELL.
    """

    def __init__(self) -> None:
        super().__init__()
        first, second, third = _WIDTHS
        self.stem = nn.Conv2d(6 * 4, first, 3, padding=1)
        self.levels = nn.Sequential(
            _Block(first, first),
            nn.AvgPool2d(2),
            _Block(first, second),
            _Block(second, second),
            nn.AvgPool2d(2),
            _Block(second, third),
            _Block(third, third),
            nn.GroupNorm(_GROUPS, third),
            nn.SiLU(),
        )
        self.head = nn.Conv2d(third, len(KINDS), 1)

    def features(self, image: Tensor) -> Tensor:
        """Average the last activations over the image: (B, 3, H, W), sRGB in [0, 1] -> (B, 96)."""
        return self._activations(image).mean((2, 3))

    def forward(self, image: Tensor) -> Tensor:
        """Compute the logits."""
        return self.head(self._activations(image))

    def _activations(self, image: Tensor) -> Tensor:
        # Texture is faint beside brightness: without separate channels it is learnt several times slower.
        mean = F.avg_pool2d(image, _LOCAL_MEAN, 1, _LOCAL_MEAN // 2, count_include_pad=False)
        x = torch.cat([2 * image - 1, _GAIN * (image - mean)], 1)
        return self.levels(self.stem(F.pixel_unshuffle(x, 2)))  # (B, 96, H/CELL, W/CELL)


CLASSIFIER = checkpoints.ShippedNetwork(
    checkpoints.shipped("scene_classifier.pt"),
    SceneClassifier,
    SIDE,
    purpose="the scene-feature KID",
    remedy="or train it as confs/train/scene_classifier.yml says",
)


@torch.no_grad()
def extract_features(images: Sequence[np.ndarray]) -> np.ndarray:
    """Compute the network's features of images uint8 (H, W, 3), each resized to SIDE x SIDE: float64 (N, 96).

    Raises:
        CheckpointError: with the remedy, if the weights are missing.
    """
    network = CLASSIFIER.network()
    small = [resize(image, (SIDE, SIDE), "hamming") for image in images]
    features = []
    for start in range(0, len(small), _BATCH):
        x = torch.from_numpy(np.stack(small[start : start + _BATCH])).permute(0, 3, 1, 2).float() / 255
        features.append(network.features(x).double().numpy())
    return np.concatenate(features)
