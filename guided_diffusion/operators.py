"""Operator: what was observed of an image x, as a map A with a pseudo-inverse.

Paper: Wang et al. 2022 (arXiv 2212.00490, DDNM) for the range / null-space view.
Contract: A A^+ A = A. Tensors are (B, C, H, W) in model space; nothing here draws random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor


class Operator:
    """y = A x. A subclass gives `forward` and `pinv`; the defaults are for exact linear observations."""

    observes: ClassVar[bool] = True
    """False where nothing is observed: y then holds no more than the shape."""

    @property
    def known(self) -> Tensor | None:
        """1 where y is the pixel itself, else 0: (B or 1, 1, H, W). None if no pixel is observed as such."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        """A x."""
        raise NotImplementedError

    def pinv(self, y: Tensor) -> Tensor:
        """A^+ y: the observation back in image space."""
        raise NotImplementedError

    def posterior_mean(self, x0: Tensor, y: Tensor, variance: float) -> Tensor:
        """E[x | y] for x ~ N(x0, variance); by default y is exact, so the variance does not matter."""
        return replace_range(self, x0, y)


@dataclass(frozen=True)
class Mask(Operator):
    """Observes the pixels where keep = 1."""

    keep: Tensor
    """(B, 1, H, W) or (B, C, H, W), float, 1 = observed, 0 = not."""

    @property
    def known(self) -> Tensor:
        return self.keep

    def forward(self, x: Tensor) -> Tensor:
        return self.keep * x

    def pinv(self, y: Tensor) -> Tensor:
        return self.keep * y


@dataclass(frozen=True)
class LowPass(Operator):
    """Observes the mean of each block of factor x factor pixels, repeated in all of the block's pixels.

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
class ShadowOperator(Operator):
    """Observes the image in shadow: each pixel's linear light is multiplied by the transmission."""

    transmission: Tensor
    """T, (B, C, H, W) in (0, 1]; 1 = lit."""
    variance: Tensor
    """Variance of the observed light, errors of T included: (B, 1, H, W) or (B, C, H, W); 0 = exact,
    inf = unknown."""
    to_light: Callable[[Tensor], Tensor]
    """From model space to linear light. Image and observation are both in model space."""
    from_light: Callable[[Tensor], Tensor]
    """From linear light to model space."""

    def forward(self, x: Tensor) -> Tensor:
        return self.from_light(self.transmission * self.to_light(x))

    def pinv(self, y: Tensor) -> Tensor:
        return self.from_light(self.to_light(y) / self.transmission)

    def posterior_mean(self, x0: Tensor, y: Tensor, variance: float) -> Tensor:
        """The mean given y, where the image's light is N(that of x0, variance) before y is observed.

        In light (T y + gamma x0) / (T^2 + gamma), gamma = self.variance / `variance`: the Wiener filter, the
        data consistency of ShadowDiffusion (Guo et al. 2023, arXiv 2212.04711) with a gamma per pixel.
        """
        power = self.transmission**2
        weight = power / (power + self.variance / max(variance, 1e-12))  # in [0, 1]; 0 where y is unknown
        return self.from_light(torch.lerp(self.to_light(x0), self.to_light(y) / self.transmission, weight))


@dataclass(frozen=True)
class NoObservation(Operator):
    """Observes nothing: plain generation."""

    observes = False

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def pinv(self, y: Tensor) -> Tensor:
        return torch.zeros_like(y)


def replace_range(operator: Operator, x: Tensor, y: Tensor) -> Tensor:
    """Replace the observed part of x by y: A^+ y + (1 - A^+ A) x (DDNM eq. 10).

    y is taken through A first, so a full image serves as well as an observation.
    """
    return operator.pinv(operator.forward(y)) + (x - operator.pinv(operator.forward(x)))
