"""The kernel distance against Gaussian moments, every sample of a small population, and a double loop."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from guided_diffusion.evaluation.mmd import distance_of_pairs, kernel, kernel_distance, split_half_range


def expected(mean: np.ndarray, covariance: np.ndarray, other: np.ndarray, others: np.ndarray) -> float:
    """E (x . y / d + 1)^3 of independent Gaussians x and y, by their moments up to the third."""
    first, second = (_moments(m, c) for m, c in ((mean, covariance), (other, others)))
    d = len(mean)
    powers = [float((a * b).sum()) for a, b in zip(first, second, strict=True)]  # E (x . y)^n, n = 1, 2, 3
    return 1 + 3 * powers[0] / d + 3 * powers[1] / d**2 + powers[2] / d**3


def _moments(m: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, ...]:
    third = np.einsum("i,j,k->ijk", m, m, m)
    third += np.einsum("i,jk->ijk", m, c) + np.einsum("j,ik->ijk", m, c) + np.einsum("k,ij->ijk", m, c)
    return m, c + np.outer(m, m), third


GAUSSIANS = [
    ([0.4], [[0.5]], [-0.2], [[1.0]]),
    ([0.5, -0.3], [[0.6, 0.2], [0.2, 0.4]], [0.2, 0.1], [[0.5, -0.1], [-0.1, 0.8]]),
]


@pytest.mark.parametrize(("mean", "covariance", "other", "others"), GAUSSIANS)
def test_kernel_distance_of_gaussians_matches_their_moments(
    mean: list[float], covariance: list[list[float]], other: list[float], others: list[list[float]]
) -> None:
    p, q = (np.array(mean), np.array(covariance)), (np.array(other), np.array(others))
    true_distance = expected(*p, *p) + expected(*q, *q) - 2 * expected(*p, *q)
    rng = np.random.default_rng(0)
    distances = [
        kernel_distance(rng.multivariate_normal(*p, 12), rng.multivariate_normal(*q, 9)) for _ in range(2000)
    ]
    assert true_distance > 0.05
    assert np.mean(distances) == pytest.approx(
        true_distance, abs=4 * np.std(distances) / np.sqrt(len(distances))
    )


POPULATION = np.random.default_rng(1).normal(size=(3, 2)) + 0.3
OTHERS = np.random.default_rng(2).normal(size=(3, 2))


def distance_of_populations(x: np.ndarray, y: np.ndarray) -> float:
    """The squared MMD of two populations, each point of which is equally likely: no estimate."""
    return float(kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean())


def test_kernel_distance_is_unbiased_over_all_samples() -> None:
    samples = [list(indices) for indices in product(range(3), repeat=2)]
    distances = [kernel_distance(POPULATION[i], OTHERS[j]) for i in samples for j in samples]
    assert np.mean(distances) == pytest.approx(distance_of_populations(POPULATION, OTHERS), rel=1e-12)
    same = [kernel_distance(POPULATION[i], POPULATION[j]) for i in samples for j in samples]
    assert np.mean(same) == pytest.approx(0, abs=1e-12) and min(same) < 0


def test_distance_of_pairs_is_not_biased_by_pairing() -> None:
    """Each x belongs to a y: the estimate that ignores this is too low, by 2 / N of the excess."""
    samples = [list(indices) for indices in product(range(3), repeat=2)]
    true_distance = distance_of_populations(POPULATION, OTHERS)
    distances = [distance_of_pairs(POPULATION[i], OTHERS[i], ["a", "b"]).value for i in samples]
    assert np.mean(distances) == pytest.approx(true_distance, rel=1e-12)
    naive = [kernel_distance(POPULATION[i], OTHERS[i]) for i in samples]
    cross = kernel(POPULATION, OTHERS)
    excess = np.trace(cross) / 3 - cross.mean()
    assert abs(excess) > 0.05
    assert np.mean(naive) == pytest.approx(true_distance - 2 / 2 * excess, rel=1e-12)


def slow_distance(x: np.ndarray, y: np.ndarray, scenes: str) -> float:
    """Sum over all ordered pairs of cases of different scenes, pair by pair."""
    terms = []
    for i, j in product(range(len(x)), repeat=2):
        if scenes[i] != scenes[j]:
            pairs = ((x[i], x[j], 1), (y[i], y[j], 1), (x[i], y[j], -1), (y[i], x[j], -1))
            terms.append(sum(sign * (sum(a * b) / len(a) + 1) ** 3 for a, b, sign in pairs))
    return sum(terms) / len(terms)


def test_distance_of_pairs_never_pairs_windows_of_a_scene() -> None:
    rng = np.random.default_rng(3)
    x, y, scenes = rng.normal(size=(9, 4)), rng.normal(size=(9, 4)) + 0.5, "aabcccbad"
    distance = distance_of_pairs(x, y, list(scenes))
    assert distance.value == pytest.approx(slow_distance(x, y, scenes), rel=1e-12)
    assert distance.value == pytest.approx(kernel_distance(x, y, list(scenes), list(scenes)), rel=1e-12)
    assert distance.low < distance.value < distance.high
    singles = [f"{i}" for i in range(9)]
    thrice = distance_of_pairs(np.repeat(x, 3, 0), np.repeat(y, 3, 0), np.repeat(singles, 3).tolist())
    once = distance_of_pairs(x, y, singles)
    assert [thrice.value, thrice.low, thrice.high] == pytest.approx([once.value, once.low, once.high])


def test_distance_of_pairs_is_zero_for_the_ground_truth_itself() -> None:
    x = np.random.default_rng(4).normal(size=(20, 6))
    distance = distance_of_pairs(x, x.copy(), [f"{i}" for i in range(20)])
    assert [distance.value, distance.low, distance.high] == pytest.approx([0, 0, 0], abs=1e-12)


def test_distance_of_pairs_interval_covers_nine_times_in_ten() -> None:
    mean, covariance, other, others = (np.array(values) for values in GAUSSIANS[1])
    p, q = (mean, covariance), (other + 0.5, others)
    true_distance = expected(*p, *p) + expected(*q, *q) - 2 * expected(*p, *q)
    rng, names, held = np.random.default_rng(5), [f"{i}" for i in range(60)], 0
    for _ in range(100):
        distance = distance_of_pairs(rng.multivariate_normal(*p, 60), rng.multivariate_normal(*q, 60), names)
        held += distance.low <= true_distance <= distance.high
    assert 0.82 <= held / 100 <= 0.97


def test_split_half_range_matches_independent_draws() -> None:
    rng = np.random.default_rng(6)
    low, high = split_half_range(rng.normal(size=(120, 3)), [f"{i}" for i in range(120)])
    draws = [kernel_distance(rng.normal(size=(60, 3)), rng.normal(size=(60, 3))) for _ in range(400)]
    lower, upper = np.quantile(draws, [0.05, 0.95])
    assert low < 0 < high
    assert high - low == pytest.approx(upper - lower, rel=0.4)


def test_distances_refuse_too_few_images() -> None:
    x = np.zeros((3, 2))
    for wrong in (x[:1], x[0]):
        with pytest.raises(ValueError, match="at least 2 images"):
            kernel_distance(wrong, x)
    with pytest.raises(ValueError, match="scene 'a'"):
        kernel_distance(x, x, ["a"] * 3, ["a"] * 3)
    with pytest.raises(ValueError, match="of 2 and of 3 numbers"):
        kernel_distance(x, np.zeros((3, 3)))
    with pytest.raises(ValueError, match="are no pairs"):
        distance_of_pairs(x, x[:2], ["a", "b", "c"])
    assert np.isnan(distance_of_pairs(x, x, ["a"] * 3).value)
    assert np.isnan(distance_of_pairs(x, x, ["a", "a", "b"]).low)
    assert np.isnan(split_half_range(x, ["a", "b", "c"])).all()
