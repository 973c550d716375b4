"""The judge's tables: intervals by scene, what counts where, and verdicts place by place."""

from __future__ import annotations

import csv
import io

import numpy as np

from guided_diffusion.evaluation import hole_metrics, prior_report
from guided_diffusion.evaluation.kid import SceneKid
from guided_diffusion.evaluation.mmd import Distance
from guided_diffusion.evaluation.prior_report import Answer, Block, Column
from tests.helpers.cases import PLACES, place


def test_a_cell_counts_its_own_places_and_draws_scenes() -> None:
    values = [1.0, 2, 3, 4]
    assert Column("x", "x", hole_metrics.psnr, crossed=True).cell(values, PLACES) == "2.00 [1.00, 3.00]"
    assert Column("x", "x", hole_metrics.psnr, median=True).cell(values, PLACES).startswith("2.50 ")
    pairs = [place(f"{i}", "ab"[i // 2], True) for i in range(4)]
    assert Column("x", "x", hole_metrics.psnr, 1).cell(values, pairs) == "2.5 [1.5, 3.5]"
    assert Column("x", "x", hole_metrics.psnr, crossed=False).cell(values, pairs) == "-"
    assert Column("x", "x", hole_metrics.psnr).cell(values[:2], pairs[:2]) == "1.50"
    assert Column("x", "x", hole_metrics.psnr).cell([np.nan] * 4, PLACES) == "-"


def block(kind: str = "half") -> Block:
    truths = [p.truth for p in PLACES]
    lifted = [np.where(p.keep[..., None], p.truth, p.truth + 10).astype(np.uint8) for p in PLACES]
    answers = [Answer("nearest", lifted, 0.5), Answer("the truth", truths, 0.0)]
    distances = {"nearest": Distance(0.0123456, 0.01, 0.02), "the truth": Distance(-1e-17, 0, 0)}
    kid = SceneKid(distances, (-0.002, 0.003))
    return Block(kind, PLACES, answers, prior_report.score(PLACES, answers), kid)


def test_the_report_has_a_block_per_mask_and_the_csv_a_line_per_fill() -> None:
    blocks = [block("half"), block("other")]
    text = prior_report.report(["# Title"], blocks)
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
    told = list(csv.DictReader(io.StringIO(prior_report.to_csv(blocks).decode())))
    assert len(told) == 2 * 2 * 4
    assert [row["crossed"] for row in told[:4]] == ["1", "0", "1", "0"]
    assert {row["psnr"] for row in told if row["method"] == "nearest"} == {f"{20 * np.log10(25.5):.6g}"}
    assert prior_report.sheet(blocks).shape[0] > 8 * 32  # four places of either kind, at twice their size
