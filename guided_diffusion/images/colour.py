"""Colour: sRGB, linear light, luminance and CIE L*a*b*, for numpy arrays and torch tensors.

torch is imported when a tensor is first met, so that the scene renderer starts without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, overload

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

DARK = 2e-3  # linear light added before a logarithm: about seven levels of eight bits at the dark end
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # weights of linear red, green and blue (IEC 61966-2-1)

Illuminant: TypeAlias = Literal["d65", "d50"]

# sRGB primaries to CIE XYZ, and the white (2 degrees). D65 with the digits that scikit-image uses. D50 as ICC
# profiles have it, adapted by Bradford's matrix (Lindbloom), which MATLAB's makecform('srgb2lab') follows.
_XYZ: dict[Illuminant, tuple[np.ndarray, np.ndarray]] = {
    "d65": (
        np.array(
            [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
        ),
        np.array([0.95047, 1.0, 1.08883]),
    ),
    "d50": (
        np.array(
            [
                [0.4360747, 0.3850649, 0.1430804],
                [0.2225045, 0.7168786, 0.0606169],
                [0.0139322, 0.0971045, 0.7141733],
            ]
        ),
        np.array([0.96422, 1.0, 0.82521]),
    ),
}


@overload
def to_linear(srgb: np.ndarray) -> np.ndarray: ...
@overload
def to_linear(srgb: Tensor) -> Tensor: ...
def to_linear(srgb: np.ndarray | Tensor) -> np.ndarray | Tensor:
    """Convert sRGB values in [0, 1], of any shape, to linear light in [0, 1] (IEC 61966-2-1)."""
    if isinstance(srgb, np.ndarray):
        return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    import torch

    # The clamp keeps the branch that is not taken, and its gradient, free of NaN.
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb.clamp_min(0) + 0.055) / 1.055) ** 2.4)


@overload
def to_srgb(light: np.ndarray) -> np.ndarray: ...
@overload
def to_srgb(light: Tensor) -> Tensor: ...
def to_srgb(light: np.ndarray | Tensor) -> np.ndarray | Tensor:
    """Convert linear light of any shape to sRGB; both are clipped to [0, 1]."""
    if isinstance(light, np.ndarray):
        light = light.clip(0, 1)
        return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    import torch

    light = light.clamp(0, 1)
    # The clamp keeps the gradient at 0 finite.
    return torch.where(light <= 0.0031308, 12.92 * light, 1.055 * light.clamp_min(1e-4) ** (1 / 2.4) - 0.055)


def srgb_to_lab(image: np.ndarray, illuminant: Illuminant = "d65") -> np.ndarray:
    """Convert sRGB 0..255, (H, W, 3), to CIE L*a*b*, float64: L 0..100, a and b about -108..98 (CIE 15)."""
    primaries, white = _XYZ[illuminant]
    xyz = to_linear(image / 255) @ primaries.T / white
    x, y, z = np.moveaxis(np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
