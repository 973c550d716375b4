"""Fit a shadow's field from pairs across its edge and from the colours of the lit scene.

F = b + u(p) + k (log y - mu): b and k per channel, u a 4 x 4 grid of smooth changes, since ambient light is
not the same everywhere. The objective is the sum of three scores:

* the palette's: relit pixels should have colours that the lit scene has;
* a robust likelihood of the pairs, some of which join unlike materials;
* priors, whose figures are percentiles of real triplets (transmission, its colour, slope and spread).

Adam maximises it from several starts at once, each the gain of one pair. The best result wins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.shadow.edge_pairs import EdgePairs, find_edge_pairs, space_evenly
from guided_diffusion.shadow.field import STEEPEST, ShadowField
from guided_diffusion.shadow.light import local_mean
from guided_diffusion.shadow.palette import AXES, Palette

# Chosen by experiment: docs/reports/shadow.md, but for the priors, which were measured.
GAP = 3.0  # pixels on either side of the edge that may be penumbra: neither umbra nor lit
GRID = 4
_STARTS, _ROUNDS = 12, 50  # candidates, and Adam's steps
_PIXELS, _PAIRS = 1500, 1000  # the most that are drawn of an image
_PALETTE_WEIGHT, _PRIOR_WEIGHT = 5.0, 1 / 8
_GAIN = torch.tensor([1.26, 0.19, -0.24]), torch.tensor([0.5, 0.15, 0.17])  # along AXES: mean, deviation
_SLOPE = -0.17, 0.08  # mean and deviation of k
_SLOPE_SPREAD = 0.05  # deviation of k between channels
_GRID_SPREAD = torch.tensor([0.12, 0.04, 0.04])  # deviation of u, along AXES
_PAIR_NOISE = torch.tensor([0.10, 0.04, 0.04])  # deviation of a pair of one material, along AXES
_MISMATCH = 3e-3  # likelihood of any other pair
_MAX_SQUARE = 60  # squared deviations of a pair; beyond, exp(-x / 2) is far below _MISMATCH
_FIRST_RATE, _LAST_RATE = 0.06, 0.003  # Adam's step falls linearly from their sum towards the last
_NODE_SIGMA = 0.6  # standard deviation of a node's Gaussian, in nodes
_GRID_SIZE, _GRID_BEND = 0.25, 0.5  # weights of the grid's squares and of its differences


@dataclass(frozen=True)
class Observation:
    """The data of a fit."""

    palette: Palette
    """Colours of the lit scene."""
    umbra: Tensor
    """Logarithmic light of pixels in full shadow, (N, 3)."""
    umbra_weights: Tensor
    """Their grid weights, (N, GRID^2)."""
    pairs: EdgePairs
    """M pairs across the edge."""
    pair_weights: Tensor
    """Their grid weights, (M, GRID^2)."""


def observe(log: Tensor, distance: Tensor) -> Observation:
    """Collect what a fit needs.

    Args:
        log: logarithmic light (3, H, W).
        distance: to the shadow's edge, pixels, positive in the shadow, (H, W).
    """
    soft = local_mean(log, torch.ones_like(distance), 0.7)
    deep = distance > min(GAP, float(distance.max()) / 2)
    rows, columns = torch.nonzero(deep, as_tuple=True)
    sample = space_evenly(len(rows), _PIXELS)
    position = torch.stack([rows[sample], columns[sample]], dim=1).float()
    pairs = find_edge_pairs(log, distance).thin_out(_PAIRS)
    umbra = soft[:, rows[sample], columns[sample]].T
    size = distance.shape
    palette = Palette.measure(soft, distance, GAP)
    umbra_weights, pair_weights = grid_weights(position, size), grid_weights(pairs.position, size)
    return Observation(palette, umbra, umbra_weights, pairs, pair_weights)


def grid_weights(position: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return the weights (N, GRID^2) of the grid's nodes at rows and columns (N, 2): Gaussians, sum 1.

    Args:
        position: rows and columns of N pixels, (N, 2).
        size: (height, width) of the image, pixels.
    """
    centres = (torch.arange(GRID) + 0.5) / GRID
    nodes = torch.cartesian_prod(centres, centres)
    apart = ((position + 0.5) / torch.tensor(size))[:, None] - nodes
    return torch.softmax(-(apart**2).sum(dim=2) / (2 * (_NODE_SIGMA / GRID) ** 2), dim=1)


def fit_field(seen: Observation, size: tuple[int, int]) -> ShadowField:
    """Fit the field over an image of `size` = (height, width), pixels.

    At least one umbra pixel is needed. Without pairs the fit starts from the priors' gain.
    """
    pivot = seen.umbra.mean(dim=0)
    b = _choose_starts(seen)
    start = [b, torch.full_like(b, _SLOPE[0]), torch.zeros(len(b), GRID**2, 3)]
    b, k, u = _climb(seen, pivot, start)
    with torch.no_grad():
        best = int(_log_posterior(seen, pivot, b, k, u).argmax())
        offset = b[best] + u[best].reshape(GRID, GRID, 3)
        return ShadowField(_interpolate(offset, size), k[best].clamp(-STEEPEST, STEEPEST), pivot)


def _climb(seen: Observation, pivot: Tensor, parts: list[Tensor]) -> list[Tensor]:
    """Improve b, k, u of all candidates by Adam (Kingma & Ba 2015) with ever shorter steps.

    Written out, because torch.optim takes two seconds to load. The decay rates .9 and .999 are the paper's;
    1e-9 only keeps a step finite where no gradient has come yet.
    """
    means, squares = ([torch.zeros_like(part) for part in parts] for _ in range(2))
    for step in range(_ROUNDS):
        rate = _FIRST_RATE * (1 - step / _ROUNDS) + _LAST_RATE
        with torch.enable_grad():
            free = [part.clone().requires_grad_() for part in parts]
            slopes = torch.autograd.grad(_log_posterior(seen, pivot, *free).sum(), free)
        means = [0.9 * m + 0.1 * slope for m, slope in zip(means, slopes, strict=True)]
        squares = [0.999 * s + 0.001 * slope**2 for s, slope in zip(squares, slopes, strict=True)]
        early = (1 - 0.999 ** (step + 1)) ** 0.5 / (1 - 0.9 ** (step + 1))
        steps = [early * m / (s.sqrt() + 1e-9) for m, s in zip(means, squares, strict=True)]
        parts = [part + rate * move for part, move in zip(parts, steps, strict=True)]
    return parts


def _choose_starts(seen: Observation) -> Tensor:
    """Choose gains (S, 3) to start from: the median pair's, then those of pairs from weak to strong."""
    if not len(seen.pairs):
        return torch.linalg.solve(AXES, _GAIN[0])[None].clone()
    gain = seen.pairs.gain
    order = gain.sum(dim=1).argsort()
    chosen = order[space_evenly(len(order), _STARTS - 1)]
    return torch.cat([gain.median(dim=0).values[None], gain[chosen]])


def _log_posterior(seen: Observation, pivot: Tensor, b: Tensor, k: Tensor, u: Tensor) -> Tensor:
    """Score (S,) S candidates b (S, 3), k (S, 3), u (S, GRID^2, 3)."""
    lit = seen.umbra + b[:, None] + k[:, None] * (seen.umbra - pivot) + seen.umbra_weights @ u
    return (
        _PALETTE_WEIGHT * seen.palette.score(lit)
        + _score_pairs(seen, pivot, b, k, u)
        - _PRIOR_WEIGHT * _distance_from_priors(b, k, u)
    )


def _score_pairs(seen: Observation, pivot: Tensor, b: Tensor, k: Tensor, u: Tensor) -> Tensor:
    if not len(seen.pairs):
        return b.new_zeros(len(b))
    predicted = b[:, None] + k[:, None] * (seen.pairs.dark - pivot) + seen.pair_weights @ u
    off = (((seen.pairs.gain - predicted) @ AXES.T) / _PAIR_NOISE).square().sum(dim=2)
    return torch.log(torch.exp(-0.5 * off.clamp_max(_MAX_SQUARE)) + _MISMATCH).mean(dim=1)


def _distance_from_priors(b: Tensor, k: Tensor, u: Tensor) -> Tensor:
    gain = (((b @ AXES.T) - _GAIN[0]) / _GAIN[1]).square().sum(dim=1)
    slope = ((k - _SLOPE[0]) / _SLOPE[1]).square().sum(dim=1)
    alike = ((k - k.mean(dim=1, keepdim=True)) / _SLOPE_SPREAD).square().sum(dim=1)
    scaled = ((u @ AXES.T) / _GRID_SPREAD).reshape(-1, GRID, GRID, 3)
    size = _GRID_SIZE * scaled.square().sum(dim=(1, 2, 3))
    bent = _GRID_BEND * sum(scaled.diff(dim=axis).square().sum(dim=(1, 2, 3)) for axis in (1, 2))
    return 0.5 * (gain + slope + alike + size + bent)


def _interpolate(offset: Tensor, size: tuple[int, int]) -> Tensor:
    """Spread node values (GRID, GRID, 3) over the image, (3, H, W): on a coarse lattice, then bicubic."""
    lattice = tuple(max(2, side // 8) for side in size)
    rows, columns = ((torch.arange(n) + 0.5) * side / n - 0.5 for n, side in zip(lattice, size, strict=True))
    weights = grid_weights(torch.cartesian_prod(rows, columns), size)
    coarse = (weights @ offset.reshape(-1, 3)).T.reshape(1, 3, *lattice)
    return F.interpolate(coarse, size=size, mode="bicubic", align_corners=False)[0]
