"""Kernel distance between two sets of features: the squared maximum mean discrepancy (MMD) that KID uses.

Papers: Binkowski et al. 2018 (arXiv 1801.01401, section 4: the kernel), Gretton et al. 2012 (JMLR 13,
section 2.2: the unbiased estimates). The distance is 0 for sets of the same distribution and grows with their
difference. Being unbiased, the estimate is often slightly negative where there is no difference.

Inpainted images share pixels with their ground truth, which would bias the MMD below 0. All means are
therefore over pairs of images of *different scenes*, which are independent. This is Gretton's equation 4,
which pairs the sets by index and leaves out equal indices, with scenes in place of indices. So:
- The ground truth itself can be the reference; no second set of true images is needed.
- The selection of the scenes is common to both sets and cancels.
- The distance of the ground truth from itself is exactly 0.
`split_half_range` estimates how far chance alone moves the distance of unpaired sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 2000  # as `bootstrap.bootstrap`
_SPLITS = 200


@dataclass(frozen=True)
class Distance:
    """An estimate and its 90 % interval; NaN where there are too few scenes."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute (x_i . y_j / d + 1)^3 for features x (N, d) and y (M, d); returns (N, M)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def kernel_distance(
    x: np.ndarray,
    y: np.ndarray,
    x_scenes: Sequence[str] | None = None,
    y_scenes: Sequence[str] | None = None,
) -> float:
    """Estimate, without bias, the squared MMD between the sources of two sets of features.

    Args:
        x: features (N, d).
        y: features (M, d).
        x_scenes: scene of each x, (N,). Images of one scene depend on each other, within a set and across the
            two. By default all images are independent.
        y_scenes: scene of each y, (M,).

    Raises:
        ValueError: if a set has fewer than two scenes, or the features do not match.
    """
    x, y = _as_features(x), _as_features(y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features of {x.shape[1]} and of {y.shape[1]} numbers cannot be compared")
    x_names = np.asarray([f"x{i}" for i in range(len(x))] if x_scenes is None else x_scenes)
    y_names = np.asarray([f"y{i}" for i in range(len(y))] if y_scenes is None else y_scenes)
    within = _mean_across_scenes(kernel(x, x), x_names, x_names) + _mean_across_scenes(
        kernel(y, y), y_names, y_names
    )
    return within - 2 * _mean_across_scenes(kernel(x, y), x_names, y_names)


def distance_of_pairs(x: np.ndarray, y: np.ndarray, scenes: Sequence[str]) -> Distance:
    """Estimate `kernel_distance` between two sets of images of the same cases, with a 90 % interval.

    The interval is a percentile bootstrap over whole scenes (2,000 resamples; as
    `bootstrap.bootstrap_by_scene`). A scene that is drawn twice is not paired with itself, so the resamples
    centre on the estimate. Where the two sets hardly differ the interval is wider than necessary, by up to
    sqrt(3) (the statistic is degenerate there; Arcones & Gine 1992).

    Args:
        x: features (N, d).
        y: features (N, d) of the same cases.
        scenes: scene of each case, (N,).

    Returns:
        The distance; with fewer than three scenes its interval is NaN, with fewer than two its value too.

    Raises:
        ValueError: if the features do not match.
    """
    x, y = _as_features(x, 1), _as_features(y, 1)
    if x.shape != y.shape or len(x) != len(scenes):
        raise ValueError(f"{x.shape} and {y.shape} features of {len(scenes)} cases are no pairs")
    cross = kernel(x, y)
    sums, counts = _sum_by_scene(kernel(x, x) + kernel(y, y) - cross - cross.T, scenes)
    if len(sums) < 2:
        return Distance(float("nan"))
    value = float(sums.sum() / counts.sum())
    if len(sums) < 3:
        return Distance(value)
    probabilities = np.full(len(sums), 1 / len(sums))
    copies = np.random.default_rng(0).multinomial(len(sums), probabilities, _RESAMPLES).astype(np.float64)
    copies = copies[(copies > 0).sum(1) > 1]  # a single scene has no pairs
    distances = ((copies @ sums) * copies).sum(1) / ((copies @ counts) * copies).sum(1)
    low, high = np.quantile(distances, [0.05, 0.95])
    return Distance(value, float(low), float(high))


def split_half_range(x: np.ndarray, scenes: Sequence[str]) -> tuple[float, float]:
    """Measure how far random halves of a set are apart: the 90 % range over 200 splits, by whole scenes.

    Its middle is 0. Its width is the effect of chance on unpaired sets of half the size.

    Args:
        x: features (N, d).
        scenes: scene of each image, (N,).

    Returns:
        The range; NaN, NaN with fewer than four scenes.
    """
    names = np.unique(np.asarray(scenes))
    if len(names) < 4:
        return float("nan"), float("nan")
    x = _as_features(x)
    sums, counts = _sum_by_scene(kernel(x, x), scenes)
    rng = np.random.default_rng(0)
    distances = []
    for _ in range(_SPLITS):
        half = rng.permutation(len(names)) < len(names) // 2
        blocks = [np.ix_(a, b) for a, b in ((half, half), (~half, ~half), (half, ~half))]
        first, second, across = (sums[block].sum() / counts[block].sum() for block in blocks)
        distances.append(first + second - 2 * across)
    low, high = np.quantile(distances, [0.05, 0.95])
    return float(low), float(high)


def _as_features(x: np.ndarray, minimum: int = 2) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or len(x) < minimum:
        raise ValueError(f"features of shape {x.shape}; give (N, d) with at least {minimum} images")
    return x


def _mean_across_scenes(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> float:
    """Mean of values (N, M) over pairs of different scenes."""
    apart = rows[:, None] != columns[None]
    if not apart.any():
        raise ValueError(f"all images are of scene {str(rows[0])!r}; give images of at least two scenes")
    return float(values[apart].mean())


def _sum_by_scene(values: np.ndarray, scenes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sum values (N, N) over the pairs of images of each pair of scenes.

    Returns:
        sums (S, S), and numbers of pairs (S, S); 0 for a scene with itself.
    """
    names, scene_index = np.unique(np.asarray(scenes), return_inverse=True)
    member = np.eye(len(names))[scene_index]  # (N, S)
    others = 1 - np.eye(len(names))
    size = member.sum(0)
    return member.T @ values @ member * others, np.outer(size, size) * others
