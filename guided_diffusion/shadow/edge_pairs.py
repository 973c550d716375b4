"""Pairs of pixels that face each other across a shadow's edge: mostly the same ground, dark and lit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guided_diffusion.shadow.light import blur, local_mean

# Chosen by experiment: docs/reports/shadow.md.
DEPTHS = (4, 6, 8, 11, 14)  # pixels from the edge, on both sides
_STEP = 2  # every second pixel along the edge
_MAX_PAIRS = 1500


@dataclass(frozen=True)
class EdgePairs:
    """N pairs of pixels, their light as logarithms."""

    dark: Tensor
    """Light of the pixel in the shadow, (N, 3)."""
    lit: Tensor
    """Light of the pixel across the edge, (N, 3)."""
    position: Tensor
    """Row and column of the edge between them, pixels, (N, 2)."""

    @property
    def gain(self) -> Tensor:
        """Log gain (N, 3) that removes the shadow, if both pixels show one material."""
        return self.lit - self.dark

    def __len__(self) -> int:
        return len(self.dark)

    def thin_out(self, limit: int) -> EdgePairs:
        """Return at most `limit` of the pairs, evenly chosen."""
        chosen = space_evenly(len(self), limit)
        return EdgePairs(self.dark[chosen], self.lit[chosen], self.position[chosen])


def find_edge_pairs(log: Tensor, distance: Tensor) -> EdgePairs:
    """Find at most 1500 pairs of pixels across a shadow's edge.

    From every second edge pixel a line is followed up and down the distance. A pair counts only where the
    line truly leads away from the edge: thin shadows and corners give none.

    Args:
        log: logarithmic light (3, H, W).
        distance: to the shadow's edge, pixels, positive in the shadow, (H, W).
    """
    soft = local_mean(log, torch.ones_like(distance), 1.2)
    down, right = torch.gradient(blur(distance, 2.0))
    length = torch.hypot(down, right) + 1e-6
    rows, columns = torch.nonzero((distance > 0) & (distance < 0.75), as_tuple=True)
    edge = torch.stack([rows, columns], dim=1)[::_STEP]
    normal = torch.stack([down / length, right / length])[:, edge[:, 0], edge[:, 1]].T
    dark, lit, position = [], [], []
    for depth in DEPTHS:
        ends = [torch.round(edge + sign * depth * normal).long() for sign in (1, -1)]
        whole = _inside_frame(ends[0], distance) & _inside_frame(ends[1], distance)
        inside, outside = (end[whole] for end in ends)
        apart = (distance[inside.unbind(1)] > 0.6 * depth) & (distance[outside.unbind(1)] < -0.6 * depth)
        dark.append(soft[:, inside[apart, 0], inside[apart, 1]].T)
        lit.append(soft[:, outside[apart, 0], outside[apart, 1]].T)
        position.append(edge[whole][apart].float())
    return EdgePairs(torch.cat(dark), torch.cat(lit), torch.cat(position)).thin_out(_MAX_PAIRS)


def space_evenly(total: int, limit: int) -> Tensor:
    """Return evenly spaced indices, int64, of at most `limit` of `total` items."""
    return torch.linspace(0, max(total - 1, 0), min(total, limit)).round().long()


def _inside_frame(at: Tensor, plane: Tensor) -> Tensor:
    return ((at >= 0) & (at < torch.tensor(plane.shape))).all(dim=1)
