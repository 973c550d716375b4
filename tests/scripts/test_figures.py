"""scripts/figures.py on tiny runs: each figure is written where the documentation shows it."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from guided_diffusion.images.formats import read_image, write_image
from tests.helpers.project import ROOT, Cli, Outcome, image

SCRIPT = str(ROOT / "scripts" / "figures.py")


@pytest.fixture
def figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Return a function that runs the script in an empty folder, with results in ./docs and runs in ./log."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", [SCRIPT, *arguments, "--out", "docs", "--log", "log"])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(SCRIPT, run_name="__main__")
        captured = capsys.readouterr()
        return Outcome(int(caught.value.code or 0), captured.out, captured.err)

    return call


def test_strip_shows_a_column_per_sample_scene(figures: Cli) -> None:
    names = sorted(path.name for path in (ROOT / "data/samples/shadow").glob("scene_*.png"))
    for folder in ("inpainted", "shadow_free"):
        for seed, name in enumerate(names):
            write_image(Path("log/shadow", folder, name), image(seed))
    assert figures("strip").code == 0
    height, width = read_image("docs/images/strip.png").shape[:2]
    assert height >= 4 * 192 and width >= len(names) * 192


def test_failures_removes_the_shadow_of_the_given_scenes(figures: Cli) -> None:
    steps = ("prior=none", "refine=false", "inpaint_black=false", "second_pass=false")
    fast = ["outputs=shadow_free", *(f"relight.{step}" for step in steps)]
    outcome = figures("failures", "--worst", "3", "9", "--size", "32", "--set", *fast)
    assert outcome.code == 0, outcome.err
    height, width = read_image("docs/images/shadow_failures.png").shape[:2]
    assert height >= 2 * 192 and width >= 4 * 192


def test_loss_plots_stages(figures: Cli) -> None:
    rows = [
        f"{stage},{50 * step},{1 / step},{20 / step}" for step in range(1, 7) for stage in [1 + step // 4]
    ]
    Path("losses.csv").write_text("\n".join(["stage,images,simple,bound", *rows]))
    assert figures("loss", "--losses", "losses.csv").code == 0
    assert np.ptp(read_image("docs/reports/scenes64_loss.png")) > 100


def test_samples_shows_eight_images_in_a_row(figures: Cli) -> None:
    for seed in range(9):
        write_image(Path(f"log/generate/inpainted/{seed:04d}.png"), image(seed))
    assert figures("samples").code == 0
    height, width = read_image("docs/reports/scenes64_samples.png").shape[:2]
    assert height >= 2 * 128 and width >= 8 * 128


def test_figures_names_an_unknown_figure(figures: Cli) -> None:
    outcome = figures("strips")
    assert outcome.code == 2 and "'strips' is unknown; choose among strip, failures" in outcome.err
