"""Operator: what was observed of an image x, as a linear map A with a pseudo-inverse.

Paper: Wang et al. 2022 (arXiv 2212.00490, DDNM) for the range / null-space view.
Contract: A A^+ A = A. Tensors are (B, C, H, W) in model space; nothing here draws random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Operator(Protocol):
    """y = A x for the observed part y; `pinv` maps y back to image space."""

    def forward(self, x: Tensor) -> Tensor: ...

    def pinv(self, y: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Mask:
    """Pixels are seen where keep = 1 and unseen where keep = 0. keep: (B, 1, H, W) or (B, C, H, W) float."""

    keep: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return self.keep * x

    def pinv(self, y: Tensor) -> Tensor:
        return self.keep * y


@dataclass(frozen=True)
class Identity:
    """The whole image is seen."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def pinv(self, y: Tensor) -> Tensor:
        return y


@dataclass(frozen=True)
class LowPass:
    """The mean of each block of factor x factor pixels is seen, and stands in all of the block's pixels.

    Blocks that the right or lower border cuts are smaller, so any size will do. An orthogonal projection:
    it is its own pseudo-inverse.
    """

    factor: int

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        means = F.avg_pool2d(x, self.factor, ceil_mode=True)
        blocks = means.repeat_interleave(self.factor, dim=-2).repeat_interleave(self.factor, dim=-1)
        return blocks[..., :height, :width]

    def pinv(self, y: Tensor) -> Tensor:
        return self.forward(y)


@dataclass(frozen=True)
class Shade:
    """A shadow lies on the image: of each pixel's light the share `transmission` arrives.

    transmission: T in (0, 1], (B, C, H, W). variance: of the light observed, how far T may be wrong included;
    (B, 1, H, W) or (B, C, H, W), 0 = exact, inf = tells nothing. to_light, from_light: model space to linear
    light and back; observation and image are both in model space.
    """

    transmission: Tensor
    variance: Tensor
    to_light: Callable[[Tensor], Tensor]
    from_light: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        return self.from_light(self.transmission * self.to_light(x))

    def pinv(self, y: Tensor) -> Tensor:
        return self.from_light(self.to_light(y) / self.transmission)

    def posterior_mean(self, x0: Tensor, y: Tensor, variance: float) -> Tensor:
        """The image's mean given y, where its light is N(that of x0, variance) before y is seen.

        In light (T y + gamma x0) / (T^2 + gamma), gamma = own variance / `variance`: Wiener's filter, the
        data consistency of ShadowDiffusion (Guo et al. 2023, arXiv 2212.04711) with a gamma per pixel.
        """
        power = self.transmission**2
        seen = power / (power + self.variance / max(variance, 1e-12))  # in [0, 1]; 0 where blind
        return self.from_light(torch.lerp(self.to_light(x0), self.to_light(y) / self.transmission, seen))


@dataclass(frozen=True)
class Nothing:
    """Nothing is seen: plain generation."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def pinv(self, y: Tensor) -> Tensor:
        return torch.zeros_like(y)


def replace_range(operator: Operator, x: Tensor, y: Tensor) -> Tensor:
    """x with its observed part replaced by y: A^+ y + (1 - A^+ A) x (DDNM eq. 10). For a mask: keep y, else
    x.

    y is taken through A first, so a full image serves as well as an observation.
    """
    return operator.pinv(operator.forward(y)) + (x - operator.pinv(operator.forward(x)))
