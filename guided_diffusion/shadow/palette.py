"""Palette: the colours of the lit part of an image, which relit pixels should have too.

It is a density of logarithmic colour, weighted towards the shadow's surroundings. It is flattened, since a
colour's area there says little about its area in the shadow. A relit region is scored by the mean log density
of its pixels. A gain that takes every material to a colour of the scene scores best, whether or not like
materials meet at the edge. (Matching by colour transfer: Reinhard et al. 2001; here for mixed materials.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Axes: mean of the log channels, red - green, blue - green.
AXES = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [1.0, -1.0, 0.0], [0.0, -1.0, 1.0]])
# The constants below were chosen by experiment: docs/reports/shadow.md.
_LOW, _HIGH = torch.tensor([-6.3, -2.2, -2.2]), torch.tensor([0.3, 2.2, 2.2])
_BINS = (66, 88, 88)
_WIDTHS = (1.2, 1.0, 1.0)  # standard deviations of the kernel, in bins: 0.12 and 0.05 in log light
_SCALES = ((0.87, 0.6), (3.0, 0.3), (8.0, 0.1))  # kernels: multiple of _WIDTHS, share
_FLATTEN = 0.5  # power to which counts are raised
_NEAR = 40.0  # pixels over which the weight of lit pixels falls
_FAR = 0.05  # weight that remains
_TAIL = 0.3  # density that any colour has


@dataclass(frozen=True)
class Palette:
    """A density of logarithmic colours."""

    density: Tensor
    """Logarithm of the density over `_BINS`, (1, 1, luminance, r - g, b - g)."""

    @classmethod
    def measure(cls, log: Tensor, distance: Tensor, gap: float) -> Palette:
        """Measure the colours of an image's lit part.

        Args:
            log: logarithmic light (3, H, W).
            distance: to the shadow, pixels, negative outside, (H, W).
            gap: pixels; what is nearer to the shadow is left out.
        """
        lit = distance < -gap
        weight = torch.exp(-(-distance[lit] - gap) / _NEAR) + _FAR
        colours = (AXES @ log[:, lit]).T.clamp(_LOW, _HIGH)
        bounds = list(zip(_LOW.tolist(), _HIGH.tolist(), strict=True))
        histogram, _ = np.histogramdd(colours.numpy(), _BINS, bounds, weights=weight.numpy())
        counts = torch.from_numpy(histogram).float()
        counts = _smooth(counts / counts.sum().clamp_min(1e-9), 0.5) ** _FLATTEN
        counts = counts / counts.sum().clamp_min(1e-9)
        volume = torch.stack([share * _smooth(counts, scale) for scale, share in _SCALES]).sum(dim=0)
        cell = ((_HIGH - _LOW) / torch.tensor(_BINS)).prod()
        return cls(torch.log(volume / cell + 1e-4)[None, None])

    def score(self, log: Tensor) -> Tensor:
        """Score the colours (C, N, 3) of C candidates: mean over N of log(density + tail), (C,)."""
        at = ((log @ AXES.T - _LOW) / (_HIGH - _LOW) * 2 - 1).flip(-1)
        grid = at.reshape(1, -1, 1, 1, 3)
        values = F.grid_sample(self.density, grid, align_corners=False, padding_mode="border")
        return torch.log(torch.exp(values.reshape(log.shape[:2])) + _TAIL).mean(dim=1)


def _smooth(volume: Tensor, scale: float) -> Tensor:
    """Blur along the three axes by a Gaussian of `scale` times _WIDTHS."""
    for axis, width in enumerate(_WIDTHS):
        sigma = scale * width
        reach = max(1, int(4 * sigma + 0.5))
        kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
        bins = F.pad(torch.eye(volume.shape[axis])[:, None], (reach, reach), mode="replicate")
        spread = F.conv1d(bins, (kernel / kernel.sum())[None, None])[:, 0]  # where each bin's count goes
        volume = (volume.movedim(axis, -1) @ spread).movedim(-1, axis)
    return volume
