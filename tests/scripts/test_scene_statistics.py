"""Statistics of procedural images against those of photographs, and the script that compares them."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from guided_diffusion.evaluation.image_statistics import statistics
from guided_diffusion.images.formats import write_image
from guided_diffusion.scenes.render import render_free, scene_rng

SCRIPT = str(Path(__file__).resolve().parents[2] / "scripts" / "scene_statistics.py")


@pytest.fixture(scope="module")
def values() -> list[dict[str, float]]:
    return [statistics(render_free(scene_rng(3000, index), 128)) for index in range(200)]


@pytest.mark.parametrize(
    ("key", "photographs"),  # at 128 x 128, see docs/reports/scenes.md
    [("slope", 1.66), ("contrast", 0.128), ("chroma", 17.3), ("mean_l", 62.0)]
    + [("within_l", 7.2), ("within_a", 2.6), ("within_b", 3.3)],
)
def test_mean_statistics_are_like_photographs(
    values: list[dict[str, float]], key: str, photographs: float
) -> None:
    assert np.mean([image[key] for image in values]) == pytest.approx(photographs, rel=0.25)


def test_edges_are_as_rare_as_in_photographs(values: list[dict[str, float]]) -> None:
    assert np.exp(np.mean([np.log(image["kurtosis"]) for image in values])) == pytest.approx(15.8, rel=0.25)


@pytest.mark.parametrize(("key", "photographs"), [("mean_l", 8.1), ("mean_a", 5.4), ("mean_b", 10.2)])
def test_images_differ_as_photographs_do(
    values: list[dict[str, float]], key: str, photographs: float
) -> None:
    assert np.std([image[key] for image in values]) == pytest.approx(photographs, rel=0.25)


def test_script_finds_images_like_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(12):
        write_image(tmp_path / "real" / f"place{index}.png", render_free(scene_rng(3000, index), 32))
    sheet = tmp_path / "sheet.png"
    words = [
        "--real",
        str(tmp_path / "real"),
        "--n",
        "12",
        "--size",
        "32",
        "--crops",
        "3",
        "--sheet",
        str(sheet),
    ]
    monkeypatch.setattr(sys, "argv", [SCRIPT, *words])
    runpy.run_path(SCRIPT, run_name="__main__")
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    assert len(rows) == 11
    assert {row[-2].strip() for row in rows} == {"1.00"}
    for row in rows:
        low, high = (float(word) for word in row[3].split(" to "))
        assert low <= float(row[2]) <= high
    assert sheet.is_file()
