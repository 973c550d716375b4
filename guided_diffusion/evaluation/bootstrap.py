"""Means, medians and their 90 % bootstrap intervals, over images or over whole scenes.

Images of one scene are alike, so they count for less than as many images of different scenes. An interval
over scenes resamples whole scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Interval = tuple[float, float]  # lower and upper end; NaN, NaN where it is undefined


def mean_where(values: np.ndarray, mask: np.ndarray) -> float:
    """Mean of the values where the mask is True; NaN for an empty mask."""
    return float(values[mask].mean()) if mask.any() else float("nan")


def bootstrap(
    values: Sequence[float],
    statistic: Callable[..., np.ndarray] = np.mean,
    n: int = 2000,
    seed: int = 0,
) -> Interval:
    """90 % percentile-bootstrap interval of a statistic over images (Efron & Tibshirani 1993, section 13.3).

    Args:
        values: one value per image, possibly infinite.
        statistic: function of an array (n, len(values)) and `axis`, such as np.mean or np.median.
        n: number of resamples.
        seed: seed of the resamples; the same values and seed give the same interval.

    Raises:
        ValueError: if there are no values.
    """
    if not len(values):
        raise ValueError("there are no values to take an interval of; give at least one image")
    resamples = np.random.default_rng(seed).integers(0, len(values), (n, len(values)))
    statistics = statistic(np.asarray(values, dtype=float)[resamples], axis=1)
    low, high = np.quantile(statistics, [0.05, 0.95], method="nearest")  # "nearest" copes with infinities
    return float(low), float(high)


def bootstrap_by_scene(
    values: Sequence[float], scenes: Sequence[str], weights: Sequence[float] | None = None
) -> Interval:
    """90 % interval of the (weighted) mean over images, resampling whole scenes.

    The cluster bootstrap of Davison & Hinkley 1997, section 3.8.

    Args:
        values: one value per image.
        scenes: the scene of each image.
        weights: the weight of each image, at least 0; by default all are equal.

    Returns:
        The interval; NaN, NaN with fewer than two scenes.
    """
    names, scene_index = np.unique(np.asarray(scenes), return_inverse=True)
    if len(names) < 2:
        return float("nan"), float("nan")
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
    weight_sums = np.bincount(scene_index, weight)
    value_sums = np.bincount(scene_index, np.asarray(values, dtype=float) * weight)

    def mean(resamples: np.ndarray, axis: int) -> np.ndarray:
        at = resamples.astype(int)
        return value_sums[at].sum(axis) / weight_sums[at].sum(axis)

    return bootstrap(range(len(names)), mean)


def median_by_scene(values: Sequence[float], scenes: Sequence[str]) -> Interval:
    """90 % interval of the median over images, resampling whole scenes; arguments as `bootstrap_by_scene`."""
    names, scene_index = np.unique(np.asarray(scenes), return_inverse=True)
    if len(names) < 2:
        return float("nan"), float("nan")
    order = np.argsort(values)
    ranked, ranked_scene = np.asarray(values, dtype=float)[order], scene_index[order]

    def median(resamples: np.ndarray, axis: int) -> np.ndarray:
        resamples = resamples.astype(int)
        copies = np.zeros((len(resamples), len(names)), dtype=int)
        np.add.at(copies, (np.arange(len(resamples))[:, None], resamples), 1)
        cumulative = copies[:, ranked_scene].cumsum(axis=1)  # resampled images up to each rank
        half = cumulative[:, -1:] / 2
        lower, upper = (cumulative >= half).argmax(axis=1), (cumulative > half).argmax(axis=1)
        return (ranked[lower] + ranked[upper]) / 2

    return bootstrap(range(len(names)), median)
