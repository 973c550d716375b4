"""ShadowField: how much light a shadow takes at each place, and the image with that light given back.

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

from guided_diffusion.shadow.light import DARK, log_light

_ROUNDS = 2  # of Newton's iteration below: within 3e-5 of the transmission, whatever the slope
STEEPEST = 0.45  # bound of |k|


@dataclass(frozen=True)
class ShadowField:
    """offset: B (3, H, W); slope: k (3,) within +-STEEPEST; pivot: mu (3,)."""

    offset: Tensor
    slope: Tensor
    pivot: Tensor

    def umbra_gain(self, dark: Tensor) -> Tensor:
        """F >= 0 of pixels in full shadow, from their logarithmic light (3, H, W)."""
        slope, pivot = self.slope[:, None, None], self.pivot[:, None, None]
        return (self.offset + slope * (dark - pivot)).clamp_min(0)

    def gain(self, lit: Tensor) -> Tensor:
        """F >= 0 from the logarithmic light (3, H, W) that the pixels have without the shadow.

        A pixel of light l in full shadow has l + F(l) without it; this solves for F.
        """
        slope, pivot = self.slope[:, None, None], self.pivot[:, None, None]
        return ((self.offset + slope * (lit - pivot)) / (1 + slope)).clamp_min(0)

    def transmission(self, light: Tensor, matte: Tensor) -> Tensor:
        """T in (0, 1], (3, H, W): the share of light that arrives, for an image and its matte (H, W).

        F belongs to the pixel's light without the shadow, light / T, which holds F itself.
        """
        slope = (self.slope / (1 + self.slope))[:, None, None]
        gain = self.umbra_gain(log_light(light))
        for _ in range(_ROUNDS):
            blocked = matte * torch.exp(-gain)
            through = 1 - matte + blocked
            lit = light / through
            told = self.gain(log_light(lit))
            change = slope * blocked / through * lit / (lit + DARK)
            gain = gain + (told - gain) / (1 - change)
        return 1 - matte * (1 - torch.exp(-gain))

    def grey(self) -> ShadowField:
        """The channels' mean, one channel that stands for any number: it keeps a grey image grey."""
        parts = (self.offset, self.slope, self.pivot)
        return ShadowField(*(part.mean(dim=0, keepdim=True) for part in parts))

    def resized(self, size: tuple[int, int]) -> ShadowField:
        """The same field over an image of another size (height, width)."""
        offset = F.interpolate(self.offset[None], size=size, mode="bilinear", align_corners=False)[0]
        return ShadowField(offset, self.slope, self.pivot)
