"""Every program in examples/ runs as its docstring says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.project import ROOT

SHORT = ["--set", "timestep_respacing=4", "schedule_jump_params.jump_length=2"]
WITHOUT_PRIOR = ["--set", "relight.prior=none", "relight.refine=false"]
IMAGE = ROOT / "data/samples/shadow/scene_road.png"
MASK = ROOT / "data/samples/shadow_mask/scene_road.png"


def run(name: str, *arguments: str | Path) -> str:
    """Run a program of examples/; returns what it printed."""
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


@pytest.mark.parametrize("mask", [[], ["--mask", MASK]])
def test_remove_shadow_changes_only_the_shadow_and_its_rim(tmp_path: Path, mask: list[str | Path]) -> None:
    run("remove_shadow.py", IMAGE, tmp_path / "out.png", *mask, *WITHOUT_PRIOR)
    before, after = pixels(IMAGE), pixels(tmp_path / "out.png")
    changed = (before != after).any(axis=2)
    shadow = pixels(MASK)[..., 0] == 0
    assert after.shape == before.shape
    assert changed[shadow].mean() > 0.5 > 5 * changed[~shadow].mean()


def test_inpaint_saves_a_result_per_seed_side_by_side(tmp_path: Path) -> None:
    run("inpaint.py", IMAGE, MASK, tmp_path / "out.png", "--seeds", "2", *SHORT)
    before, keep = pixels(IMAGE), pixels(MASK)[..., 0] > 0
    first, second = np.split(pixels(tmp_path / "out.png"), 2, axis=1)
    assert np.array_equal(first[keep], before[keep]) and np.array_equal(second[keep], before[keep])
    assert (first[~keep] != second[~keep]).any()


def test_add_a_sampler_draws_from_the_prior() -> None:
    numbers = [float(number) for number in re.findall(r"[0-9.]+\d", run("add_a_sampler.py"))]
    mean, prior_mean, deviation, prior_deviation = numbers
    assert mean == pytest.approx(prior_mean, abs=0.01)
    assert deviation == pytest.approx(prior_deviation, abs=0.01)


def test_every_example_is_tested() -> None:
    tested = set(re.findall(r'run\("(\w+\.py)"', Path(__file__).read_text(encoding="utf-8")))
    assert tested == {path.name for path in (ROOT / "examples").glob("*.py")}
