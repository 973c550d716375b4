"""Scenes, a denoiser and a checked call for the tests of shadow removal."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from guided_diffusion.config.shadow import RelightConfig
from guided_diffusion.denoiser import Prediction
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.images.masks import ShadowMask, dilate
from guided_diffusion.scenes.render import Scene, render, scene_rng
from guided_diffusion.shadow.relight import Prior, RelitImage, relight

SIZE = (72, 96)
LITTLE = render(scene_rng(1000, 0), 64)


class Restless:
    """A denoiser that makes everything greener and less even."""

    def __call__(self, x: torch.Tensor, t: int, clean: torch.Tensor | None = None) -> Prediction:
        x0 = (x + torch.tensor([-0.3, 0.5, -0.3])[:, None, None]).clamp(-1, 1)
        return Prediction(x0, x - x0, torch.zeros_like(x0))


def restless() -> Prior:
    """Make a prior of that denoiser, with a process of 10 steps."""
    process = GaussianDiffusion(np.linspace(1e-4, 0.02, 10))
    return Prior(Restless(), process, 32, 8, torch.Generator().manual_seed(0))


def relight_checked(
    image: np.ndarray, shadow: np.ndarray, model: Prior | None = None, **keys: object
) -> RelitImage:
    """Relight and check the result: no NaN, in range, dtype and size as given, nothing changed beyond."""
    before = image.copy()
    relit = relight(image, ShadowMask(shadow), RelightConfig(**keys), model)  # type: ignore[arg-type]
    assert np.array_equal(image, before)
    assert relit.image.shape == image.shape and relit.image.dtype == image.dtype
    assert relit.matte.shape == shadow.shape and relit.transmission.shape == image.shape
    assert relit.matte.dtype == relit.transmission.dtype == np.float32
    assert np.isfinite(relit.transmission).all()
    assert (relit.transmission > 0).all() and (relit.transmission <= 1).all()
    assert np.isfinite(relit.matte).all() and (relit.matte >= 0).all() and (relit.matte <= 1).all()
    assert "\n" not in relit.note and len(relit.note) < 120
    still = relit.matte == 0
    assert np.array_equal(relit.image[still], image[still]) and (relit.transmission[still] == 1).all()
    beyond = ~dilate(shadow, RelightConfig(**keys).reach(*shadow.shape))  # type: ignore[arg-type]
    assert not relit.matte[beyond].any()
    return relit


@lru_cache
def scene(index: int) -> Scene:
    """Render a scene of SIZE, once."""
    return render(scene_rng(1000, index), SIZE)
