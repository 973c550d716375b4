"""Scripts and .ci/run are executable bash that parses; extras, pins and version agree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import guided_diffusion
from tests.helpers.project import ROOT

BASH = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix)
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def extras() -> dict[str, list[str]]:
    """Name -> requirements of the optional dependencies. Python 3.10 has no TOML reader."""
    [section] = re.findall(r"^\[project.optional-dependencies\]\n(.*?)^\[", PROJECT, flags=re.M | re.S)
    lists = re.findall(r"^(\w+) = \[(.*?)\]$", section, flags=re.M | re.S)
    return {name: re.findall(r'"([^"]+)"', text) for name, text in lists}


@pytest.mark.parametrize("script", [*BASH, ROOT / ".ci/run"], ids=lambda path: path.name)
def test_script_is_bash_that_parses_and_stops_at_errors(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n# ") and "\nset -euo pipefail\n" in text
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_dev_installs_every_extra() -> None:
    found = extras()
    [own] = [name for name in found["dev"] if name.startswith("penumbra[")]
    assert set(own.removeprefix("penumbra[").removesuffix("]").split(",")) == set(found) - {"dev"}


def test_pinned_requirements_are_the_dependencies() -> None:
    [dependencies] = re.findall(r"^dependencies = \[(.*?)^\]", PROJECT, flags=re.M | re.S)
    pinned = re.findall(r"^([a-z]+)==", (ROOT / "requirements.txt").read_text(), flags=re.M)
    assert set(pinned) == set(re.findall(r'"([a-z]+)>=', dependencies))


def test_version_is_written_once() -> None:
    assert 'version = { attr = "guided_diffusion.__version__" }' in PROJECT
    assert not re.search(rf'^version = "{guided_diffusion.__version__}"', PROJECT, flags=re.M)


def test_files_that_ship_are_package_data() -> None:
    weights = {path.name for path in (ROOT / "guided_diffusion/weights").iterdir()}
    assert weights == {"scenes64.pt", "shadow_detector.pt", "scene_classifier.pt"}
    assert 'guided_diffusion = ["py.typed", "weights/*.pt"]' in PROJECT
    assert (ROOT / "guided_diffusion/py.typed").is_file()


def test_large_files_that_pre_commit_lets_pass_are_few() -> None:
    content = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    [hook] = [
        hook for repo in content["repos"] for hook in repo["hooks"] if hook["id"] == "check-added-large-files"
    ]
    folders = ("guided_diffusion", "confs", "docs", "tests", "scripts", "examples", "data/samples")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    large = [
        path.relative_to(ROOT).as_posix()
        for path in files
        if path.stat().st_size > 250 * 1024 and "__pycache__" not in path.parts
    ]
    assert [name for name in large if not re.match(hook["exclude"], name)] == []


PRETENDER = """#!/bin/sh
case "$*" in
  *platform*) echo 3.98.1 ;;
  *"-m venv"*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *"-m pytest"*) echo "ran in $PWD: $*" >>LOG; echo "SUMMARY in 0.10s"; exit STATUS ;;
esac
"""


@pytest.mark.parametrize(
    ("summary", "status"), [("7 passed, 1 skipped", 0), ("1 failed, 6 passed", 1)], ids=["pass", "fail"]
)
def test_other_pythons_are_reported_by_one_line_each(tmp_path: Path, summary: str, status: int) -> None:
    checkout, log = tmp_path / "checkout", tmp_path / "pytest.log"
    (checkout / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/test_pythons", checkout / "scripts")
    python = tmp_path / "pyenv/versions/3.98.1/bin/python"
    python.parent.mkdir(parents=True)
    changes = {"SUMMARY": summary, "STATUS": str(status), "LOG": str(log)}
    python.write_text(re.sub("|".join(changes), lambda found: changes[found[0]], PRETENDER))
    python.chmod(0o755)
    environment = {**os.environ, "PYENV_ROOT": str(tmp_path / "pyenv"), "PATH": "/usr/bin:/bin"}
    command = ["bash", "scripts/test_pythons", "3.98", "3.99"]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    first, *rest = done.stdout.splitlines()
    assert done.returncode == status, done.stderr
    assert re.fullmatch(rf"Python 3.98.1: {summary} in 0.10s \(\d+ s in all\)", first)
    assert rest[-1] == "Python 3.99: not on this machine"
    assert (checkout / "log/python-3.98.txt").exists() == (status == 1)
    [run] = log.read_text().splitlines()
    assert "not slow and not gpu" in run and str(checkout) not in run


@pytest.mark.parametrize(
    ("wheel", "summary", "status", "last"),
    [
        (0, "7 passed, 2 deselected in 1.00s", 0, "7 passed, 0 failed"),
        (1, "7 passed in 1.00s", 0, "7 passed, 1 failed"),
        (0, "2 failed, 5 passed, 1 error in 1.00s", 1, "5 passed, 3 failed"),
        (0, "ruff found an error", 1, "0 passed, 1 failed"),
        (0, "7 passed in 1.00s\nwarning: a resource leaked at exit", 0, "7 passed, 0 failed"),
        (0, "1 failed, 6 passed in 1.00s\nwarning: a resource leaked at exit", 1, "6 passed, 1 failed"),
        (0, "9 passed, of an example\n7 passed in 1.00s", 0, "7 passed, 0 failed"),
        (0, "1 error in 1.00s", 1, "0 passed, 1 failed"),
        (0, "no tests ran in 0.01s", 0, "0 passed, 1 failed"),
    ],
)
def test_ci_ends_with_the_counts_of_all_jobs(
    tmp_path: Path, wheel: int, summary: str, status: int, last: str
) -> None:
    (tmp_path / ".ci").mkdir()
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    stand_ins = {
        "install": "exit 0",
        "check_wheel": f"exit {wheel}",
        "test_pythons": "echo 'Python 3.98.1: 9 passed in 1 s'",
        "test": f"echo '{summary}'; exit {status}",
    }
    for name, body in stand_ins.items():
        (tmp_path / "scripts" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "scripts" / name).chmod(0o755)
    done = subprocess.run(["bash", str(tmp_path / ".ci/run")], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == last
    assert (done.returncode == 0) == last.endswith(" 0 failed")
