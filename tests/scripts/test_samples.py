"""scripts/samples.py: its output is what data/samples holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from guided_diffusion.images.formats import list_images, read_image

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "data" / "samples"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "samples.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})


def test_samples_writes_the_shipped_images_elsewhere(tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in SAMPLES.rglob("*")}
    outcome = run("--out", str(tmp_path))
    assert outcome.returncode == 0, outcome.stderr
    names = list_images(tmp_path)
    assert names == [name for name in list_images(SAMPLES) if not name.startswith("photos/")]
    assert len(names) == 21
    for name in names:
        image, shipped = read_image(tmp_path / name).astype(int), read_image(SAMPLES / name)
        gap = np.abs(image - shipped)
        assert (gap > 1).mean() < 0.001, f"{name}: processors may round differently, no more"
    assert {path: path.stat().st_mtime_ns for path in SAMPLES.rglob("*")} == before


def test_samples_help_names_its_flag() -> None:
    outcome = run("--help")
    assert outcome.returncode == 0 and "--out" in outcome.stdout
