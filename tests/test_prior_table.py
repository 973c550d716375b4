"""The judge's tables: intervals by scene, what counts where, and verdicts place by place."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from guided_diffusion import metrics, prior_table
from guided_diffusion.kernel_distance import Distance
from guided_diffusion.places import Place
from guided_diffusion.prior_table import Answer, Block, Column, Scores
from guided_diffusion.scene_kid import SceneKid

KEEP = np.broadcast_to(np.arange(16) < 8, (16, 16))


def place(name: str, scene: str, crosses: bool) -> Place:
    """Two tones above each other, into the hole, or one."""
    truth = np.full((16, 16, 3), 60, np.uint8)
    truth[8:] = 180 if crosses else 60
    return Place(name, scene, truth, KEEP)


PLACES = [place(f"{i}", f"{i}", i % 2 == 0) for i in range(4)]


def scores_of(ring: dict[str, list[float]], texture: float, lab: dict[str, list[float]]) -> Scores:
    return {m: {"ring": ring[m], "texture": [texture] * 4, "lab": lab[m]} for m in ring}


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
    told = prior_table.verdicts(PLACES, scores_of(ring, 1.5, lab))
    nearest, membrane, once, once_lab, crosses, none, texture = told
    assert "repaint-10 lower than of nearest: **yes** (-1.00 [-1.00, -1.00], lower in 100% of" in nearest
    assert "membrane: **no**" in membrane
    assert "ring mismatch of repaint-10 lower than of repaint-1: **unclear** (+0.00" in once
    assert "LAB error of repaint-10 lower than of repaint-1: **unclear** (-0.50" in once_lab
    assert "crosses the hole at most 0.75: **yes** (0.60 [0.60, 0.60], 2 places)" in crosses
    assert "where none does: (1.50 [1.50, 1.50], 2 places)" in none
    assert "**no** (1.50 [1.50, 1.50])" in texture
    assert "**yes** (0.90" in prior_table.verdicts(PLACES, scores_of(ring, 0.9, lab))[-1]
    assert prior_table.verdicts(PLACES, {"nearest": {}}) == []


def test_resampling_is_told_step_by_step() -> None:
    values = {f"repaint-{n}": [float(20 - n)] * 4 for n in (10, 1, 5)}
    told = prior_table.verdicts(PLACES, scores_of(values, 1, values))
    pairs = [("5", "1"), ("10", "5")]
    wanted = [f"{what} of repaint-{a} lower than of repaint-{b}: **yes**" for a, b in pairs for what in NAMES]
    assert [line[2:].split(" (")[0] for line in told[:-1]] == wanted


NAMES = ("ring mismatch", "LAB error")


def test_the_lab_bar_is_a_ratio_of_sums() -> None:
    lab = {"membrane": [1.0, 5, 30, 5], "repaint-2": [2.0, 5, 15, 5]}
    line = prior_table.verdicts(PLACES, scores_of(lab, 1, lab))[1]
    assert "**unclear** (0.55 [0.50, 2.00], 2 places)" in line  # 17 / 31, between 15 / 30 and 2 / 1
    smooth = [place(f"{i}", f"{i}", False) for i in range(4)]
    assert "no such place" in prior_table.verdicts(smooth, scores_of(lab, 1, lab))[1]


def test_medians_by_scene_are_those_of_the_scenes_drawn() -> None:
    rng = np.random.default_rng(0)
    values, scenes = rng.normal(size=11), list("aabcccddeff")
    names = sorted(set(scenes))
    drawn = np.random.default_rng(0).integers(0, len(names), (2000, len(names)))
    of = {name: values[np.array(scenes) == name] for name in names}
    medians = [np.median(np.concatenate([of[names[i]] for i in row])) for row in drawn]
    expected = np.quantile(medians, [0.05, 0.95], method="nearest")
    assert prior_table.median_by_scene(values.tolist(), scenes) == pytest.approx(tuple(expected))
    own = [str(i) for i in range(10, 21)]
    assert prior_table.median_by_scene(values.tolist(), own) == metrics.bootstrap(values.tolist(), np.median)
    assert np.isnan(prior_table.median_by_scene([1, 2], ["a", "a"])).all()


def test_a_cell_counts_its_own_places_and_draws_scenes() -> None:
    values = [1.0, 2, 3, 4]
    assert Column("x", "x", metrics.psnr, crossed=True).cell(values, PLACES) == "2.00 [1.00, 3.00]"
    assert Column("x", "x", metrics.psnr, median=True).cell(values, PLACES).startswith("2.50 ")
    pairs = [place(f"{i}", "ab"[i // 2], True) for i in range(4)]
    assert Column("x", "x", metrics.psnr, 1).cell(values, pairs) == "2.5 [1.5, 3.5]"
    assert Column("x", "x", metrics.psnr, crossed=False).cell(values, pairs) == "-"
    assert Column("x", "x", metrics.psnr).cell(values[:2], pairs[:2]) == "1.50"
    assert Column("x", "x", metrics.psnr).cell([np.nan] * 4, PLACES) == "-"


def block(kind: str = "half") -> Block:
    truths = [p.truth for p in PLACES]
    lifted = [np.where(p.keep[..., None], p.truth, p.truth + 10).astype(np.uint8) for p in PLACES]
    answers = [Answer("nearest", lifted, 0.5), Answer("the truth", truths, 0.0)]
    distances = {"nearest": Distance(0.0123456, 0.01, 0.02), "the truth": Distance(-1e-17, 0, 0)}
    kid = SceneKid(distances, (-0.002, 0.003))
    return Block(kind, PLACES, answers, prior_table.score(PLACES, answers), kid)


def test_the_report_has_a_block_per_mask_and_the_csv_a_line_per_fill() -> None:
    blocks = [block("half"), block("other")]
    text = prior_table.report(["# Title"], blocks)
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Title",
        "## Masks `half`",
        "## Masks `other`",
    ]
    assert "\n\n\n" not in text
    assert text.count("50% is to be filled; structure crosses the hole in 2 of 4.") == 2
    told = [row for row in text.splitlines() if row.startswith("| nearest") or row.startswith("| the truth")]
    assert [row.split(" | ")[-3] for row in told[:2]] == ["12.35 [10.00, 20.00]", "0.00 [0.00, 0.00]"]
    assert text.count("scene-feature KID x1000 |") == 2
    assert text.count("halves of the truth (unpaired, 90 % of halvings): -2.00 to 3.00.") == 2
    told = list(csv.DictReader(io.StringIO(prior_table.to_csv(blocks).decode())))
    assert len(told) == 2 * 2 * 4
    assert [row["crossed"] for row in told[:4]] == ["1", "0", "1", "0"]
    assert {row["psnr"] for row in told if row["method"] == "nearest"} == {f"{20 * np.log10(25.5):.6g}"}
    assert prior_table.sheet(blocks).shape[0] > 8 * 32  # four places of either kind, at twice their size
