"""A stand-in for `relight`, and the mask that it leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from guided_diffusion.images.masks import dilate
from guided_diffusion.shadow.relight import Prior, RelitImage
from tests.helpers.project import keep_mask

# keep_mask() with its hole one pixel larger, as task remove_shadow has it: 0.012 of 16 pixels is below one.
RELIT_KEEP = keep_mask()
for shift in ((0, 1), (0, -1), (1, 0), (-1, 0)):
    RELIT_KEEP = RELIT_KEEP & np.roll(keep_mask(), shift, (0, 1))


class Negative:
    """Replacement of `relight`: the negative of what the shadow reaches, with noise if there is a prior.

    It records its calls.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __call__(
        self, image: np.ndarray, shadow: np.ndarray, settings: Any, prior: Prior | None, find: Any
    ) -> RelitImage:
        self.calls.append((image, shadow, settings, prior, find))
        free, nfe = np.iinfo(image.dtype).max - image // 2, 0
        if prior is not None:
            noise = torch.randint(0, 50, shadow.shape, generator=prior.generator).numpy()[..., None]
            free = free - noise.astype(image.dtype)
            nfe = len([prior.denoise(torch.zeros(1, 3, 16, 16), t) for t in range(3)])
        free = np.where(dilate(shadow, settings.reach(*shadow.shape))[..., None], free, image)
        matte = shadow.astype(np.float32) * np.float32(0.4)
        black = shadow & (image.max(axis=2) == 0)
        return RelitImage(free, matte, np.full(image.shape, 0.2, np.float32), black, "", nfe)
