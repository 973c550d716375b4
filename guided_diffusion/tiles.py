"""A denoiser for pictures larger than the ones its network was trained on: overlapping windows, blended.

Paper: Bar-Tal et al. 2023, "MultiDiffusion" (arXiv 2302.08113), section 4: at each step the windows' answers
are averaged. Where we differ: a window's weight falls towards its border, so that no seam is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from guided_diffusion.denoiser import Denoise, DenoiseGiven, Prediction

Cut = Callable[[Tensor], Tensor]  # (B, C, H, W) -> some of its windows, (windows * B, C, size, size)


@dataclass(frozen=True)
class Tiled:
    """`denoise` on windows of size x size pixels, at most `stride` apart; it is again a Denoise.

    where: bool (H, W), or None for the whole picture. Windows without such a pixel are left out; where none
    is left, x0 is 0. at_once: windows that `denoise` sees together. Raises ValueError for a stride beyond the
    size, which would leave gaps.
    """

    denoise: Denoise
    size: int
    stride: int
    where: Tensor | None = None
    at_once: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.stride <= self.size:
            raise ValueError(f"stride {self.stride} is not within 1 and the window's size {self.size}")

    def __call__(self, x: Tensor, t: int) -> Prediction:
        """x (B, C, H, W), both sides at least `size`."""
        return self._blended(x, lambda cut: self.denoise(cut(x), t))

    def given(self, x: Tensor, t: int, known: Tensor) -> Prediction:
        """As DenoiseGiven, which `denoise` must be."""
        denoise = self.denoise
        assert isinstance(denoise, DenoiseGiven)
        return self._blended(x, lambda cut: denoise.given(cut(x), t, cut(known)))

    def _blended(self, x: Tensor, predict: Callable[[Cut], Prediction]) -> Prediction:
        size, at_once = self.size, max(1, self.at_once // len(x))
        corners, weight = self.corners(*x.shape[-2:]), _tent(self.size).to(x)
        total = x.new_zeros(len(x), 3 * x.shape[1], *x.shape[-2:])
        cover = x.new_zeros(x.shape[-2:])
        for first in range(0, len(corners), at_once):
            some = [(..., slice(i, i + size), slice(j, j + size)) for i, j in corners[first:][:at_once]]
            told = _stacked(predict(partial(_windows, some)))
            if told.shape[1] > total.shape[1]:  # guided: there is a score too
                total = x.new_zeros(len(x), *told.shape[1:2], *x.shape[-2:])
            for at, one in zip(some, told.split(len(x)), strict=True):
                total[at] += weight * one
                cover[at[1:]] += weight
        return Prediction(*(total / cover.clamp_min(1e-12)).split(x.shape[1], dim=1))

    def corners(self, height: int, width: int) -> list[tuple[int, int]]:
        """Top and left of each window."""
        rows, columns = (_starts(side, self.size, self.stride) for side in (height, width))
        windows = product(rows, columns)
        if self.where is None:
            return list(windows)
        return [(i, j) for i, j in windows if self.where[i : i + self.size, j : j + self.size].any()]


def _windows(places: Sequence[tuple[Any, ...]], plane: Tensor) -> Tensor:
    return torch.cat([plane[at] for at in places])


def _stacked(p: Prediction) -> Tensor:
    """All that it says, (B, 3C or 4C, H, W)."""
    return torch.cat([p.x0, p.eps, p.log_variance, *([] if p.score is None else [p.score])], dim=1)


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
