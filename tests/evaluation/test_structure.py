"""Edges that go into a hole, and those that do not, drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest

from guided_diffusion.evaluation.structure import CROSSED, DEPTH, EDGE, crossed, crossing_share, edges

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


def test_an_edge_through_the_hole_crosses_it_at_both_ends() -> None:
    keep = box()
    share = crossing_share(two_tone(ROWS >= 32), keep)
    # At either end the edge is strong for a few pixels of the rim of four times twenty.
    assert 2 * 3 / 80 <= share <= 2 * 10 / 80
    assert crossed(two_tone(ROWS >= 32), keep) and share > CROSSED


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
def test_what_does_not_go_in_does_not_count(image: np.ndarray, why: str) -> None:
    assert not crossed(image, box()), why


def test_edges_that_fade_turn_or_leave_the_frame_do_not_go_on() -> None:
    to_the_frame = box(22, SIDE)  # nothing can leave it below
    turning = two_tone((ROWS >= 32) & (COLUMNS < 25))
    assert not crossed(turning, to_the_frame) and crossed(two_tone(ROWS >= 32), to_the_frame)
    fading = 100 + 40 * (ROWS >= 32) * np.clip((25 - COLUMNS) / 6, 0, 1)
    lasting = 100 + 40 * (ROWS >= 32) * np.clip((50 - COLUMNS) / 6, 0, 1)
    shares = [crossing_share(grey(plane), box()) for plane in (fading, lasting)]
    assert shares[0] == 0 < shares[1]
    assert not crossed(two_tone(ROWS >= 32), box(22, 42, SIDE - DEPTH + 1, SIDE))
    assert crossed(two_tone(ROWS >= 32), box(22, 42, SIDE - DEPTH, SIDE))


def test_noise_is_no_structure_however_strong() -> None:
    noise = np.random.default_rng(0).normal(0, 25, (SIDE, SIDE, 1))
    grainy = np.clip(128 + noise + np.zeros(3), 0, 255).astype(np.uint8)
    assert not crossed(grainy, box())
    both = np.clip(two_tone(ROWS + COLUMNS >= SIDE, ((70,) * 3, (190,) * 3)) + noise, 0, 255)
    assert crossed(both.astype(np.uint8), box())


def test_an_edge_of_colour_alone_is_one() -> None:
    keep = box()
    assert crossed(two_tone(COLUMNS >= 32, ((150, 100, 100), (100, 122, 110))), keep)


def test_turning_the_picture_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    image = two_tone(ROWS + 0.5 * COLUMNS + 6 * rng.random() >= 50)
    keep = box(20, 44, 15, 40)
    share = crossing_share(image, keep)
    assert share > 0
    for quarters in (1, 2, 3):
        assert crossing_share(np.rot90(image, quarters), np.rot90(keep, quarters)) == pytest.approx(share)


def test_edges_run_as_drawn_and_a_ramp_has_the_strength_of_its_slope() -> None:
    strength, run = edges(two_tone(ROWS - COLUMNS >= 0))
    assert strength[32, 32] > EDGE > strength[8, 56]
    assert abs(run[32, 32] @ np.array([1, 1]) / np.sqrt(2)) == pytest.approx(1, abs=1e-3)
    ramp = grey(40 + 3 * COLUMNS)
    assert np.allclose(np.abs(edges(ramp)[1][20:40, 20:40]), [1, 0], atol=1e-6)
    assert edges(ramp)[0][32, 32] == pytest.approx(3 * 100 / 255, rel=0.15)  # L* is nearly sRGB's scale


def test_without_a_rim_nothing_crosses() -> None:
    image = two_tone(ROWS >= 32)
    assert crossing_share(image, np.ones((SIDE, SIDE), bool)) == 0
    assert crossing_share(image, np.zeros((SIDE, SIDE), bool)) == 0
