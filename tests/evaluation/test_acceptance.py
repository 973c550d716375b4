"""Acceptance checks: case by case, against limits, with intervals over scenes."""

from __future__ import annotations

from guided_diffusion.evaluation import acceptance
from guided_diffusion.evaluation.acceptance import Scores
from tests.helpers.cases import CASES, eval_case


def scores_of(ring: dict[str, list[float]], texture: float, lab: dict[str, list[float]]) -> Scores:
    """Build scores of four cases; `texture` is also the gradients' level plus 1."""
    same = {"texture_truth": [texture] * 4, "level": [texture - 1] * 4}
    return {m: {"ring": ring[m], "lab": lab[m], **same} for m in ring}


def test_check_acceptance_compares_case_by_case() -> None:
    # Always one lower than nearest, although the cases differ widely; a toss-up against repaint-1.
    ring = {
        "nearest": [2.0, 11, 21, 31],
        "harmonic": [0.5, 5, 10, 15],
        "repaint-1": [1.5, 9.5, 20.5, 29.5],
        "repaint-10": [1.0, 10, 20, 30],
    }
    lab = {"nearest": [9.0] * 4, "harmonic": [10.0, 4, 20, 4]}
    lab |= {"repaint-1": [8.0, 6, 12, 6], "repaint-10": [6.0, 6, 12, 6]}
    lines = acceptance.check_acceptance(CASES, scores_of(ring, 1.5, lab))
    nearest, harmonic, resampling, resampling_lab, crossing, others, texture, level = lines
    assert "repaint-10 lower than of nearest: **yes** (-1.00 [-1.00, -1.00], lower in 100% of" in nearest
    assert "harmonic: **no**" in harmonic
    assert "ring mismatch of repaint-10 lower than of repaint-1: **unclear** (+0.00" in resampling
    assert "LAB error of repaint-10 lower than of repaint-1: **unclear** (-0.50" in resampling_lab
    assert "crosses the hole at most 0.75: **yes** (0.60 [0.60, 0.60], 2 cases)" in crossing
    assert "where no structure crosses: (1.50 [1.50, 1.50], 2 cases)" in others
    assert "within 0.85 to 1.15: **no** (1.50 [1.50, 1.50])" in texture
    assert "deviate from the ground truth's by at most 15%: **no** (50% [50%, 50%])" in level
    *_, texture, level = acceptance.check_acceptance(CASES, scores_of(ring, 1.1, lab))
    assert "**yes** (1.10" in texture and "**yes** (10%" in level
    assert acceptance.check_acceptance(CASES, {"nearest": {}}) == []


def test_check_acceptance_compares_resampling_step_by_step() -> None:
    values = {f"repaint-{n}": [float(20 - n)] * 4 for n in (10, 1, 5)}
    lines = acceptance.check_acceptance(CASES, scores_of(values, 1, values))
    pairs = [("5", "1"), ("10", "5")]
    wanted = [
        f"{what} of repaint-{a} lower than of repaint-{b}: **yes**"
        for a, b in pairs
        for what in MEASURE_NAMES
    ]
    assert [line[2:].split(" (")[0] for line in lines[:-2]] == wanted


MEASURE_NAMES = ("ring mismatch", "LAB error")


def test_check_harmonic_ratio_is_a_ratio_of_sums() -> None:
    lab = {"harmonic": [1.0, 5, 30, 5], "repaint-2": [2.0, 5, 15, 5]}
    line = acceptance.check_acceptance(CASES, scores_of(lab, 1, lab))[1]
    assert "**unclear** (0.55 [0.50, 2.00], 2 cases)" in line  # 17 / 31, between 15 / 30 and 2 / 1
    smooth = [eval_case(f"{i}", f"{i}", False) for i in range(4)]
    assert "no such case" in acceptance.check_acceptance(smooth, scores_of(lab, 1, lab))[1]


def test_check_td_paint_compares_with_the_repaint_that_resamples_most() -> None:
    lab = {"repaint-1": [9.0] * 4, "repaint-5": [10.0, 20, 10, 20], "td_paint": [10.8, 20, 10.8, 20]}
    line = acceptance.check_acceptance(CASES, scores_of(lab, 1, lab))[-1]
    assert "LAB error of td_paint / repaint-5 at most 1.1: **yes** (1.03 [1.00, 1.08])" in line
