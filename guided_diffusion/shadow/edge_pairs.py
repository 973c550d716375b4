"""Pairs of pixels that face each other across a shadow's edge: the same ground, mostly, dark and lit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guided_diffusion.shadow.light import blur, local_mean

DEPTHS = (4, 6, 8, 11, 14)  # pixels from the edge, on both sides
_STEP = 2  # every second pixel along the edge
_MOST = 1500


@dataclass(frozen=True)
class Pairs:
    """Logarithmic light of N pairs: dark (N, 3) in the shadow, lit (N, 3) across the edge, and the place of
    the edge between them, row and column (N, 2)."""

    dark: Tensor
    lit: Tensor
    place: Tensor

    @property
    def gain(self) -> Tensor:
        """(N, 3): what the shadow takes, if both are of one material."""
        return self.lit - self.dark

    def __len__(self) -> int:
        return len(self.dark)

    def at_most(self, number: int) -> Pairs:
        """So many of them, evenly chosen."""
        some = spread_out(len(self), number)
        return Pairs(self.dark[some], self.lit[some], self.place[some])


def edge_pairs(log: Tensor, distance: Tensor) -> Pairs:
    """Pairs from the logarithmic light (3, H, W) and the distance (H, W) to the edge, positive in the shadow.

    From every second edge pixel a line is followed up and down the distance; a pair counts only where it
    truly led away from the edge (thin shadows and corners give none). At most 1500, evenly chosen.
    """
    soft = local_mean(log, torch.ones_like(distance), 1.2)
    down, right = torch.gradient(blur(distance, 2.0))
    length = torch.hypot(down, right) + 1e-6
    rows, columns = torch.nonzero((distance > 0) & (distance < 0.75), as_tuple=True)
    edge = torch.stack([rows, columns], dim=1)[::_STEP]
    normal = torch.stack([down / length, right / length])[:, edge[:, 0], edge[:, 1]].T
    dark, lit, place = [], [], []
    for depth in DEPTHS:
        ends = [torch.round(edge + sign * depth * normal).long() for sign in (1, -1)]
        whole = _within(ends[0], distance) & _within(ends[1], distance)
        inside, outside = (end[whole] for end in ends)
        apart = (distance[inside.unbind(1)] > 0.6 * depth) & (distance[outside.unbind(1)] < -0.6 * depth)
        dark.append(soft[:, inside[apart, 0], inside[apart, 1]].T)
        lit.append(soft[:, outside[apart, 0], outside[apart, 1]].T)
        place.append(edge[whole][apart].float())
    return Pairs(torch.cat(dark), torch.cat(lit), torch.cat(place)).at_most(_MOST)


def spread_out(total: int, most: int) -> Tensor:
    """Indices of at most `most` of `total` things, evenly spaced."""
    return torch.linspace(0, max(total - 1, 0), min(total, most)).round().long()


def _within(at: Tensor, plane: Tensor) -> Tensor:
    return ((at >= 0) & (at < torch.tensor(plane.shape))).all(dim=1)
