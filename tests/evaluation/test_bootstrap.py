"""Bootstrap intervals against the normal approximation, exact enumeration and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest

from guided_diffusion.evaluation.bootstrap import bootstrap, bootstrap_by_scene, mean_where, median_by_scene


def test_bootstrap_of_a_mean_is_normal_for_many_values() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400).tolist()
    low, high = bootstrap(values)
    half = 1.645 * np.std(values) / 20
    assert (low, high) == pytest.approx((np.mean(values) - half, np.mean(values) + half), abs=0.1 * half)
    assert bootstrap(values) == (low, high)
    assert bootstrap(values, seed=1) != (low, high)


def test_bootstrap_of_medians_infinities_and_nothing() -> None:
    assert bootstrap([1, 1, 1, 1, 1000], np.median)[0] == 1
    assert bootstrap([math.inf] * 3) == (math.inf, math.inf)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap([])


def test_bootstrap_by_scene_ignores_copies_of_a_scene() -> None:
    values = np.random.default_rng(15).random(12).tolist()
    names = [f"s{i:02d}" for i in range(12)]
    alone = bootstrap_by_scene(values, names)
    assert alone == pytest.approx(bootstrap(values))
    assert bootstrap_by_scene(values * 5, names * 5) == pytest.approx(alone)
    narrow = bootstrap(values * 5)
    assert narrow[1] - narrow[0] < 0.6 * (alone[1] - alone[0])


def test_bootstrap_by_scene_weighs_by_pixels() -> None:
    values, names = [1.0, 5.0, 2.0], ["a", "b", "b"]
    low, high = bootstrap_by_scene(values, names, [1.0, 3.0, 1.0])
    assert (low, high) == (1.0, pytest.approx((15 + 2) / 4))  # resamples: aa, ab, ba or bb
    assert all(map(math.isnan, bootstrap_by_scene([1.0, 2.0], ["a", "a"])))


def test_median_by_scene_resamples_scenes() -> None:
    rng = np.random.default_rng(0)
    values, scenes = rng.normal(size=11), list("aabcccddeff")
    names = sorted(set(scenes))
    resamples = np.random.default_rng(0).integers(0, len(names), (2000, len(names)))
    by_scene = {name: values[np.array(scenes) == name] for name in names}
    medians = [np.median(np.concatenate([by_scene[names[i]] for i in row])) for row in resamples]
    expected = np.quantile(medians, [0.05, 0.95], method="nearest")
    assert median_by_scene(values.tolist(), scenes) == pytest.approx(tuple(expected))
    single = [str(i) for i in range(10, 21)]
    assert median_by_scene(values.tolist(), single) == bootstrap(values.tolist(), np.median)
    assert np.isnan(median_by_scene([1, 2], ["a", "a"])).all()


def test_mean_where_is_nan_for_an_empty_mask() -> None:
    values = np.arange(6.0).reshape(2, 3)
    assert mean_where(values, values > 3) == 4.5
    assert math.isnan(mean_where(values, values > 9))
