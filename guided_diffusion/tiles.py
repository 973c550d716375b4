"""A denoiser for pictures larger than the ones its network was trained on: overlapping windows, blended.

Paper: Bar-Tal et al. 2023, "MultiDiffusion" (arXiv 2302.08113), section 4: at each step the windows' answers
are averaged. Where we differ: a window's weight falls towards its border, so that no seam is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from guided_diffusion.denoiser import Denoise, Prediction

_BATCH = 16  # windows at once


@dataclass(frozen=True)
class Tiled:
    """`denoise` on windows of size x size pixels, at most `stride` apart; it is again a Denoise.

    where: bool (H, W), or None for the whole picture. Windows without such a pixel are left out; where none
    is left, x0 is 0. Raises ValueError for a stride beyond the size, which would leave gaps.
    """

    denoise: Denoise
    size: int
    stride: int
    where: Tensor | None = None

    def __post_init__(self) -> None:
        if not 0 < self.stride <= self.size:
            raise ValueError(f"stride {self.stride} is not within 1 and the window's size {self.size}")

    def __call__(self, x: Tensor, t: int) -> Prediction:
        """x (B, C, H, W), both sides at least `size`."""
        size, at_once = self.size, max(1, _BATCH // len(x))
        corners, weight = self.corners(*x.shape[-2:]), _tent(self.size).to(x)
        total = x.new_zeros(len(x), 3 * x.shape[1], *x.shape[-2:])
        cover = x.new_zeros(x.shape[-2:])
        for first in range(0, len(corners), at_once):
            some = corners[first : first + at_once]
            p = self.denoise(torch.cat([x[..., i : i + size, j : j + size] for i, j in some]), t)
            told = torch.cat([p.x0, p.eps, p.log_variance], dim=1)
            for (i, j), one in zip(some, told.split(len(x)), strict=True):
                total[..., i : i + size, j : j + size] += weight * one
                cover[i : i + size, j : j + size] += weight
        return Prediction(*(total / cover.clamp_min(1e-12)).chunk(3, dim=1))

    def corners(self, height: int, width: int) -> list[tuple[int, int]]:
        """Top and left of each window."""
        rows, columns = (_starts(side, self.size, self.stride) for side in (height, width))
        windows = product(rows, columns)
        if self.where is None:
            return list(windows)
        return [(i, j) for i, j in windows if self.where[i : i + self.size, j : j + self.size].any()]


def _tent(size: int) -> Tensor:
    """Weights (size, size), positive, that fall from the middle to the border."""
    line = torch.arange(1.0, size + 1)
    tent = torch.minimum(line, line.flip(0)) / size
    return tent[:, None] * tent


def _starts(length: int, size: int, stride: int) -> list[int]:
    """Starts of windows that cover 0..length; the last one ends there."""
    if length < size:
        raise ValueError(
            f"a side of {length} pixels is shorter than the window of {size}; enlarge the picture"
        )
    return [*range(0, length - size, stride), length - size]
