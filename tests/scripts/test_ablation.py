"""scripts/ablation.py on tiny images: its table, its CSV, its photographs, its errors."""

from __future__ import annotations

import csv
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from guided_diffusion.images.formats import write_image
from guided_diffusion.scenes.render import render, scene_rng
from tests.helpers.project import MODEL, ROOT, Cli, Outcome

SCRIPT = str(ROOT / "scripts" / "ablation.py")
COLUMNS = ["lab_s", "lab_ns", "lab_all", "psnr_s_true", "lab_band", "texture", "matte"]


@pytest.fixture
def ablation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Return a function that runs the script with these arguments in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", [SCRIPT, *arguments])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(SCRIPT, run_name="__main__")
        captured = capsys.readouterr()
        return Outcome(int(caught.value.code or 0), captured.out, captured.err)

    return call


def read_table(text: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return {row[0]: row[1:] for row in rows[2:]}


def test_ablation_scores_methods_and_writes_a_csv(ablation: Cli) -> None:
    methods = ["identity", "relight", "oracle affine", "oracle field"]
    fast = ["--size", "48", "--set", "relight.second_pass=false"]
    outcome = ablation("--n", "2", *fast, "--rows", *methods, "--csv", "scores.csv")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[0] == f"| | {' | '.join(COLUMNS)} | S, 90 % by scene |"
    table = read_table(outcome.out)
    assert list(table) == methods
    lab = {method: float(row[0]) for method, row in table.items()}
    assert max(lab["oracle affine"], lab["oracle field"]) < lab["identity"]
    mattes = {method: row[6] for method, row in table.items()}
    assert mattes["identity"] == mattes["oracle affine"] == "nan"
    assert 0 < float(mattes["relight"]) < 0.2
    with open("scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["row"], row["name"]) for row in rows[:3]] == [
        ("identity", "0000"),
        ("identity", "0001"),
        ("relight", "0000"),
    ]
    assert np.mean([float(row["lab_s"]) for row in rows[:2]]) == pytest.approx(lab["identity"], abs=1e-3)


@pytest.mark.parametrize(
    "method", ["RePaint, 130 NFE", "intermediate, t = 200", "ILVR, N = 8", "relight, prior, refined"]
)
def test_ablation_runs_every_sampler(ablation: Cli, tiny_weights: Path, method: str) -> None:
    tiny = {**MODEL, "model_path": str(tiny_weights), "norm_num_groups": 32, "per_pixel_time": False}
    keys = ["relight.second_pass=false", *(f"{key}={value!r}" for key, value in tiny.items())]
    outcome = ablation("--n", "1", "--size", "16", "--rows", method, "--set", *keys)
    assert outcome.code == 0, outcome.err
    assert list(read_table(outcome.out)) == [method]


def test_ablation_reads_photographs(ablation: Cli) -> None:
    for index in range(2):
        scene = render(scene_rng(5, index), 32)
        mask = np.repeat(np.where(scene.mask, 255, 0)[..., None], 3, axis=2).astype(np.uint8)
        for folder, image in (("shadow", scene.shadow), ("mask", mask), ("free", scene.free)):
            write_image(Path(folder, f"{index}-1.png"), image)
    outcome = ablation("--real", ".", "--rows", "identity", "oracle affine")
    assert outcome.code == 0, outcome.err
    table = read_table(outcome.out)
    assert float(table["oracle affine"][0]) < float(table["identity"][0])
    assert " to " in table["identity"][-1]


def test_ablation_explains_wrong_weights_in_a_line(ablation: Cli) -> None:
    outcome = ablation(
        "--n", "1", "--size", "16", "--rows", "RePaint, 130 NFE", "--set", "model_path=gone.pt"
    )
    assert outcome.code == 2 and outcome.out == ""
    assert outcome.err.splitlines()[-1].startswith("error: ") and "gone.pt" in outcome.err
