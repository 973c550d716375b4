"""The kernel distance against Gaussian moments, every sample of a small population, and a double loop."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from guided_diffusion.evaluation.mmd import distance_of_pairs, halves, kernel, kernel_distance


def expected(mean: np.ndarray, covariance: np.ndarray, other: np.ndarray, others: np.ndarray) -> float:
    """E (x . y / d + 1)^3 of independent Gaussians x and y, by their moments up to the third."""
    one, two = (_moments(m, c) for m, c in ((mean, covariance), (other, others)))
    d = len(mean)
    powers = [float((a * b).sum()) for a, b in zip(one, two, strict=True)]  # E (x . y)^n, n = 1, 2, 3
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
def test_gaussians_have_the_distance_of_their_moments(
    mean: list[float], covariance: list[list[float]], other: list[float], others: list[list[float]]
) -> None:
    p, q = (np.array(mean), np.array(covariance)), (np.array(other), np.array(others))
    truth = expected(*p, *p) + expected(*q, *q) - 2 * expected(*p, *q)
    rng = np.random.default_rng(0)
    told = [
        kernel_distance(rng.multivariate_normal(*p, 12), rng.multivariate_normal(*q, 9)) for _ in range(2000)
    ]
    assert truth > 0.05
    assert np.mean(told) == pytest.approx(truth, abs=4 * np.std(told) / np.sqrt(len(told)))


POPULATION = np.random.default_rng(1).normal(size=(3, 2)) + 0.3
OTHERS = np.random.default_rng(2).normal(size=(3, 2))


def distance_of_populations(x: np.ndarray, y: np.ndarray) -> float:
    """The squared MMD of two populations, each point of which is equally likely: no estimate."""
    return float(kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean())


def test_over_all_samples_the_estimate_is_right_on_average() -> None:
    samples = [list(indices) for indices in product(range(3), repeat=2)]
    told = [kernel_distance(POPULATION[i], OTHERS[j]) for i in samples for j in samples]
    assert np.mean(told) == pytest.approx(distance_of_populations(POPULATION, OTHERS), rel=1e-12)
    same = [kernel_distance(POPULATION[i], POPULATION[j]) for i in samples for j in samples]
    assert np.mean(same) == pytest.approx(0, abs=1e-12) and min(same) < 0


def test_pairs_do_not_bias_it_if_they_are_told() -> None:
    """Each x comes with its own y: the estimate that does not know is too low, by 2 / N of the excess."""
    samples = [list(indices) for indices in product(range(3), repeat=2)]
    truth = distance_of_populations(POPULATION, OTHERS)
    told = [distance_of_pairs(POPULATION[i], OTHERS[i], ["a", "b"]).value for i in samples]
    assert np.mean(told) == pytest.approx(truth, rel=1e-12)
    naive = [kernel_distance(POPULATION[i], OTHERS[i]) for i in samples]
    cross = kernel(POPULATION, OTHERS)
    excess = np.trace(cross) / 3 - cross.mean()
    assert abs(excess) > 0.05
    assert np.mean(naive) == pytest.approx(truth - 2 / 2 * excess, rel=1e-12)


def slow(x: np.ndarray, y: np.ndarray, scenes: str) -> float:
    """Over all ordered pairs of places of two scenes, one by one."""
    terms = []
    for i, j in product(range(len(x)), repeat=2):
        if scenes[i] != scenes[j]:
            pairs = ((x[i], x[j], 1), (y[i], y[j], 1), (x[i], y[j], -1), (y[i], x[j], -1))
            terms.append(sum(sign * (sum(a * b) / len(a) + 1) ** 3 for a, b, sign in pairs))
    return sum(terms) / len(terms)


def test_windows_of_one_scene_are_never_paired() -> None:
    rng = np.random.default_rng(3)
    x, y, scenes = rng.normal(size=(9, 4)), rng.normal(size=(9, 4)) + 0.5, "aabcccbad"
    told = distance_of_pairs(x, y, list(scenes))
    assert told.value == pytest.approx(slow(x, y, scenes), rel=1e-12)
    assert told.value == pytest.approx(kernel_distance(x, y, list(scenes), list(scenes)), rel=1e-12)
    assert told.low < told.value < told.high
    singles = [f"{i}" for i in range(9)]
    thrice = distance_of_pairs(np.repeat(x, 3, 0), np.repeat(y, 3, 0), np.repeat(singles, 3).tolist())
    once = distance_of_pairs(x, y, singles)
    assert [thrice.value, thrice.low, thrice.high] == pytest.approx([once.value, once.low, once.high])


def test_the_truth_is_at_nought_from_itself() -> None:
    x = np.random.default_rng(4).normal(size=(20, 6))
    told = distance_of_pairs(x, x.copy(), [f"{i}" for i in range(20)])
    assert [told.value, told.low, told.high] == pytest.approx([0, 0, 0], abs=1e-12)


def test_nine_intervals_of_ten_hold_the_distance() -> None:
    mean, covariance, other, others = (np.array(each) for each in GAUSSIANS[1])
    p, q = (mean, covariance), (other + 0.5, others)
    truth = expected(*p, *p) + expected(*q, *q) - 2 * expected(*p, *q)
    rng, names, held = np.random.default_rng(5), [f"{i}" for i in range(60)], 0
    for _ in range(100):
        told = distance_of_pairs(rng.multivariate_normal(*p, 60), rng.multivariate_normal(*q, 60), names)
        held += told.low <= truth <= told.high
    assert 0.82 <= held / 100 <= 0.97


def test_halves_differ_as_two_draws_of_one_source_do() -> None:
    rng = np.random.default_rng(6)
    low, high = halves(rng.normal(size=(120, 3)), [f"{i}" for i in range(120)])
    draws = [kernel_distance(rng.normal(size=(60, 3)), rng.normal(size=(60, 3))) for _ in range(400)]
    least, most = np.quantile(draws, [0.05, 0.95])
    assert low < 0 < high
    assert high - low == pytest.approx(most - least, rel=0.4)


def test_too_few_pictures_are_told() -> None:
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
    assert np.isnan(halves(x, ["a", "b", "c"])).all()
