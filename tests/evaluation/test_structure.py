"""Synthetic edges that enter a hole, and edges that do not."""

from __future__ import annotations

import numpy as np
import pytest

from guided_diffusion.evaluation.structure import (
    DEPTH,
    MIN_CROSSING_FRACTION,
    MIN_STRENGTH,
    crossing_fraction,
    find_edges,
    structure_crosses_hole,
)

SIDE = 64
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]


def box(top: int = 22, bottom: int = 42, left: int = 22, right: int = 42) -> np.ndarray:
    keep = np.ones((SIDE, SIDE), bool)
    keep[top:bottom, left:right] = False
    return keep


def two_tone(
    bright: np.ndarray, tones: tuple[tuple[int, ...], tuple[int, ...]] = ((60,) * 3, (160,) * 3)
) -> np.ndarray:
    return np.where(bright[..., None], *(np.array(tone, np.uint8) for tone in reversed(tones)))


def test_crossing_fraction_counts_both_ends_of_an_edge() -> None:
    keep = box()
    share = crossing_fraction(two_tone(ROWS >= 32), keep)
    # At either end the edge is strong for a few pixels of the rim of four times twenty.
    assert 2 * 3 / 80 <= share <= 2 * 10 / 80
    assert structure_crosses_hole(two_tone(ROWS >= 32), keep) and share > MIN_CROSSING_FRACTION


def grey(plane: np.ndarray) -> np.ndarray:
    return np.repeat(np.rint(plane)[..., None], 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (np.full((SIDE, SIDE, 3), 120, np.uint8), "flat"),
        (two_tone(ROWS >= 10), "beside the hole"),
        (two_tone(ROWS >= 18), "along its edge"),
        (two_tone((np.abs(ROWS - 31.5) < 4) & (COLUMNS < 18)), "ends before the hole"),
        (two_tone(ROWS >= 32, ((100,) * 3, (103,) * 3)), "too weak"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_structure_crosses_hole_ignores_edges_that_do_not_enter(image: np.ndarray, why: str) -> None:
    assert not structure_crosses_hole(image, box()), why


def test_structure_crosses_hole_ignores_edges_that_fade_turn_or_leave() -> None:
    to_the_frame = box(22, SIDE)  # nothing can leave it below
    turning = two_tone((ROWS >= 32) & (COLUMNS < 25))
    assert not structure_crosses_hole(turning, to_the_frame) and structure_crosses_hole(
        two_tone(ROWS >= 32), to_the_frame
    )
    fading = 100 + 40 * (ROWS >= 32) * np.clip((25 - COLUMNS) / 6, 0, 1)
    lasting = 100 + 40 * (ROWS >= 32) * np.clip((50 - COLUMNS) / 6, 0, 1)
    shares = [crossing_fraction(grey(plane), box()) for plane in (fading, lasting)]
    assert shares[0] == 0 < shares[1]
    assert not structure_crosses_hole(two_tone(ROWS >= 32), box(22, 42, SIDE - DEPTH + 1, SIDE))
    assert structure_crosses_hole(two_tone(ROWS >= 32), box(22, 42, SIDE - DEPTH, SIDE))


def test_structure_crosses_hole_ignores_noise() -> None:
    noise = np.random.default_rng(0).normal(0, 25, (SIDE, SIDE, 1))
    grainy = np.clip(128 + noise + np.zeros(3), 0, 255).astype(np.uint8)
    assert not structure_crosses_hole(grainy, box())
    noisy_edge = np.clip(two_tone(ROWS + COLUMNS >= SIDE, ((70,) * 3, (190,) * 3)) + noise, 0, 255)
    assert structure_crosses_hole(noisy_edge.astype(np.uint8), box())


def test_structure_crosses_hole_sees_edges_of_colour() -> None:
    keep = box()
    assert structure_crosses_hole(two_tone(COLUMNS >= 32, ((150, 100, 100), (100, 122, 110))), keep)


def test_crossing_fraction_is_invariant_to_rotation() -> None:
    rng = np.random.default_rng(1)
    image = two_tone(ROWS + 0.5 * COLUMNS + 6 * rng.random() >= 50)
    keep = box(20, 44, 15, 40)
    share = crossing_fraction(image, keep)
    assert share > 0
    for quarters in (1, 2, 3):
        assert crossing_fraction(np.rot90(image, quarters), np.rot90(keep, quarters)) == pytest.approx(share)


def test_find_edges_gives_direction_and_slope() -> None:
    strength, run = find_edges(two_tone(ROWS - COLUMNS >= 0))
    assert strength[32, 32] > MIN_STRENGTH > strength[8, 56]
    assert abs(run[32, 32] @ np.array([1, 1]) / np.sqrt(2)) == pytest.approx(1, abs=1e-3)
    ramp = grey(40 + 3 * COLUMNS)
    assert np.allclose(np.abs(find_edges(ramp)[1][20:40, 20:40]), [1, 0], atol=1e-6)
    assert find_edges(ramp)[0][32, 32] == pytest.approx(3 * 100 / 255, rel=0.15)  # L* is nearly sRGB's scale


def test_crossing_fraction_is_zero_without_a_rim() -> None:
    image = two_tone(ROWS >= 32)
    assert crossing_fraction(image, np.ones((SIDE, SIDE), bool)) == 0
    assert crossing_fraction(image, np.zeros((SIDE, SIDE), bool)) == 0
