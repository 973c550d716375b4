"""Verdicts: place by place, against limits, with intervals by scene."""

from __future__ import annotations

import numpy as np
import pytest

from guided_diffusion.evaluation import acceptance, hole_metrics
from guided_diffusion.evaluation.acceptance import Scores
from tests.helpers.cases import PLACES, place


def scores_of(ring: dict[str, list[float]], texture: float, lab: dict[str, list[float]]) -> Scores:
    """`texture` is also the gradients' level, less 1."""
    same = {"texture_truth": [texture] * 4, "level": [texture - 1] * 4}
    return {m: {"ring": ring[m], "lab": lab[m], **same} for m in ring}


def test_verdicts_compare_place_by_place() -> None:
    # Against nearest always one lower, though the places differ widely; against repaint-1 it is a toss-up.
    ring = {
        "nearest": [2.0, 11, 21, 31],
        "membrane": [0.5, 5, 10, 15],
        "repaint-1": [1.5, 9.5, 20.5, 29.5],
        "repaint-10": [1.0, 10, 20, 30],
    }
    lab = {"nearest": [9.0] * 4, "membrane": [10.0, 4, 20, 4]}
    lab |= {"repaint-1": [8.0, 6, 12, 6], "repaint-10": [6.0, 6, 12, 6]}
    told = acceptance.verdicts(PLACES, scores_of(ring, 1.5, lab))
    nearest, membrane, once, once_lab, crosses, none, texture, level = told
    assert "repaint-10 lower than of nearest: **yes** (-1.00 [-1.00, -1.00], lower in 100% of" in nearest
    assert "membrane: **no**" in membrane
    assert "ring mismatch of repaint-10 lower than of repaint-1: **unclear** (+0.00" in once
    assert "LAB error of repaint-10 lower than of repaint-1: **unclear** (-0.50" in once_lab
    assert "crosses the hole at most 0.75: **yes** (0.60 [0.60, 0.60], 2 places)" in crosses
    assert "where none does: (1.50 [1.50, 1.50], 2 places)" in none
    assert "within 0.85 to 1.15: **no** (1.50 [1.50, 1.50])" in texture
    assert "level by at most 15%: **no** (50% [50%, 50%])" in level
    *_, texture, level = acceptance.verdicts(PLACES, scores_of(ring, 1.1, lab))
    assert "**yes** (1.10" in texture and "**yes** (10%" in level
    assert acceptance.verdicts(PLACES, {"nearest": {}}) == []


def test_resampling_is_told_step_by_step() -> None:
    values = {f"repaint-{n}": [float(20 - n)] * 4 for n in (10, 1, 5)}
    told = acceptance.verdicts(PLACES, scores_of(values, 1, values))
    pairs = [("5", "1"), ("10", "5")]
    wanted = [f"{what} of repaint-{a} lower than of repaint-{b}: **yes**" for a, b in pairs for what in NAMES]
    assert [line[2:].split(" (")[0] for line in told[:-2]] == wanted


NAMES = ("ring mismatch", "LAB error")


def test_the_lab_bar_is_a_ratio_of_sums() -> None:
    lab = {"membrane": [1.0, 5, 30, 5], "repaint-2": [2.0, 5, 15, 5]}
    line = acceptance.verdicts(PLACES, scores_of(lab, 1, lab))[1]
    assert "**unclear** (0.55 [0.50, 2.00], 2 places)" in line  # 17 / 31, between 15 / 30 and 2 / 1
    smooth = [place(f"{i}", f"{i}", False) for i in range(4)]
    assert "no such place" in acceptance.verdicts(smooth, scores_of(lab, 1, lab))[1]


def test_medians_by_scene_are_those_of_the_scenes_drawn() -> None:
    rng = np.random.default_rng(0)
    values, scenes = rng.normal(size=11), list("aabcccddeff")
    names = sorted(set(scenes))
    drawn = np.random.default_rng(0).integers(0, len(names), (2000, len(names)))
    of = {name: values[np.array(scenes) == name] for name in names}
    medians = [np.median(np.concatenate([of[names[i]] for i in row])) for row in drawn]
    expected = np.quantile(medians, [0.05, 0.95], method="nearest")
    assert acceptance.median_by_scene(values.tolist(), scenes) == pytest.approx(tuple(expected))
    own = [str(i) for i in range(10, 21)]
    assert acceptance.median_by_scene(values.tolist(), own) == hole_metrics.bootstrap(
        values.tolist(), np.median
    )
    assert np.isnan(acceptance.median_by_scene([1, 2], ["a", "a"])).all()


def test_td_paint_is_held_to_the_repaint_that_resamples_most() -> None:
    lab = {"repaint-1": [9.0] * 4, "repaint-5": [10.0, 20, 10, 20], "td_paint": [10.8, 20, 10.8, 20]}
    line = acceptance.verdicts(PLACES, scores_of(lab, 1, lab))[-1]
    assert "LAB error of td_paint over repaint-5's at most 1.1: **yes** (1.03 [1.00, 1.08])" in line
