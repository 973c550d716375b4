"""ShadowField: how much light a shadow takes at each pixel, and the image with that light given back.

Image formation, in linear light and per channel (Guo et al. 2013; SP+M, Le & Samaras 2019; in logarithms):
y = x (1 - alpha + alpha exp(-F)), where alpha is the matte and F the log gain. In full shadow
F = B + k (log y - mu), B smooth over the image: k is the slope that a camera's tone curve and ambient
light leave.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.images.colour import DARK
from guided_diffusion.shadow.light import log_light

_ROUNDS = 2  # Newton steps below: within 3e-5 of the transmission, whatever the slope
STEEPEST = 0.45  # bound of |k|


@dataclass(frozen=True)
class ShadowField:
    """The log gain F of a shadow, per channel."""

    offset: Tensor
    """B, log gain, (3, H, W)."""
    slope: Tensor
    """k, within +-STEEPEST, (3,)."""
    pivot: Tensor
    """mu, logarithmic light, (3,)."""

    def umbra_gain(self, dark: Tensor) -> Tensor:
        """Log gain F >= 0 of pixels in full shadow, from their logarithmic light (3, H, W)."""
        slope, pivot = self.slope[:, None, None], self.pivot[:, None, None]
        return (self.offset + slope * (dark - pivot)).clamp_min(0)

    def gain(self, lit: Tensor) -> Tensor:
        """Log gain F >= 0 from the logarithmic light (3, H, W) that the pixels have without the shadow.

        A pixel of light l in full shadow has l + F(l) without it; this solves for F.
        """
        slope, pivot = self.slope[:, None, None], self.pivot[:, None, None]
        return ((self.offset + slope * (lit - pivot)) / (1 + slope)).clamp_min(0)

    def transmission(self, light: Tensor, matte: Tensor) -> Tensor:
        """Transmission T in (0, 1], (3, H, W): the share of light that arrives.

        F belongs to the pixel's light without the shadow, light / T, which depends on F again. Newton's
        iteration solves for both.

        Args:
            light: linear light of the image with shadow, (3, H, W).
            matte: alpha in [0, 1], 1 = full shadow, (H, W).
        """
        slope = (self.slope / (1 + self.slope))[:, None, None]
        gain = self.umbra_gain(log_light(light))
        for _ in range(_ROUNDS):
            blocked = matte * torch.exp(-gain)
            transmission = 1 - matte + blocked
            lit = light / transmission
            target = self.gain(log_light(lit))
            change = slope * blocked / transmission * lit / (lit + DARK)
            gain = gain + (target - gain) / (1 - change)
        return 1 - matte * (1 - torch.exp(-gain))

    def to_grey(self) -> ShadowField:
        """Average the channels into one, which broadcasts over any number: a grey image stays grey."""
        parts = (self.offset, self.slope, self.pivot)
        return ShadowField(*(part.mean(dim=0, keepdim=True) for part in parts))

    def resize(self, size: tuple[int, int]) -> ShadowField:
        """Interpolate the field to an image of another size (height, width)."""
        offset = F.interpolate(self.offset[None], size=size, mode="bilinear", align_corners=False)[0]
        return ShadowField(offset, self.slope, self.pivot)
