"""The tables of evaluate: means, paired differences, omitted rows."""

from __future__ import annotations

import math

from guided_diffusion.evaluation.shadow_report import (
    ImageScores,
    Row,
    estimate,
    format_differences,
    format_table,
    mean_of_row,
)


def image_scores(*entries: tuple[str, dict[str, float], dict[str, float]]) -> list[ImageScores]:
    return [
        ImageScores(f"{scene}-{i}", scene, {"pred": ours, "against": theirs})
        for i, (scene, ours, theirs) in enumerate(entries)
    ]


def test_estimate_ignores_undefined_values() -> None:
    assert estimate([1.0, math.nan, 3.0], ["a", "b", "c"])[0] == 2
    assert all(map(math.isnan, estimate([math.nan], ["a"])))
    mean = mean_of_row(
        image_scores(("1", {"lab_s": 1, "pixels_s": 30}, {}), ("2", {"lab_s": math.nan, "pixels_s": 0}, {})),
        "pred",
        Row("", "lab_s", pixels="pixels_s"),
    )
    assert mean[0] == 1


def test_format_differences_pairs_images_and_resamples_scenes() -> None:
    keys = ("lab_s", "lab_s_true", "lab_band", "psnr_s_true")
    images = image_scores(
        ("1", dict.fromkeys(keys, 10.0), dict.fromkeys(keys, 11.0)),
        ("1", dict.fromkeys(keys, 50.0), dict.fromkeys(keys, 51.0)),
        ("2", dict.fromkeys(keys, 3.0), dict.fromkeys(keys, 2.0)),
        ("2", dict.fromkeys(keys, math.inf), dict.fromkeys(keys, math.inf)),
        ("2", dict.fromkeys(keys, math.nan), dict.fromkeys(keys, math.nan)),
    )
    line = format_differences(images)[0]
    assert line.startswith("- LAB, shadow (S), prediction minus the other: -0.25 [-1.00, 0.50]")
    assert line.endswith("; includes 0")
    assert (
        format_differences(image_scores(("1", dict.fromkeys(keys, math.nan), dict.fromkeys(keys, 1.0)))) == []
    )


def test_format_table_omits_undefined_measures() -> None:
    scores = {"lab_s": 1.25, "pixels_s": 4.0, "pixels_ns": 4.0, "texture": math.nan}
    lines = format_table([ImageScores("a", "a", {"pred": scores})])
    assert lines == [
        "| measure | prediction |",
        "| --- | --- |",
        "| LAB, shadow (S) | 1.25 |",
        "| LAB, S, over pixels (PP) | 1.25 |",
    ]
