"""The judge's tables: intervals over scenes, selection of cases, report, CSV and contact sheet."""

from __future__ import annotations

import csv
import io

import numpy as np

from guided_diffusion.evaluation import hole_metrics, prior_report
from guided_diffusion.evaluation.kid import SceneKid
from guided_diffusion.evaluation.mmd import Distance
from guided_diffusion.evaluation.prior_report import Column, MaskKindResults, MethodOutput
from tests.helpers.cases import CASES, eval_case


def test_column_cell_selects_cases_and_resamples_scenes() -> None:
    values = [1.0, 2, 3, 4]
    assert Column("x", "x", hole_metrics.psnr, crossing=True).cell(values, CASES) == "2.00 [1.00, 3.00]"
    assert Column("x", "x", hole_metrics.psnr, median=True).cell(values, CASES).startswith("2.50 ")
    pairs = [eval_case(f"{i}", "ab"[i // 2], True) for i in range(4)]
    assert Column("x", "x", hole_metrics.psnr, 1).cell(values, pairs) == "2.5 [1.5, 3.5]"
    assert Column("x", "x", hole_metrics.psnr, crossing=False).cell(values, pairs) == "-"
    assert Column("x", "x", hole_metrics.psnr).cell(values[:2], pairs[:2]) == "1.50"
    assert Column("x", "x", hole_metrics.psnr).cell([np.nan] * 4, CASES) == "-"


def mask_kind_results(kind: str = "half") -> MaskKindResults:
    ground_truths = [p.ground_truth for p in CASES]
    brighter = [
        np.where(p.keep[..., None], p.ground_truth, p.ground_truth + 10).astype(np.uint8) for p in CASES
    ]
    outputs = [MethodOutput("nearest", brighter, 0.5), MethodOutput("ground truth", ground_truths, 0.0)]
    distances = {"nearest": Distance(0.0123456, 0.01, 0.02), "ground truth": Distance(-1e-17, 0, 0)}
    kid = SceneKid(distances, (-0.002, 0.003))
    return MaskKindResults(kind, CASES, outputs, prior_report.score_outputs(CASES, outputs), kid)


def test_format_report_has_a_section_per_mask_and_csv_a_line_per_image() -> None:
    blocks = [mask_kind_results("half"), mask_kind_results("other")]
    text = prior_report.format_report(["# Title"], blocks)
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Title",
        "## Masks `half`",
        "## Masks `other`",
    ]
    assert "\n\n\n" not in text
    assert text.count("The holes cover 50%; structure crosses the hole in 2 of 4.") == 2
    rows = [
        row for row in text.splitlines() if row.startswith("| nearest") or row.startswith("| ground truth")
    ]
    assert [row.split(" | ")[-3] for row in rows[:2]] == ["12.35 [10.00, 20.00]", "0.00 [0.00, 0.00]"]
    assert text.count("scene-feature KID x1000 |") == 2
    assert text.count("halves of the ground truth (unpaired, 90 % of splits): -2.00 to 3.00.") == 2
    rows = list(csv.DictReader(io.StringIO(prior_report.to_csv(blocks).decode())))
    assert len(rows) == 2 * 2 * 4
    assert [row["structure_crosses"] for row in rows[:4]] == ["1", "0", "1", "0"]
    assert {row["psnr"] for row in rows if row["method"] == "nearest"} == {f"{20 * np.log10(25.5):.6g}"}
    assert prior_report.draw_sheet(blocks).shape[0] > 8 * 32  # four cases of either kind, at twice their size
