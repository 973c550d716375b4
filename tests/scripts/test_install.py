"""scripts/install names an unsuitable Python in one line, and then leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.project import ROOT


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, "there is no "),
        ('case "$*" in *platform*) echo 3.8.10;; *) exit 1;; esac', "is 3.8.10. Set PYTHON="),
        (
            'case "$*" in *ensurepip*) exit 1;; *platform*) echo 3.12.1;; esac',
            "lacks venv or ensurepip; install",
        ),
    ],
)
def test_unsuitable_python_is_named_in_one_line(tmp_path: Path, body: str | None, message: str) -> None:
    root, python = tmp_path / "a place", tmp_path / "python"
    (root / "scripts").mkdir(parents=True)
    for name in ("scripts/demo", "scripts/install", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    if body:
        python.write_text(f"#!/bin/sh\n{body}\n")
        python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python)}
    script = ["bash", str(root / "scripts" / "demo")]
    done = subprocess.run(script, cwd="/", env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    [line] = done.stderr.splitlines()
    assert message in line
    assert not (root / ".venv").exists()
