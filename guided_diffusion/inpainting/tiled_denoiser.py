"""A denoiser for images larger than the ones its network was trained on: overlapping windows, blended.

Paper: Bar-Tal et al. 2023, "MultiDiffusion" (arXiv 2302.08113), section 4: at each step the windows' answers
are averaged. Where we differ: a window's weight falls towards its border, so that no seam is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from guided_diffusion.denoiser import Denoise, DenoiseGiven, Prediction

Cut = Callable[[Tensor], Tensor]  # (B, C, H, W) -> some of its windows, (windows * B, C, size, size)
Place = tuple[Any, slice, slice]  # an index that cuts a window out of (..., H, W)
Plan = tuple[list[Place], Tensor, Tensor]  # as `Tiled._plan` gives


@dataclass(frozen=True)
class Tiled:
    """`denoise` on windows of size x size pixels, at most `stride` apart; it is again a Denoise.

    where: bool (H, W), or None for the whole image. Windows without such a pixel are left out; where none
    is left, x0 is 0. at_once: windows that `denoise` sees together. Raises ValueError for a stride beyond the
    size, which would leave gaps.
    """

    denoise: Denoise
    size: int
    stride: int
    where: Tensor | None = None
    at_once: int = 16
    plans: dict[Any, Plan] = field(default_factory=dict, init=False, repr=False, compare=False)

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
        places, weight, cover = self._plan(x)
        at_once = max(1, self.at_once // len(x))
        total = x.new_zeros(len(x), 3 * x.shape[1], *x.shape[-2:])
        for first in range(0, len(places), at_once):
            some = places[first:][:at_once]
            told = _stacked(predict(partial(_windows, some)))
            if told.shape[1] > total.shape[1]:  # guided: there is a score too
                total = x.new_zeros(len(x), *told.shape[1:2], *x.shape[-2:])
            for at, one in zip(some, told.split(len(x)), strict=True):
                total[at] += weight * one
        return Prediction(*(total / cover).split(x.shape[1], dim=1))

    def _plan(self, x: Tensor) -> Plan:
        """What is the same at every step of a walk: places of the windows, their weights (size, size), and
        the sum of these over the image (H, W), made on x's device."""
        key = x.shape[-2:], x.dtype, x.device
        if key not in self.plans:
            size, weight = self.size, _tent(self.size, x)
            places = [(..., slice(i, i + size), slice(j, j + size)) for i, j in self.corners(*x.shape[-2:])]
            cover = x.new_zeros(x.shape[-2:])
            for at in places:
                cover[at] += weight
            self.plans[key] = places, weight, cover.clamp_min(1e-12)
        return self.plans[key]

    def corners(self, height: int, width: int) -> list[tuple[int, int]]:
        """Top and left of each window."""
        rows, columns = (_starts(side, self.size, self.stride) for side in (height, width))
        windows = product(rows, columns)
        if self.where is None:
            return list(windows)
        return [(i, j) for i, j in windows if self.where[i : i + self.size, j : j + self.size].any()]


def _windows(places: Sequence[Place], plane: Tensor) -> Tensor:
    return torch.cat([plane[at] for at in places])


def _stacked(p: Prediction) -> Tensor:
    """All that it says, (B, 3C or 4C, H, W)."""
    return torch.cat([p.x0, p.eps, p.log_variance, *([] if p.score is None else [p.score])], dim=1)


def _tent(size: int, like: Tensor) -> Tensor:
    """Weights (size, size), positive, that fall from the middle to the border; on the device of `like`."""
    line = torch.arange(1.0, size + 1, dtype=like.dtype, device=like.device)
    tent = torch.minimum(line, line.flip(0)) / size
    return tent[:, None] * tent


def _starts(length: int, size: int, stride: int) -> list[int]:
    """Starts of windows that cover 0..length; the last one ends there."""
    if length < size:
        raise ValueError(f"a side of {length} pixels is shorter than the window of {size}; enlarge the image")
    return [*range(0, length - size, stride), length - size]
