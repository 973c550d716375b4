"""Windows of procedural frames at several scales: one network learns whole images and parts of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from guided_diffusion.scenes.render import scene_rng
from guided_diffusion.training.datasets import SceneStream


class SceneWindows(Dataset[torch.Tensor]):
    """Endless images, float32 (3, S, S) in [-1, 1]: item `i` is a window of scene `i` of `seed`.

    The scene is rendered at S times one of `scales`, each equally often, and the window lies anywhere in it;
    at scale 1 it is the whole. Both depend on (seed, i) alone. The frame is rendered whole, since exposure is
    metered over all of it, and noise and JPEG are of the whole.
    """

    def __init__(self, image_size: int, seed: int, scales: Sequence[int]) -> None:
        self.image_size, self.seed = image_size, seed
        self.frames = [SceneStream(image_size * scale, seed) for scale in scales]

    def __getitem__(self, index: int) -> torch.Tensor:
        rng = scene_rng(self.seed, index).spawn(1)[0]  # a child: whatever the window, the scene is the same
        frame = self.frames[rng.integers(len(self.frames))][index]
        top, left = rng.integers(0, frame.shape[-1] - self.image_size + 1, size=2)
        return frame[:, top : top + self.image_size, left : left + self.image_size]
