"""Windows of procedural scenes at several scales, so that a network learns whole images and parts of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from guided_diffusion.codec import Codec
from guided_diffusion.scenes.render import render_free, scene_rng


class SceneWindows(Dataset[torch.Tensor]):
    """Endless procedural images, float32 (C, S, S): item `i` is a window of scene `i` of `seed`.

    The scene is rendered at S times one of `scales`, each equally often. The window lies anywhere in it; at
    scale 1 it is the whole scene. Scale and position depend on (seed, i) alone. The whole frame is rendered,
    since exposure is metered over all of it, and noise and JPEG belong to the whole.
    """

    def __init__(self, image_size: int, seed: int, scales: Sequence[int], codec: Codec) -> None:
        self.image_size, self.seed, self.scales, self.codec = image_size, seed, tuple(scales), codec

    def __getitem__(self, index: int) -> torch.Tensor:
        size = self.image_size
        rng = scene_rng(self.seed, index).spawn(1)[0]  # a child, so that the scene ignores the window
        side = size * self.scales[rng.integers(len(self.scales))]
        top, left = rng.integers(0, side - size + 1, size=2)
        frame = render_free(scene_rng(self.seed, index), side)
        return self.codec.encode([frame[top : top + size, left : left + size]])[0]
