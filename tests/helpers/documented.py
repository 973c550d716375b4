"""Commands that the documentation shows, and a small copy of the project in which they run as they stand.

The copy has the same files; its sample images are small and its YAMLs take few steps. No flag is changed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from guided_diffusion.output.log_folder import KEY

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("python", "penumbra", "bash", "torchrun", ".venv/bin/python")
PACKAGE = "guided_diffusion"
SIDE = 80  # pixels of the longer side of a sample image in the copy

# Patterns of commands that do not run here, and why. Their flags are parsed instead.
NOT_RUN = {
    r"\bdownload\.sh (?!-h)": "downloads gigabytes",
    r"^(git clone|pip install)": "needs the network",
    r"scripts/(install|check|test|check_wheel|test_pythons)\b": "installs or tests; CI does it",
    r"^torchrun": "starts several processes; tests/cli and tests/training do it",
    r"\bray=": "starts a Ray cluster; tests/runners does it",
    r"(test\.py|penumbra) .*confs/(face_\w+|shadow_places2|\w+_istd128|test_\w+)\.yml": "needs a download",
    r"--dataset|--real|ISTD": "needs a dataset that does not ship",
    r"guided_diffusion\.benchmark": "measures for minutes, as it should",
    r"scripts/(ladder|figures|samples)\.py": "trains or draws for minutes",
    r"(guided_diffusion\.judge|scripts/\w+\.py)(?!.*--n \d\b)": "works on dozens of images",
}

# Settings in the YAMLs of the copy.
SMALL = {
    r"^timestep_respacing: .*": "timestep_respacing: '6'",
    r"^(\s+)jump_length: \d+": r"\1jump_length: 2",
    r"^(\s+)jump_n_sample: \d+": r"\1jump_n_sample: 2",
    r"^t_start: \d+": "t_start: 4",
    r"^generate: \d+": "generate: 2",
    r"^iterations: \d+": "iterations: 1",
    r"^batch_size: \d+": "batch_size: 2",
    r"^workers: \d+": "workers: 0",
    r"^(loss_factors: .*)": r"\1\ndiffusion_steps: 4",  # priors only: fewer steps for the sample grid
    r"^data:$(?![\s\S]*max_len:)": "data:\n  max_len: 1",
}

# Placeholders in the documentation -> what stands there in the copy.
PLACEHOLDERS = {
    "--shadow_free DIR": "--shadow_free data/samples/shadow_free",
    "--mask DIR": "--mask data/samples/shadow_mask",
    "--shadow DIR": "--shadow data/samples/shadow",
    "--images DIR": "--images data/samples/shadow_free",
    "--pred DIR": "--pred data/samples/shadow",
}

# Files that the documentation takes for granted -> the sample they are copied from.
GIVEN = {
    "photo.jpg": "shadow/scene_road.png",
    "holiday.png": "shadow/scene_hand.png",
    "photos/photo.jpg": "shadow/scene_road.png",
    "holiday/photo.jpg": "shadow/scene_road.png",
    "my_images/photo.jpg": "shadow/scene_road.png",
    "mask.png": "shadow_mask/scene_road.png",
    "masks/photo.png": "shadow_mask/scene_road.png",
    "my_masks/photo.png": "shadow_mask/scene_road.png",
    "log/shadow/shadow_free": "shadow_free",
    "my_shadow_free": "shadow_free",
    "my_shadow_masks": "shadow_mask",
}

PARSE_ONLY = """
import argparse, runpy, sys
def stopping(parse):
    def parse_and_stop(self, *args, **kwargs):
        parse(self, *args, **kwargs)
        sys.exit(0)
    return parse_and_stop
for name in ("parse_args", "parse_intermixed_args"):
    setattr(argparse.ArgumentParser, name, stopping(getattr(argparse.ArgumentParser, name)))
kind, name, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = name
run = runpy.run_module if kind == "-m" else runpy.run_path
run(name, run_name="__main__")
sys.exit(f"{name} parsed no arguments")
"""


@dataclass(frozen=True)
class Command:
    """A command line of the documentation."""

    page: str
    """Path of the page, relative to the project."""
    line: str
    """The command, its continuation lines joined."""

    def __str__(self) -> str:
        return f"{self.page}: {self.line[:60]}"

    @property
    def words(self) -> list[str]:
        """Words without comment and without environment variables in front."""
        words = shlex.split(self.line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]
        return words

    @property
    def reason(self) -> str | None:
        """Why the command does not run here; None if it does."""
        line = shlex.join(self.words)
        return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, line)), None)


def pages() -> list[Path]:
    """Return README.md and every page in docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page in that language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def commands() -> list[Command]:
    """Return the commands of all bash blocks, each once."""
    by_line: dict[str, Command] = {}
    for page, line in _shown_in_blocks():
        by_line.setdefault(line, Command(page, line))
    return [*by_line.values()]


def _shown_in_blocks() -> Iterator[tuple[str, str]]:
    for page in pages():
        for block in blocks(page, "bash"):
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                command = re.sub(r"(^|\s+)# .*", "", line).strip()
                if command:
                    yield page.relative_to(ROOT).as_posix(), command


def mentions() -> list[Command]:
    """Return the commands with arguments that stand inside sentences, each once, less those of the blocks."""
    shown = {command.line for command in commands()}
    starts = "|".join(re.escape(program) for program in PROGRAMS)
    by_line: dict[str, Command] = {}
    for page in pages():
        prose = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        for line in re.findall(rf"`((?:{starts}) [^`]*)`", prose):
            line = " ".join(line.split())
            bare = re.fullmatch(r"\S+( -m)? \S+", line) and not line.startswith(("bash", "penumbra"))
            if line not in shown and not bare and "..." not in line and "…" not in line:
                by_line.setdefault(line, Command(page.relative_to(ROOT).as_posix(), line))
    return [*by_line.values()]


def copy_project(target: Path) -> None:
    """Lay out the small copy of the project in an empty folder."""
    names = ("confs", PACKAGE, "scripts", "examples", "docs", "test.py", "penumbra.py", "download.sh")
    for name in (*names, "requirements.txt", "pyproject.toml"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target / name)
    for conf in (target / "confs").rglob("*.yml"):
        text = conf.read_text("utf-8")
        for pattern, value in SMALL.items():
            text = re.sub(pattern, value, text, flags=re.MULTILINE)
        conf.write_text(text, "utf-8")
    for name in ("mine.yml", "confs/mine.yml"):
        shutil.copy(target / "confs/shadow.yml", target / name)
    samples = target / "data/samples"
    for source in (ROOT / "data/samples").rglob("*.png"):
        _shrink(source, samples / source.relative_to(ROOT / "data/samples"))
    for name, sample in GIVEN.items():
        if (samples / sample).is_dir():
            shutil.copytree(samples / sample, target / name)
        else:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            Image.open(samples / sample).save(target / name)
    _give_key(target / "log/shadow/shadow_free/scene_road.png")
    _lay_out_environment(target)


def _give_key(path: Path) -> None:
    """Put a key into a PNG, as a run does."""
    image, text = Image.open(path), PngInfo()
    text.add_text(KEY, "0" * 64)
    image.save(path, pnginfo=text)


def _shrink(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as image:
        mask = "mask" in source.parent.name
        small = image.copy()
        small.thumbnail((SIDE, SIDE), Image.Resampling.NEAREST if mask else Image.Resampling.BOX)
        small.save(target)


def _lay_out_environment(target: Path) -> None:
    """Make a .venv that scripts/install takes for complete, with the Python that runs the tests."""
    programs = target / ".venv/bin"
    programs.mkdir(parents=True)
    for name, words in (("python", ""), ("penumbra", "-m penumbra ")):
        shim = programs / name
        shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
        shim.chmod(0o755)
    (programs / "activate").touch()
    for extra in ("runtime", "dev"):
        stamp = '"$PWD $(cat requirements.txt pyproject.toml scripts/install | cksum)"'
        subprocess.run(["bash", "-c", f"echo {stamp} >.venv/installed-{extra}"], cwd=target, check=True)


def environment(copy: Path) -> dict[str, str]:
    """Return the variables with which programs of the copy run."""
    path = os.pathsep.join([str(copy / ".venv/bin"), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}


def run(command: Command, copy: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in the copy, placeholders replaced."""
    line = command.line
    for placeholder, value in PLACEHOLDERS.items():
        line = line.replace(placeholder, value)
    done = ["bash", "-e", "-o", "pipefail", "-c", line]
    return subprocess.run(done, cwd=copy, env=environment(copy), capture_output=True, text=True, timeout=600)


def parse(command: Command, copy: Path) -> str:
    """Parse the flags of a command without running it; returns what is wrong, or nothing."""
    words = command.words
    if words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        options = get_args_parser().parse_args(words[1:])
        script = ["-m"] if options.module else []
        words = ["python", *script, options.training_script, *options.training_script_args]
    if words[0] == "penumbra":
        words = ["python", "-m", "penumbra", *words[1:]]
    if words[0].endswith("python"):
        kind, rest = ("-m", words[2:]) if words[1] == "-m" else ("file", words[1:])
        if rest[0] in ("pip", "pytest") or words[1] == "-c":
            return ""
        call = [sys.executable, "-c", PARSE_ONLY, kind, *rest]
        done = subprocess.run(call, cwd=copy, env=environment(copy), capture_output=True, text=True)
        return done.stderr.strip() if done.returncode else ""
    if words[0] in ("bash", "sh"):
        words = words[1:]
    if words[0] == "download.sh":
        usage = subprocess.run(["bash", "download.sh", "-h"], cwd=copy, capture_output=True, text=True).stdout
        return "".join(f"{word}: not in its usage. " for word in words[1:] if word not in usage)
    if words[0].startswith("scripts/"):
        return "" if os.access(ROOT / words[0], os.X_OK) else f"{words[0]} is not an executable file"
    if words[:2] == ["pip", "install"]:
        extras = re.findall(r"\[(\w+(?:,\w+)*)\]", " ".join(words))
        known = (ROOT / "pyproject.toml").read_text("utf-8")
        names = [name for extra in extras for name in extra.split(",")]
        return "".join(
            f"{name}: no extra. " for name in names if not re.search(rf"^{name} = \[", known, re.M)
        )
    return "" if words[:2] == ["git", "clone"] else f"{words[0]}: nothing here can parse it"
