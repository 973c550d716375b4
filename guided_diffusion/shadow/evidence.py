"""Evidence that a dark region is a shadow: what faces each other across its edge.

A shadow takes nearly the same share of light all along its edge (Guo et al. 2013), from red at least about as
much as from blue (the sky still lights it); once that is given back the edge is gone (Finlayson et al. 2006)
and nothing is brighter than lit ground. A dark material or a gap fails at least one of these.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.shadow.edge_pairs import edge_pairs
from guided_diffusion.shadow.light import blur
from guided_diffusion.shadow.relight import signed_distance

SMALLEST = 60  # pixels of a region that is worth looking at
_FEWEST = 8  # pairs, and pixels of a region's core, that tell anything
_CORE = 2.5  # pixels from the edge
_BAND, _FAR, _FARTHEST = 6.0, 8.0, 14.0  # pixels from the edge: the edge itself, and ground to compare with
_ROUGHEST = 0.8  # of the edge's contrast is the ground's at most
_WIDTHS, _SHIFTS = (0.7, 1.5, 3.0), (-3.0, -1.5, 0.0, 1.5, 3.0)  # pixels: penumbrae tried
_BRIGHTEST, _MARGIN = 0.99, 0.1  # share of the lit pixels, and log light added to it, above which is glare


@dataclass(frozen=True)
class Evidence:
    """Of one region. gain: log of the light it lacks, mean over channels; spread: of the gain along the edge,
    as a share of it; tint: how much more red than blue it lacks, in logs; pairs: for each pixel of the edge;
    left: of the edge's contrast beyond the ground's own, when the light is given back (1 = all, 0 = none);
    glare: share of the region that is then brighter than nearly all that is lit.
    """

    gain: float
    spread: float
    tint: float
    pairs: float
    left: float
    glare: float

    @property
    def convinces(self) -> bool:
        """Whether this is a shadow; bounds were set on procedural images (docs/reports/detection.md)."""
        one_light = self.gain > 0.15 and self.spread < 0.8 and self.tint > -0.25
        return one_light and self.pairs > 0.2 and self.left < 0.6 and self.glare < 0.1

    @property
    def is_certain(self) -> bool:
        """Whether this is a shadow even where another was just lifted, which leaves false edges. Every real
        shadow measured had a gain of 0.4 and more."""
        return self.convinces and self.gain > 0.35 and self.spread < 0.6 and self.left < 0.4


def shadows_among(log: Tensor, dark: Tensor, certain: bool = False) -> Tensor:
    """The regions, bool (H, W), of the mask `dark` (H, W) that convince, from logarithmic light (3, H, W);
    certain: those beyond doubt alone."""
    kept = torch.zeros_like(dark)
    for region, evidence in weigh(log, dark):
        if evidence is not None and (evidence.is_certain if certain else evidence.convinces):
            kept |= region
    return kept


def weigh(log: Tensor, dark: Tensor) -> list[tuple[Tensor, Evidence | None]]:
    """Each connected region (H, W) of SMALLEST pixels or more with its evidence; None: too little to tell."""
    distance = signed_distance(dark.numpy(), _FARTHEST + 1)
    lit = log.mean(0)[distance < -_CORE]
    if not dark.any() or not len(lit):
        return []
    bright = float(torch.quantile(lit, _BRIGHTEST)) + _MARGIN
    label, across, pairs = components(dark), _direction(distance), edge_pairs(log, distance)
    at = pairs.place.long()
    belongs = label[at[:, 0], at[:, 1]]
    numbers, sizes = torch.unique(label[dark], return_counts=True)
    found: list[tuple[Tensor, Evidence | None]] = []
    for number in numbers[sizes >= SMALLEST]:
        region, gains = label == number, pairs.gain[belongs == number]
        core = log.mean(0)[region & (distance > _CORE)]
        if min(len(gains), len(core)) < _FEWEST:
            found.append((region, None))
            continue
        gain, means = gains.median(0).values, gains.mean(1)
        spread = 1.4826 * (means - means.median()).abs().median() / gain.mean().clamp_min(1e-3)
        evidence = Evidence(
            gain=float(gain.mean()),
            spread=float(spread),
            tint=float(gain[0] - gain[2]),
            pairs=len(gains) / int((region & (distance < 1)).sum()),
            left=_edge_left(log, region, distance, across, gain),
            glare=float((core + gain.mean() > bright).float().mean()),
        )
        found.append((region, evidence))
    return found


def components(mask: Tensor) -> Tensor:
    """Numbers > 0, int64 (H, W), equal within each 8-connected region of a mask (H, W); 0 outside."""
    label = torch.arange(1, mask.numel() + 1).reshape(mask.shape) * mask
    while True:
        grown = F.max_pool2d(label[None].float(), 3, 1, 1)[0].long() * mask  # exact below 2^24
        jumped = torch.where(mask, grown.maximum(grown.flatten()[(grown - 1).clamp_min(0)]), 0)
        if torch.equal(jumped, label):
            return label
        label = jumped


def _direction(distance: Tensor) -> Tensor:
    """Unit vectors (2, H, W) across the edge."""
    slope = torch.stack(torch.gradient(blur(distance, 1.5)))
    return slope / (slope.square().sum(0).sqrt() + 1e-6)


def _edge_left(log: Tensor, region: Tensor, distance: Tensor, across: Tensor, gain: Tensor) -> float:
    """`Evidence.left`: for the penumbra that leaves least."""
    reach = int(_FARTHEST)
    near = F.max_pool2d(region[None].float(), 2 * reach + 1, 1, reach)[0] > 0
    rows, columns = (torch.nonzero(near.any(axis))[[0, -1], 0].tolist() for axis in (1, 0))
    box = (..., slice(rows[0], rows[1] + 1), slice(columns[0], columns[1] + 1))
    log, distance, across, near = log[box], distance[box], across[box], near[box]
    away = distance.abs()
    band, far = near & (away < _BAND), near & (away > _FAR) & (away < _FARTHEST)
    before = _steepness(log, across)
    whole = before[band].mean()
    ground = before[far].mean().clamp(max=_ROUGHEST * whole) if far.any() else 0 * whole
    after = [
        _steepness(log + torch.special.ndtr((distance - shift) / width) * gain[:, None, None], across)[band]
        for width in _WIDTHS
        for shift in _SHIFTS
    ]
    least = torch.stack([steep.mean() for steep in after]).min()
    return float((least - ground) / (whole - ground).clamp_min(1e-6))


def _steepness(log: Tensor, across: Tensor) -> Tensor:
    """Mean size (H, W) of the change of log (3, H, W) across the edge, per pixel."""
    down, right = torch.gradient(blur(log, 0.8), dim=(1, 2))
    return (down * across[0] + right * across[1]).abs().mean(0)
