"""Adding a sampler: one file in samplers/ and one YAML, in a copy of the repository, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from guided_diffusion.images.formats import read_image
from tests.helpers.project import MODEL, ROOT, image, keep_mask

Printed = tuple[int, str]  # exit code, and text

SAMPLER = '''"""Toy step: jumps to the prediction, then adds noise.

Paper: none.
"""

from dataclasses import dataclass
from typing import ClassVar

from guided_diffusion.config.builder import Share
from guided_diffusion.samplers.base import Problem, Sampler, Step, inject


@dataclass(frozen=True)
class ToyStep(Sampler):
    """Toy step."""

    generates: ClassVar[bool] = True

    toy_strength: Share
    """Share of the prediction that is taken at each step."""

    def down(self, problem: Problem, step: Step, t_next: int) -> Step:
        x = inject(problem, step.x, step.t)
        p = problem.denoise(x, step.t)
        x0 = self.toy_strength * p.x0
        return Step(t_next, problem.process.q_sample(x0, t_next, problem.noise()), p.x0)
'''

PROGRAM = """
import contextlib, io, json
from guided_diffusion import cli

outcomes = {}
for line in open("commands.txt").read().splitlines():
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        code = cli.main(line.split())
    outcomes[line] = [code, out.getvalue()]
json.dump(outcomes, open("outcomes.json", "w"))
"""

COMMANDS = """\
--conf_path toy.yml
--conf_path toy.yml --dry_run
--conf_path toy.yml --set toy_strenght=0.3
--conf_path toy.yml --set toy_strength=7
--conf_path toy.yml --set method=toystep
--conf_path toy.yml --set eta=0.5
--conf_path toy.yml --set method=ddim --dry_run
--conf_path toy.yml --set data.gt_path=null data.mask_path=null generate=1 name=generated"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the command needs, with the new file in it."""
    root = tmp_path_factory.mktemp("copy")
    ignore = shutil.ignore_patterns("__pycache__", "weights")
    for folder in ("guided_diffusion", "confs", "scripts"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignore)
    (root / "guided_diffusion/weights").symlink_to(ROOT / "guided_diffusion/weights")
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "guided_diffusion/samplers/toy_step.py").write_text(SAMPLER)
    return root


def run_in(root: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run([*map(str, command)], cwd=root, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def outcomes(copy: Path, tiny_weights: Path) -> dict[str, Printed]:
    """Command -> what it printed, and its exit code; all of them in one process."""
    for folder, pixels in (("gts", image(0)), ("masks", keep_mask())):
        (copy / folder).mkdir()
        Image.fromarray(pixels).save(copy / folder / "p0.png")
    keys = {
        "name": "toy",
        "method": "toy_step",
        "toy_strength": 0.5,
        "timestep_respacing": "4",
        "precision": "fp32",
    }
    data = {"data": {"gt_path": "gts", "mask_path": "masks"}, "show_progress": False}
    conf = {"model_path": str(tiny_weights), **MODEL, **keys, **data}
    (copy / "toy.yml").write_text(yaml.safe_dump(conf))
    (copy / "commands.txt").write_text(COMMANDS)
    done = run_in(copy, sys.executable, "-c", PROGRAM)
    assert done.returncode == 0, done.stderr
    return {
        command: tuple(outcome)
        for command, outcome in json.loads((copy / "outcomes.json").read_text()).items()
    }


def test_yaml_runs_the_method(copy: Path, outcomes: dict[str, Printed]) -> None:
    code, text = outcomes["--conf_path toy.yml"]
    assert code == 0 and "1 of 1 images" in text, text
    saved, shown, keep = read_image(str(copy / "log/toy/inpainted/p0.png")), image(0), keep_mask()
    assert np.array_equal(saved[keep], shown[keep]) and (saved[~keep] != shown[~keep]).mean() > 0.5
    run = json.loads((copy / "log/toy/run.json").read_text())
    assert run["config"]["method"] == "toy_step" and run["config"]["toy_strength"] == 0.5
    assert run["images"]["p0"]["nfe"] == 4


def test_dry_run_plans_the_method(outcomes: dict[str, Printed]) -> None:
    code, text = outcomes["--conf_path toy.yml --dry_run"]
    assert code == 0 and "4 NFE per image" in text


def test_unknown_key_names_the_nearest(outcomes: dict[str, Printed]) -> None:
    code, text = outcomes["--conf_path toy.yml --set toy_strenght=0.3"]
    assert code == 2 and "'toy_strenght'" in text and "nearest known key is 'toy_strength'" in text


def test_value_is_checked_against_the_field(outcomes: dict[str, Printed]) -> None:
    code, text = outcomes["--conf_path toy.yml --set toy_strength=7"]
    assert code == 2 and "toy_strength: 7 is not a number of at least 0 and at most 1" in text


def test_misspelt_method_names_the_nearest(outcomes: dict[str, Printed]) -> None:
    code, text = outcomes["--conf_path toy.yml --set method=toystep"]
    assert code == 2 and "the nearest is 'toy_step'" in text


def test_key_of_another_method_is_a_warning(outcomes: dict[str, Printed]) -> None:
    code, text = outcomes["--conf_path toy.yml --set eta=0.5"]
    assert code == 0 and "keys that method toy_step does not read: eta" in text
    code, text = outcomes["--conf_path toy.yml --set method=ddim --dry_run"]
    assert code == 0 and "keys that method ddim does not read: toy_strength" in text


def test_class_variables_are_obeyed(copy: Path, outcomes: dict[str, Printed]) -> None:
    code, text = outcomes[COMMANDS.splitlines()[-1]]
    assert code == 0 and read_image(str(copy / "log/generated/inpainted/000000.png")).shape == (16, 16, 3), (
        text
    )


def test_reference_page_lists_the_method(copy: Path) -> None:
    done = run_in(copy, sys.executable, "scripts/config_reference.py", "--out", "config.md")
    assert done.returncode == 0, done.stderr
    page = (copy / "config.md").read_text()
    assert "toy_step" in page and "Share of the prediction that is taken at each step." in page


def test_import_contract_holds_and_covers_the_file(copy: Path) -> None:
    lint = Path(sys.executable).with_name("lint-imports"), "--no-cache"
    done = run_in(copy, *lint)
    assert done.returncode == 0 and " 0 broken" in done.stdout, done.stdout + done.stderr
    wrong = copy / "guided_diffusion/samplers/toy_wrong.py"
    wrong.write_text(
        SAMPLER.replace("class ToyStep(Sampler)", "class ToyWrong(DDIM)").replace(
            "from guided_diffusion.samplers.base",
            "from guided_diffusion.samplers.ddim import DDIM\nfrom guided_diffusion.samplers.base",
        )
    )
    done = run_in(copy, *lint)
    wrong.unlink()
    assert (
        done.returncode == 1
        and "guided_diffusion.samplers.toy_wrong -> guided_diffusion.samplers.ddim" in done.stdout
    )
