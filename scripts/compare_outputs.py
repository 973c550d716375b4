#!/usr/bin/env python3
"""Compare the images that this checkout makes with those of another revision, byte for byte.

    OMP_NUM_THREADS=1 python scripts/compare_outputs.py 41adabd
    OMP_NUM_THREADS=1 python scripts/compare_outputs.py HEAD~1 --only demo generate --set data.max_len=1

The other revision is checked out in a temporary git worktree. Both run the same cases: the demo, further
shipped YAMLs, and the Python example. Every PNG in the log folders is compared. In addition, this checkout
must accept the other revision's finished images and run.json, so that nothing is computed again. All results
are deleted at the end; --log keeps them.
Exit status: 0 all equal, 1 something differs, 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
API = """\
import sys
from PIL import Image
from guided_diffusion import Engine, load_config
folder, *settings = sys.argv[1:]
engine = Engine(load_config("confs/shadow.yml", ["timestep_respacing=20", *settings]))
image = Image.open("data/samples/shadow/scene_road.png")
mask = Image.open("data/samples/shadow_mask/scene_road.png")
engine.inpaint(image, mask).save(f"{folder}/inpainted.png")
engine.remove_shadow(image, mask).save(f"{folder}/shadow_free.png")
"""
OVERVIEW = "overview.png"  # compared apart: titles of its columns may be reworded


@dataclass(frozen=True)
class Case:
    """One run of the command."""

    conf: str
    """YAML, relative to the repository."""
    settings: tuple[str, ...] = ()
    """Settings laid over it."""

    def command(self, folder: str, root: Path, settings: Sequence[str]) -> list[str]:
        """Return the command that runs it in a checkout; results go to log/FOLDER."""
        chosen = [f"name={folder}", *self.settings, *settings]
        if not (root / "guided_diffusion/tasks.py").exists():  # a revision before the key `task`
            chosen = [setting.replace("task=inpaint", "method=repaint") for setting in chosen]
        return [sys.executable, "test.py", "--conf_path", self.conf, "--set", *chosen]


CASES = {
    "demo": Case("confs/shadow.yml"),
    "generate": Case("confs/generate.yml"),
    "intermediate": Case("confs/shadow_intermediate.yml"),
    "ilvr": Case("confs/shadow_ilvr.yml"),
    "repaint": Case("confs/shadow_repaint.yml", ("data.max_len=2",)),
    "td_paint": Case("confs/shadow.yml", ("task=inpaint", "method=td_paint")),
    "ddnm": Case("confs/shadow.yml", ("task=inpaint", "method=ddnm")),
    "ddim": Case("confs/shadow.yml", ("task=inpaint", "method=ddim")),
    "auto": Case("confs/shadow.yml", ("data.mask_path=auto",)),
    "seeds": Case("confs/shadow.yml", ("seeds=2", "data.max_len=2")),
    "overlap": Case("confs/shadow.yml", ("task=inpaint", "windows=overlap", "data.max_len=1")),
    "whole": Case("confs/shadow.yml", ("task=inpaint", "windows=whole", "data.max_len=1")),
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    lines = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(
        description=lines[0],
        epilog="\n".join(lines[2:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("revision", help="commit, branch or tag to compare with")
    parser.add_argument("--only", nargs="+", choices=[*CASES, "api"], help="cases to run (default: all)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings for all cases")
    parser.add_argument(
        "--log", type=Path, metavar="FOLDER", help="keep the results in FOLDER/revision and FOLDER/checkout"
    )
    return parser.parse_args(arguments)


def run(root: Path, command: Sequence[str]) -> str:
    """Run a command with the package of a checkout; returns what it prints. Raises CalledProcessError."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        done.check_returncode()
    return done.stdout


def differences(old: Path, new: Path) -> Iterator[str]:
    """Yield the PNG files below two folders that are not the same, byte for byte."""
    names = sorted({p.relative_to(folder) for folder in (old, new) for p in folder.rglob("*.png")})
    for name in names:
        if not (old / name).exists() or not (new / name).exists():
            yield f"{name}: only in one of them"
        elif not filecmp.cmp(old / name, new / name, shallow=False):
            yield f"{name}: differs"


def compare_case(name: str, other: Path, parent: str, settings: Sequence[str]) -> bool:
    """Run one case in both checkouts, into log/PARENT/NAME, and report; returns True if nothing differs."""
    case, folder = CASES[name], f"{parent}/{name}"
    for root in (other, ROOT):
        run(root, case.command(folder, root, settings))
    lines = list(differences(other / "log" / folder, ROOT / "log" / folder))
    images = [line for line in lines if not line.startswith(OVERVIEW)]
    resumed = resumes(case, folder, other, settings)
    count = sum(p.name != OVERVIEW for p in (ROOT / "log" / folder).rglob("*.png"))
    overview = "overview differs" if len(lines) > len(images) else "overview equal"
    verdict = "all equal" if not images else "; ".join(images)
    print(f"{name:13} {count:3} images: {verdict}; {overview}; {'resumes' if resumed else 'RECOMPUTES'}")
    return not images and resumed


def resumes(case: Case, folder: str, other: Path, settings: Sequence[str]) -> bool:
    """Return True if this checkout takes over all that the other revision finished."""
    copy = ROOT / "log" / f"{folder}_resumed"
    shutil.copytree(other / "log" / folder, copy)
    out = run(ROOT, case.command(f"{folder}_resumed", ROOT, settings))
    return re.search(r"(\d+) of \1 images were finished before", out) is not None


def compare_api(other: Path, parent: str, settings: Sequence[str]) -> bool:
    """Run the Python example in both checkouts, into log/PARENT/api; returns True if nothing differs."""
    folder = f"log/{parent}/api"
    for root in (other, ROOT):
        (root / folder).mkdir(parents=True)
        run(root, [sys.executable, "-c", API, folder, *settings])
    lines = list(differences(other / folder, ROOT / folder))
    print(f"{'api':13}   2 images: {'all equal' if not lines else '; '.join(lines)}")
    return not lines


@contextmanager
def temporary_log() -> Iterator[Path]:
    """Make a folder in log/ for the time of the comparison; log/ goes too where it was not there before."""
    log = ROOT / "log"
    existed = log.exists()
    log.mkdir(exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="compare_", dir=log) as folder:
            yield Path(folder)
    finally:
        if not existed and not any(log.iterdir()):
            log.rmdir()


def keep_results(target: Path, old: Path, new: Path) -> None:
    """Copy the results of both to target/revision and target/checkout."""
    for name, folder in (("revision", old), ("checkout", new)):
        if folder.exists():
            shutil.copytree(folder, target / name, dirs_exist_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare; returns the exit status."""
    options = parse(arguments)
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as folder, temporary_log() as results:
        other = Path(folder) / "other"
        added = subprocess.run([*git, "add", "--detach", str(other), options.revision], capture_output=True)
        if added.returncode:
            print(f"{options.revision}: {added.stderr.decode().strip()}", file=sys.stderr)
            return 2
        try:
            names = [name for name in CASES if not options.only or name in options.only]
            equal = [compare_case(name, other, results.name, options.set) for name in names]
            if not options.only or "api" in options.only:
                equal.append(compare_api(other, results.name, options.set))
        except subprocess.CalledProcessError as error:
            print(f"this command failed: {' '.join(error.cmd)}", file=sys.stderr)
            return 2
        finally:
            if options.log:
                keep_results(options.log, other / "log" / results.name, results)
            subprocess.run([*git, "remove", "--force", str(other)], capture_output=True)
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main())
