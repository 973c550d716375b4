"""A denoiser for images larger than the ones its network was trained on: overlapping windows, blended.

Paper: Bar-Tal et al. 2023, "MultiDiffusion" (arXiv 2302.08113), section 4: at each step the predictions
of the windows are averaged. Where we differ: a window's weight falls towards its border, so no seam is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from types import EllipsisType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from guided_diffusion.denoiser import Denoise, Prediction

Region = tuple[EllipsisType, slice, slice]  # an index that cuts a window out of (..., H, W)


class Layout(NamedTuple):
    """The windows of one image size; the same at every step."""

    regions: list[Region]
    weight: Tensor
    """(size, size), of a window's pixels."""
    total: Tensor
    """(H, W), the sum of the windows' weights."""


@dataclass(frozen=True)
class TiledDenoiser:
    """`denoise` on overlapping windows; it is again a Denoise."""

    denoise: Denoise
    size: int
    """Side of a window, in model pixels."""
    stride: int
    """Largest distance between the starts of two neighbouring windows, in model pixels; at most `size`."""
    region: Tensor | None = None
    """bool (H, W), where predictions are wanted; None: everywhere. Elsewhere x0 may be 0."""
    batch_size: int = 16
    """Windows that `denoise` is given together."""
    layouts: dict[Any, Layout] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.stride <= self.size:
            raise ValueError(f"stride {self.stride} is not within 1 and the window's size {self.size}")

    def __call__(self, x: Tensor, t: int, clean: Tensor | None = None) -> Prediction:
        """Predict from x (B, C, H, W), both sides at least `size`; see Denoise."""
        layout = self._layout(x)
        step = max(1, self.batch_size // len(x))
        total = x.new_zeros(len(x), 3 * x.shape[1], *x.shape[-2:])
        for first in range(0, len(layout.regions), step):
            regions = layout.regions[first:][:step]
            known = None if clean is None else _cut(regions, clean)
            planes = _stack(self.denoise(_cut(regions, x), t, known))
            if planes.shape[1] > total.shape[1]:  # guided: there is a score too
                total = x.new_zeros(len(x), *planes.shape[1:2], *x.shape[-2:])
            for region, window in zip(regions, planes.split(len(x)), strict=True):
                total[region] += layout.weight * window
        return Prediction(*(total / layout.total).split(x.shape[1], dim=1))

    def _layout(self, x: Tensor) -> Layout:
        """Windows and weights for x's shape, on x's device; computed once."""
        key = x.shape[-2:], x.dtype, x.device
        if key not in self.layouts:
            size, weight = self.size, _tent(self.size, x)
            regions: list[Region] = [
                (..., slice(i, i + size), slice(j, j + size)) for i, j in self.corners(*x.shape[-2:])
            ]
            total = x.new_zeros(x.shape[-2:])
            for region in regions:
                total[region] += weight
            self.layouts[key] = Layout(regions, weight, total.clamp_min(1e-12))
        return self.layouts[key]

    def corners(self, height: int, width: int) -> list[tuple[int, int]]:
        """Top and left of each window that holds a pixel of the region."""
        rows, columns = (_starts(side, self.size, self.stride) for side in (height, width))
        windows = product(rows, columns)
        if self.region is None:
            return list(windows)
        return [(i, j) for i, j in windows if self.region[i : i + self.size, j : j + self.size].any()]


def _cut(regions: Sequence[Region], plane: Tensor) -> Tensor:
    """The windows of (B, C, H, W), one after the other: (windows * B, C, size, size)."""
    return torch.cat([plane[region] for region in regions])


def _stack(p: Prediction) -> Tensor:
    """The fields of a prediction as channels, (B, 3C or 4C, H, W)."""
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
