"""Relight: divide a shadow out of a picture, so that what lies beneath it stays as it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from guided_diffusion.denoiser import Denoise
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.shadow.settings import RelightConfig


@dataclass(frozen=True)
class Relit:
    """A picture without its shadow.

    free: (H, W, 3) as deep as the input; matte: float32 (H, W) in [0, 1], 1 = full shadow; field: float32
    (H, W, 3) in (0, 1], the share of linear light that the shadow lets through, 1 = lit; note: '' or a line.
    """

    free: np.ndarray
    matte: np.ndarray
    field: np.ndarray
    note: str
    evaluations: int


def relight(
    picture: np.ndarray,
    shadow: np.ndarray,
    settings: RelightConfig,
    denoise: Denoise | None,
    process: GaussianDiffusion,
    generator: torch.Generator,
) -> Relit:
    """Lift the shadow, bool (H, W), True = shadow, off a picture uint8 or uint16 (H, W, 3)."""
    matte = shadow.astype(np.float32)
    whole = bool(shadow.all())
    note = "the mask covers the whole picture: no lit ring, left as it was" if whole else ""
    top = np.iinfo(picture.dtype).max
    light = (picture / top) ** 2.2
    gain = np.ones(3) if whole else light[~shadow].mean(0) / np.maximum(light[shadow].mean(0), 1e-3)
    field = (1 - matte[..., None] * (1 - 1 / np.maximum(gain, 1))).astype(np.float32)
    free = np.rint(np.clip(light / field, 0, 1) ** (1 / 2.2) * top).astype(picture.dtype)
    return Relit(free, matte, field, note, 0)
