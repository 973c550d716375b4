"""A small network that tells what grounds and walls are made of; its features compare sets of images.

Trained in this project on procedural images alone (confs/train/scene_classifier.yml). Residual blocks (He
et al. 2016, arXiv 1603.05027) with group normalisation, behind a pixel-unshuffle (Shi et al. 2016,
arXiv 1609.05158).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided_diffusion import checkpoints
from guided_diffusion.errors import CheckpointError
from guided_diffusion.images.formats import resize
from guided_diffusion.scenes.layouts import KINDS

SIDE = 64  # pixels: of the images it was trained on
CELL = 8  # pixels: side of the squares whose material it tells; height and width are multiples of it
WEIGHTS = Path(__file__).parents[2] / "data" / "pretrained" / "scene_classifier.pt"
_WIDTHS = (32, 64, 96)
_AROUND, _GAIN = 9, 8  # pixels of the mean that is taken from an image to show its texture, and how strongly
_GROUPS = 8
_BATCH = 64


class _Block(nn.Module):
    """(B, C, H, W) -> (B, out, H, W), residual."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.GroupNorm(_GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)),
            *(nn.GroupNorm(_GROUPS, out), nn.SiLU(), nn.Conv2d(out, out, 3, padding=1)),
        )
        self.skip = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.body(x)


class SceneClassifier(nn.Module):
    """Images (B, 3, H, W), sRGB in [0, 1] -> logits (B, len(KINDS), H/CELL, W/CELL): what each cell shows.

    H and W are multiples of CELL.
    """

    def __init__(self) -> None:
        super().__init__()
        first, second, third = _WIDTHS
        self.stem = nn.Conv2d(6 * 4, first, 3, padding=1)
        self.levels = nn.Sequential(
            _Block(first, first),
            nn.AvgPool2d(2),
            *(_Block(first, second), _Block(second, second)),
            nn.AvgPool2d(2),
            *(_Block(second, third), _Block(third, third)),
            *(nn.GroupNorm(_GROUPS, third), nn.SiLU()),
        )
        self.head = nn.Conv2d(third, len(KINDS), 1)

    def features(self, image: Tensor) -> Tensor:
        """(B, 3, H, W), sRGB in [0, 1] -> (B, 96): the last activations, their mean over the image."""
        return self._activations(image).mean((2, 3))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self._activations(image))

    def _activations(self, image: Tensor) -> Tensor:
        # Texture is faint beside the brightness: without its own channels it is learnt several times slower.
        around = F.avg_pool2d(image, _AROUND, 1, _AROUND // 2, count_include_pad=False)
        x = torch.cat([2 * image - 1, _GAIN * (image - around)], 1)
        return self.levels(self.stem(F.pixel_unshuffle(x, 2)))  # (B, 96, H/CELL, W/CELL)


def weights() -> str:
    """The path of the network's weights. Raises CheckpointError, with the remedy, if they are not there."""
    if not WEIGHTS.exists():
        raise CheckpointError(
            f"the scene-feature KID needs {WEIGHTS}, which is not there; restore it from the repository, or "
            "train it as confs/train/scene_classifier.yml says"
        )
    return str(WEIGHTS)


@torch.no_grad()
def features(images: Sequence[np.ndarray]) -> np.ndarray:
    """The network's features of images uint8 (H, W, 3), each resized to SIDE x SIDE: float64 (N, 96).

    Raises CheckpointError, with the remedy, if the weights are not there.
    """
    network = _network(weights())
    small = [resize(image, (SIDE, SIDE), "hamming") for image in images]
    told = []
    for at in range(0, len(small), _BATCH):
        x = torch.from_numpy(np.stack(small[at : at + _BATCH])).permute(0, 3, 1, 2).float() / 255
        told.append(network.features(x).double().numpy())
    return np.concatenate(told)


@cache
def _network(path: str) -> SceneClassifier:
    network = SceneClassifier()
    checkpoints.load(network, path, SIDE)
    return network
