"""Fit a shadow's field: from pairs across its edge, and so that what leaves it has the scene's colours.

F = b + u(p) + k (log y - mu): b and k per channel, u a 4 x 4 grid of smooth changes (ambient light is not
the same everywhere). The sum of the palette's score, a robust likelihood of the pairs (some join unlike
materials) and priors is maximised by Adam from several starts at once, each the gain of one pair; the best
is kept.
The priors' figures are percentiles of real triplets (transmission, its colour, slope and spread).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.shadow.edge_pairs import Pairs, edge_pairs, spread_out
from guided_diffusion.shadow.field import STEEPEST, ShadowField
from guided_diffusion.shadow.light import local_mean
from guided_diffusion.shadow.palette import AXES, Palette

GAP = 3.0  # pixels on either side of the edge that may be penumbra: neither umbra nor lit
GRID = 4
_STARTS, _ROUNDS = 12, 50
_PIXELS, _PAIRS = 1500, 1000
_PALETTE_WEIGHT, _PRIOR_WEIGHT = 5.0, 1 / 8
_GAIN = torch.tensor([1.26, 0.19, -0.24]), torch.tensor([0.5, 0.15, 0.17])  # along AXES: mean, deviation
_SLOPE = -0.17, 0.08  # mean and deviation of k
_SLOPE_SPREAD = 0.05  # of k between channels
_GRID_SPREAD = torch.tensor([0.12, 0.04, 0.04])  # of u, along AXES
_PAIR_NOISE = torch.tensor([0.10, 0.04, 0.04])  # of a pair of one material, along AXES
_MISMATCH = 3e-3  # likelihood of any other pair


@dataclass(frozen=True)
class Observed:
    """What a fit looks at: palette; umbra pixels (N, 3), their grid weights (N, GRID^2); pairs and theirs."""

    palette: Palette
    umbra: Tensor
    umbra_weights: Tensor
    pairs: Pairs
    pair_weights: Tensor


def observe(log: Tensor, distance: Tensor) -> Observed:
    """From logarithmic light (3, H, W) and the distance (H, W) to the shadow's edge, positive inside."""
    soft = local_mean(log, torch.ones_like(distance), 0.7)
    within = distance > min(GAP, float(distance.max()) / 2)
    rows, columns = torch.nonzero(within, as_tuple=True)
    some = spread_out(len(rows), _PIXELS)
    place = torch.stack([rows[some], columns[some]], dim=1).float()
    pairs = edge_pairs(log, distance).at_most(_PAIRS)
    umbra = soft[:, rows[some], columns[some]].T
    size = distance.shape
    palette = Palette.of(soft, distance, GAP)
    return Observed(palette, umbra, grid_weights(place, size), pairs, grid_weights(pairs.place, size))


def grid_weights(place: Tensor, size: tuple[int, ...]) -> Tensor:
    """Weights (N, GRID^2) of the grid's nodes at rows and columns (N, 2): Gaussians that sum to 1."""
    centres = (torch.arange(GRID) + 0.5) / GRID
    nodes = torch.cartesian_prod(centres, centres)
    apart = ((place + 0.5) / torch.tensor(size))[:, None] - nodes
    return torch.softmax(-(apart**2).sum(dim=2) / (2 * (0.6 / GRID) ** 2), dim=1)


def fit_field(seen: Observed, size: tuple[int, int]) -> ShadowField:
    """The field over an image of `size` = (height, width). Needs umbra pixels; without pairs it starts
    from the priors' gain."""
    pivot = seen.umbra.mean(dim=0)
    b = _starts(seen)
    start = [b, torch.full_like(b, _SLOPE[0]), torch.zeros(len(b), GRID**2, 3)]
    b, k, u = _climbed(seen, pivot, start)
    with torch.no_grad():
        best = int(_log_posterior(seen, pivot, b, k, u).argmax())
        offset = b[best] + u[best].reshape(GRID, GRID, 3)
        return ShadowField(_spread(offset, size), k[best].clamp(-STEEPEST, STEEPEST), pivot)


def _climbed(seen: Observed, pivot: Tensor, parts: list[Tensor]) -> list[Tensor]:
    """b, k, u of all candidates after some rounds of Adam (Kingma & Ba 2015), with ever shorter steps.

    Written out, because torch.optim takes two seconds to load.
    """
    means, squares = ([torch.zeros_like(part) for part in parts] for _ in range(2))
    for step in range(_ROUNDS):
        rate = 0.06 * (1 - step / _ROUNDS) + 0.003
        with torch.enable_grad():
            free = [part.clone().requires_grad_() for part in parts]
            slopes = torch.autograd.grad(_log_posterior(seen, pivot, *free).sum(), free)
        means = [0.9 * m + 0.1 * slope for m, slope in zip(means, slopes, strict=True)]
        squares = [0.999 * s + 0.001 * slope**2 for s, slope in zip(squares, slopes, strict=True)]
        early = (1 - 0.999 ** (step + 1)) ** 0.5 / (1 - 0.9 ** (step + 1))
        steps = [early * m / (s.sqrt() + 1e-9) for m, s in zip(means, squares, strict=True)]
        parts = [part + rate * move for part, move in zip(parts, steps, strict=True)]
    return parts


def _starts(seen: Observed) -> Tensor:
    """Gains (S, 3) to start from: the median pair's, then those of pairs from weak to strong shadow."""
    if not len(seen.pairs):
        return torch.linalg.solve(AXES, _GAIN[0])[None].clone()
    gain = seen.pairs.gain
    order = gain.sum(dim=1).argsort()
    some = order[spread_out(len(order), _STARTS - 1)]
    return torch.cat([gain.median(dim=0).values[None], gain[some]])


def _log_posterior(seen: Observed, pivot: Tensor, b: Tensor, k: Tensor, u: Tensor) -> Tensor:
    """(S,) of S candidates b (S, 3), k (S, 3), u (S, GRID^2, 3)."""
    lit = seen.umbra + b[:, None] + k[:, None] * (seen.umbra - pivot) + seen.umbra_weights @ u
    return (
        _PALETTE_WEIGHT * seen.palette.score(lit)
        + _pairs_score(seen, pivot, b, k, u)
        - _PRIOR_WEIGHT * _distance_from_priors(b, k, u)
    )


def _pairs_score(seen: Observed, pivot: Tensor, b: Tensor, k: Tensor, u: Tensor) -> Tensor:
    if not len(seen.pairs):
        return b.new_zeros(len(b))
    told = b[:, None] + k[:, None] * (seen.pairs.dark - pivot) + seen.pair_weights @ u
    off = (((seen.pairs.gain - told) @ AXES.T) / _PAIR_NOISE).square().sum(dim=2)
    return torch.log(torch.exp(-0.5 * off.clamp_max(60)) + _MISMATCH).mean(dim=1)


def _distance_from_priors(b: Tensor, k: Tensor, u: Tensor) -> Tensor:
    gain = (((b @ AXES.T) - _GAIN[0]) / _GAIN[1]).square().sum(dim=1)
    slope = ((k - _SLOPE[0]) / _SLOPE[1]).square().sum(dim=1)
    alike = ((k - k.mean(dim=1, keepdim=True)) / _SLOPE_SPREAD).square().sum(dim=1)
    scaled = ((u @ AXES.T) / _GRID_SPREAD).reshape(-1, GRID, GRID, 3)
    size = 0.25 * scaled.square().sum(dim=(1, 2, 3))
    bent = 0.5 * sum(scaled.diff(dim=axis).square().sum(dim=(1, 2, 3)) for axis in (1, 2))
    return 0.5 * (gain + slope + alike + size + bent)


def _spread(offset: Tensor, size: tuple[int, int]) -> Tensor:
    """Node values (GRID, GRID, 3) over the image, (3, H, W): on a coarse lattice, then bicubic."""
    lattice = tuple(max(2, side // 8) for side in size)
    rows, columns = ((torch.arange(n) + 0.5) * side / n - 0.5 for n, side in zip(lattice, size, strict=True))
    weights = grid_weights(torch.cartesian_prod(rows, columns), size)
    coarse = (weights @ offset.reshape(-1, 3)).T.reshape(1, 3, *lattice)
    return F.interpolate(coarse, size=size, mode="bicubic", align_corners=False)[0]
