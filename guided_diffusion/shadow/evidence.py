"""Evidence that a dark region is a shadow, from the pixels on both sides of its edge.

A shadow takes nearly the same share of light all along its edge (Guo et al. 2013), from red at least about as
much as from blue, since the sky still lights it. Once that light is given back the edge is gone (Finlayson et
al. 2006) and nothing is brighter than lit ground. A dark material or a gap fails at least one of these tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.inpainting.connected_components import find_holes
from guided_diffusion.shadow.edge_pairs import find_edge_pairs
from guided_diffusion.shadow.light import blur
from guided_diffusion.shadow.relight import signed_distance

# The constants and the bounds in Evidence were chosen by experiment: docs/reports/detection.md.
MIN_REGION = 60  # pixels of a region that is examined
_MIN_SAMPLES = 8  # pairs, and pixels of a region's core, without which nothing is decided
_CORE = 2.5  # pixels from the edge
_BAND, _FAR, _FARTHEST = 6.0, 8.0, 14.0  # pixels from the edge: the edge itself, and ground to compare with
_MAX_ROUGHNESS = 0.8  # share of the edge's contrast that is put down to the ground at most
_WIDTHS, _SHIFTS = (0.7, 1.5, 3.0), (-3.0, -1.5, 0.0, 1.5, 3.0)  # pixels: penumbrae tried
_BRIGHTEST, _MARGIN = 0.99, 0.1  # share of the lit pixels, and log light added to it, above which is glare


@dataclass(frozen=True)
class Evidence:
    """Measurements of one region."""

    gain: float
    """Log of the light that the region lacks, mean over channels."""
    spread: float
    """Spread of the gain along the edge, as a share of the gain."""
    tint: float
    """How much more red than blue the region lacks, in logs."""
    pairs: float
    """Pairs across the edge per pixel of the edge."""
    edge_left: float
    """Share of the edge's contrast, beyond the ground's own, that is left once the light is given back:
    1 = all, 0 = none."""
    glare: float
    """Share of the region that is then brighter than nearly all lit ground."""

    @property
    def is_shadow(self) -> bool:
        """True if the region is a shadow; the bounds were set on procedural images."""
        same_light = self.gain > 0.15 and self.spread < 0.8 and self.tint > -0.25
        return same_light and self.pairs > 0.2 and self.edge_left < 0.6 and self.glare < 0.1

    @property
    def is_certain(self) -> bool:
        """True if the region is a shadow even where another was just removed, which leaves false edges.

        Every real shadow measured had a gain of 0.4 and more.
        """
        return self.is_shadow and self.gain > 0.35 and self.spread < 0.6 and self.edge_left < 0.4


def select_shadows(log: Tensor, dark: Tensor, certain: bool = False) -> Tensor:
    """Keep the regions of a mask that are shadows, bool (H, W).

    Args:
        log: logarithmic light (3, H, W).
        dark: mask of the candidates, bool (H, W).
        certain: whether to keep only regions beyond doubt.
    """
    shadows = torch.zeros_like(dark)
    for region, evidence in examine_regions(log, dark):
        if evidence is not None and (evidence.is_certain if certain else evidence.is_shadow):
            shadows |= region
    return shadows


def examine_regions(log: Tensor, dark: Tensor) -> list[tuple[Tensor, Evidence | None]]:
    """Measure each connected region, bool (H, W), of MIN_REGION pixels or more.

    The evidence is None where there is too little to measure.

    Args:
        log: logarithmic light (3, H, W).
        dark: mask of the candidates, bool (H, W).
    """
    distance = signed_distance(dark.numpy(), _FARTHEST + 1)
    lit = log.mean(0)[distance < -_CORE]
    if not dark.any() or not len(lit):
        return []
    bright = float(torch.quantile(lit, _BRIGHTEST)) + _MARGIN
    label, normals, pairs = label_regions(dark), _edge_normals(distance), find_edge_pairs(log, distance)
    at = pairs.position.long()
    pair_label = label[at[:, 0], at[:, 1]]
    numbers, sizes = torch.unique(label[dark], return_counts=True)
    examined: list[tuple[Tensor, Evidence | None]] = []
    for number in numbers[sizes >= MIN_REGION]:
        region, gains = label == number, pairs.gain[pair_label == number]
        core = log.mean(0)[region & (distance > _CORE)]
        if min(len(gains), len(core)) < _MIN_SAMPLES:
            examined.append((region, None))
            continue
        gain, means = gains.median(0).values, gains.mean(1)
        spread = 1.4826 * (means - means.median()).abs().median() / gain.mean().clamp_min(1e-3)
        evidence = Evidence(
            gain=float(gain.mean()),
            spread=float(spread),
            tint=float(gain[0] - gain[2]),
            pairs=len(gains) / int((region & (distance < 1)).sum()),
            edge_left=_measure_edge_left(log, region, distance, normals, gain),
            glare=float((core + gain.mean() > bright).float().mean()),
        )
        examined.append((region, evidence))
    return examined


def label_regions(mask: Tensor) -> Tensor:
    """Number the 8-connected regions of a mask, bool (H, W): int64 (H, W), from 1 on; 0 outside."""
    regions = find_holes(mask.numpy())
    row, start, stop = regions.runs.T
    step = np.zeros((mask.shape[0], mask.shape[1] + 1), dtype=np.int64)
    step[row, start], step[row, stop] = regions.of_run + 1, -regions.of_run - 1  # runs in a row never touch
    return torch.from_numpy(step[:, :-1].cumsum(axis=1))


def _edge_normals(distance: Tensor) -> Tensor:
    """Unit vectors (2, H, W) across the edge."""
    slope = torch.stack(torch.gradient(blur(distance, 1.5)))
    return slope / (slope.square().sum(0).sqrt() + 1e-6)


def _measure_edge_left(log: Tensor, region: Tensor, distance: Tensor, normals: Tensor, gain: Tensor) -> float:
    """Measure `Evidence.edge_left` under the penumbra that leaves the smallest edge."""
    reach = int(_FARTHEST)
    near = F.max_pool2d(region[None].float(), 2 * reach + 1, 1, reach)[0] > 0
    rows, columns = (torch.nonzero(near.any(axis))[[0, -1], 0].tolist() for axis in (1, 0))
    box = (..., slice(rows[0], rows[1] + 1), slice(columns[0], columns[1] + 1))
    log, distance, normals, near = log[box], distance[box], normals[box], near[box]
    away = distance.abs()
    band, far = near & (away < _BAND), near & (away > _FAR) & (away < _FARTHEST)
    before = _steepness(log, normals)
    whole = before[band].mean()
    ground = before[far].mean().clamp(max=_MAX_ROUGHNESS * whole) if far.any() else 0 * whole
    after = [
        _steepness(log + torch.special.ndtr((distance - shift) / width) * gain[:, None, None], normals)[band]
        for width in _WIDTHS
        for shift in _SHIFTS
    ]
    smallest = torch.stack([steep.mean() for steep in after]).min()
    return float((smallest - ground) / (whole - ground).clamp_min(1e-6))


def _steepness(log: Tensor, normals: Tensor) -> Tensor:
    """Absolute change of log (3, H, W) across the edge, per pixel, averaged over channels: (H, W)."""
    down, right = torch.gradient(blur(log, 0.8), dim=(1, 2))
    return (down * normals[0] + right * normals[1]).abs().mean(0)
