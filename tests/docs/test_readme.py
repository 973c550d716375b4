"""Every command in the README runs, on a shortened schedule; every file it names is there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORT = ["--set", "timestep_respacing=4", "schedule_jump_params.jump_length=2", "data.max_len=1"]


def commands() -> list[str]:
    spans = re.findall(r"`((?:python|bash) [^`\n]+)`", README)
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return sorted({*spans, *filter(None, lines)})


def runnable(command: str, folder: Path) -> list[str | Path] | None:
    """The command as it is run here: shortened, and with files of the temporary folder."""
    command = command.replace("DIR", str(folder / "scenes")).replace("confs/mine.yml", "confs/shadow.yml")
    words: list[str | Path] = [*command.split()]
    if words[:2] in (["bash", "scripts/demo"], ["bash", "scripts/test"]):
        return None  # this very run is scripts/test; scripts/demo runs the first command below
    if words[1] == "download.sh":
        return ["bash", "download.sh", "-h"]
    if words[1] == "test.py" and "--dry_run" not in words:
        words += SHORT
    if "guided_diffusion.train" in words:
        words += [
            "--set",
            "iterations=1",
            "batch_size=2",
            f"out={folder / 'run'}",
            "save_interval=9",
            "workers=0",
        ]
    if "guided_diffusion.evaluate" in words:
        samples = ROOT / "data/samples"
        words = [*words[:3], "--pred", samples / "shadow", "--free", samples / "shadow_free"]
        words += ["--mask", samples / "shadow_mask"]
    if words[1] == "guided_diffusion/scheduler.py":
        words += ["--no_plot"]
    return [sys.executable, *words[1:]] if words[0] == "python" else words


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user has: a copy of the tree, so that log folders do not land in ours."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("confs", "guided_diffusion"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data").symlink_to(ROOT / "data")  # read only, and it may hold gigabytes of downloads
    for name in ("test.py", "download.sh"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.mark.parametrize("command", commands())
def test_the_command_runs(command: str, checkout: Path) -> None:
    words = runnable(command, checkout)
    if words is None:
        assert (ROOT / command.split()[1]).stat().st_mode & 0o111
        return
    done = subprocess.run(words, cwd=checkout, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_python_example_runs(checkout: Path) -> None:
    [code] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    short = code.replace(
        "timestep_respacing=20", 'timestep_respacing=4", "schedule_jump_params.jump_length=2'
    )
    assert short != code
    done = subprocess.run(
        [sys.executable, "-c", short], cwd=checkout, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (checkout / "filled.png").exists()


def test_every_linked_file_is_there() -> None:
    names = re.findall(r"\]\((?!https)([^)#]+)\)", README)
    assert len(names) >= 6
    assert [name for name in names if not (ROOT / name).exists()] == []
