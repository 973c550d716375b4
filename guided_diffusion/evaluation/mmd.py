"""The kernel distance between two sets of features: the squared maximum mean discrepancy of "KID".

Papers: Binkowski et al. 2018 (arXiv 1801.01401, section 4: the kernel), Gretton et al. 2012 (JMLR 13,
section 2.2: the unbiased estimates). It is 0 for sets of one distribution, larger the more they differ, and,
being unbiased, often a little below 0 where there is no difference.

Fills and the truth of the same places are no independent sets: a fill shares most of its pixels with the
truth, so that the pair of an image and its own truth would make the sets look alike, below what 0 stands
for. Every mean here is over pairs of images of *different scenes*, which are independent whatever an image
has in common with its own truth or with another window of its photograph. This is Gretton's equation 4, which
pairs the sets by index and leaves out equal indices, with scenes for indices. Nothing else is needed to judge
against the truth itself: no second set of true images has to be found (of photographs there is none), and
what picked the scenes is common to both sets and cancels. So the truth is at 0 from itself exactly; what the
chance of the draw does without pairs is told by `halves`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_DRAWS = 2000
_HALVINGS = 200


@dataclass(frozen=True)
class Distance:
    """An estimate and its 90 % interval; NaN where there are too few scenes for one."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x_i . y_j / d + 1)^3 for features (N, d) and (M, d): (N, M)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def kernel_distance(
    x: np.ndarray,
    y: np.ndarray,
    x_scenes: Sequence[str] | None = None,
    y_scenes: Sequence[str] | None = None,
) -> float:
    """Unbiased estimate of the squared MMD between the sources of features x (N, d) and y (M, d).

    The scenes (N,) and (M,) say which images depend on each other, within a set and across the two; without
    them all images are taken to be independent. Raises ValueError where a set has fewer than two scenes.
    """
    x, y = _checked(x), _checked(y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features of {x.shape[1]} and of {y.shape[1]} numbers cannot be compared")
    of_x = np.asarray([f"x{i}" for i in range(len(x))] if x_scenes is None else x_scenes)
    of_y = np.asarray([f"y{i}" for i in range(len(y))] if y_scenes is None else y_scenes)
    within = _mean(kernel(x, x), of_x, of_x) + _mean(kernel(y, y), of_y, of_y)
    return within - 2 * _mean(kernel(x, y), of_x, of_y)


def distance_of_pairs(x: np.ndarray, y: np.ndarray, scenes: Sequence[str]) -> Distance:
    """`kernel_distance` of features x, y (N, d) of the same places, which belong to `scenes` (N,).

    The 90 % interval draws whole scenes with replacement (percentile bootstrap, 2,000 draws; as
    `region_metrics.bootstrap_by_scene`). A scene that is drawn twice is not paired with itself, so that the
    draws centre on the estimate. Where the two sets hardly differ the interval is wider than it has to be, by
    up to sqrt(3) (the statistic is degenerate there; Arcones & Gine 1992). With fewer than three scenes the
    interval is NaN, with fewer than two the value too. Raises ValueError for features that do not match.
    """
    x, y = _checked(x, 1), _checked(y, 1)
    if x.shape != y.shape or len(x) != len(scenes):
        raise ValueError(f"{x.shape} and {y.shape} features of {len(scenes)} places are no pairs")
    cross = kernel(x, y)
    sums, counts = _by_scene(kernel(x, x) + kernel(y, y) - cross - cross.T, scenes)
    if len(sums) < 2:
        return Distance(float("nan"))
    value = float(sums.sum() / counts.sum())
    if len(sums) < 3:
        return Distance(value)
    chances = np.full(len(sums), 1 / len(sums))
    copies = np.random.default_rng(0).multinomial(len(sums), chances, _DRAWS).astype(np.float64)
    copies = copies[(copies > 0).sum(1) > 1]  # one scene alone has no pairs
    told = ((copies @ sums) * copies).sum(1) / ((copies @ counts) * copies).sum(1)
    low, high = np.quantile(told, [0.05, 0.95])
    return Distance(value, float(low), float(high))


def halves(x: np.ndarray, scenes: Sequence[str]) -> tuple[float, float]:
    """How far two halves of one set x (N, d) are apart, by whole scenes: the 90 % range of 200 halvings.

    Its middle is 0; its width is what chance does to unpaired sets of half the size. NaN, NaN with fewer than
    four scenes.
    """
    names = np.unique(np.asarray(scenes))
    if len(names) < 4:
        return float("nan"), float("nan")
    x = _checked(x)
    sums, counts = _by_scene(kernel(x, x), scenes)
    rng = np.random.default_rng(0)
    told = []
    for _ in range(_HALVINGS):
        one = rng.permutation(len(names)) < len(names) // 2
        parts = [np.ix_(a, b) for a, b in ((one, one), (~one, ~one), (one, ~one))]
        within, other, across = (sums[part].sum() / counts[part].sum() for part in parts)
        told.append(within + other - 2 * across)
    low, high = np.quantile(told, [0.05, 0.95])
    return float(low), float(high)


def _checked(x: np.ndarray, least: int = 2) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or len(x) < least:
        raise ValueError(f"features of shape {x.shape}; give (N, d) with at least {least} images")
    return x


def _mean(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> float:
    """Of values (N, M), over pairs of different scenes."""
    apart = rows[:, None] != columns[None]
    if not apart.any():
        raise ValueError(f"all images are of scene {str(rows[0])!r}; give images of at least two scenes")
    return float(values[apart].mean())


def _by_scene(values: np.ndarray, scenes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sums of values (N, N) over the pairs of each two scenes (S, S), and how many pairs; 0 of a scene with
    itself."""
    names, which = np.unique(np.asarray(scenes), return_inverse=True)
    member = np.eye(len(names))[which]  # (N, S)
    others = 1 - np.eye(len(names))
    size = member.sum(0)
    return member.T @ values @ member * others, np.outer(size, size) * others
