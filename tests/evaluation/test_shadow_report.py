"""The table of evaluate: means, paired differences, and what is left out."""

from __future__ import annotations

import math

from guided_diffusion.evaluation.shadow_report import Judged, Row, differences, estimate, mean_of, table


def judged(*told: tuple[str, dict[str, float], dict[str, float]]) -> list[Judged]:
    return [
        Judged(f"{scene}-{i}", scene, {"pred": ours, "against": theirs})
        for i, (scene, ours, theirs) in enumerate(told)
    ]


def test_means_leave_out_what_is_undefined() -> None:
    assert estimate([1.0, math.nan, 3.0], ["a", "b", "c"])[0] == 2
    assert all(map(math.isnan, estimate([math.nan], ["a"])))
    mean = mean_of(
        judged(("1", {"lab_s": 1, "pixels_s": 30}, {}), ("2", {"lab_s": math.nan, "pixels_s": 0}, {})),
        "pred",
        Row("", "lab_s", pixels="pixels_s"),
    )
    assert mean[0] == 1


def test_differences_are_paired_and_scenes_are_drawn_whole() -> None:
    keys = ("lab_s", "lab_s_true", "lab_band", "psnr_s_true")
    told = judged(
        ("1", dict.fromkeys(keys, 10.0), dict.fromkeys(keys, 11.0)),
        ("1", dict.fromkeys(keys, 50.0), dict.fromkeys(keys, 51.0)),
        ("2", dict.fromkeys(keys, 3.0), dict.fromkeys(keys, 2.0)),
        ("2", dict.fromkeys(keys, math.inf), dict.fromkeys(keys, math.inf)),
        ("2", dict.fromkeys(keys, math.nan), dict.fromkeys(keys, math.nan)),
    )
    line = differences(told)[0]
    assert line.startswith("- LAB, shadow (S), prediction less the other: -0.25 [-1.00, 0.50]")
    assert line.endswith("; includes 0")
    assert differences(judged(("1", dict.fromkeys(keys, math.nan), dict.fromkeys(keys, 1.0)))) == []


def test_the_table_leaves_out_what_nothing_is_known_of() -> None:
    scores = {"lab_s": 1.25, "pixels_s": 4.0, "pixels_ns": 4.0, "texture": math.nan}
    lines = table([Judged("a", "a", {"pred": scores})])
    assert lines == [
        "| measure | prediction |",
        "| --- | --- |",
        "| LAB, shadow (S) | 1.25 |",
        "| LAB, S, over pixels (PP) | 1.25 |",
    ]
