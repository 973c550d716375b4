"""Task seam: one module and one line in the engine's table make a task, with everything that a run has."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from guided_diffusion import engine as engine_module
from guided_diffusion.engine import Engine, load_config
from guided_diffusion.errors import ConfigError
from guided_diffusion.images.formats import read_image
from guided_diffusion.output import log_folder
from guided_diffusion.output.results import Result
from tests.helpers.project import Cli, Project, image
from tests.helpers.toy_task import NegativeTask

Command = Cli
DATA = {"gt_path": "gts"}


@pytest.fixture(autouse=True)
def table_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line in the engine's table."""
    monkeypatch.setitem(engine_module.TASKS, "negative", NegativeTask)


@pytest.fixture
def conf(project: Project) -> Path:
    return project(count=2, task="negative", data=DATA)


def run_json() -> dict[str, Any]:
    return json.loads(Path("log/run/run.json").read_text())


def test_run_writes_the_output_and_its_companion(conf: Path, cli: Command) -> None:
    outcome = cli("--conf_path", conf)
    assert outcome.code == 0 and "2 of 2 images" in outcome.out and "a negative" in outcome.out
    for i in range(2):
        saved, shown = read_image(f"log/run/negative/p{i}.png"), image(i)
        assert np.abs(saved.astype(int) - (255 - shown.astype(int))).max() <= 9
        brightness = np.array(Image.open(f"log/run/brightness/p{i}.png"))
        assert np.array_equal(brightness, np.rint(shown.mean(axis=2)).astype(np.uint8))
        assert np.array_equal(read_image(f"log/run/gt/p{i}.png"), shown)
    assert not Path("log/run/inpainted").exists()


def test_overview_has_the_task_s_columns(conf: Path, cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []

    def sheet(rows: Any, columns: list[str], *_: Any) -> np.ndarray:
        titles.extend(columns)
        assert {len(row) for row in rows} == {len(columns)}
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(log_folder, "contact_sheet", sheet)
    assert cli("--conf_path", conf).code == 0
    assert titles == ["input", "brightness", "negative"]
    assert Path("log/run/overview.png").is_file()


def test_run_json_describes_each_image(conf: Path, cli: Command) -> None:
    assert cli("--conf_path", conf).code == 0
    run = run_json()
    assert run["images"] == {f"p{i}": {"nfe": 0, "seconds": 0.5, "note": "a negative"} for i in range(2)}
    assert run["config"]["task"] == "negative" and run["nfe"] == 0
    assert run["fingerprint"] == Engine(load_config(conf)).run_fingerprint


def test_second_run_keeps_finished_images(conf: Path, cli: Command) -> None:
    assert cli("--conf_path", conf).code == 0
    files = sorted(Path("log/run").glob("*/*.png"))
    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in files]
    outcome = cli("--conf_path", conf)
    assert outcome.code == 0 and "2 of 2 images were finished before" in outcome.out
    assert [(path.stat().st_mtime_ns, path.read_bytes()) for path in files] == before
    os.remove("log/run/brightness/p1.png")  # an output without its companion is not finished
    assert "1 of 2 images were finished before" in cli("--conf_path", conf).out
    assert sorted(Path("log/run").glob("*/*.png")) == files
    outcome = cli("--conf_path", conf, "--set", "seed=1")
    assert outcome.code == 0 and "finished before" not in outcome.out


def test_dry_run_plans_the_task(conf: Path, cli: Command) -> None:
    outcome = cli("--conf_path", conf, "--dry_run")
    assert outcome.code == 0 and outcome.err == ""
    assert "0 NFE per image" in outcome.out and "2 images" in outcome.out
    assert "windows" not in outcome.out and not Path("log").exists()
    missing = cli("--conf_path", conf, "--dry_run", "--set", "model_path=nowhere.pt")
    assert "missing" not in missing.out  # the task needs no weights


def test_outputs_are_checked_against_the_table(conf: Path, cli: Command) -> None:
    assert cli("--conf_path", conf, "--set", "outputs=negative").code == 0
    assert run_json()["config"]["outputs"] == ["negative"]
    with pytest.raises(ConfigError, match="outputs.*'negatif'.*nearest is 'negative'"):
        load_config(conf, ["outputs=[negatif]"])
    foreign = Engine(load_config(conf, ["task=inpaint", "outputs=negative"])).warnings
    assert foreign == ["keys that only task negative reads: outputs"]


def test_task_names_are_checked_against_the_table(
    conf: Path, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="task: 'negativ' is not one of .*nearest is 'negative'"):
        load_config(conf, ["task=negativ"])
    monkeypatch.delitem(engine_module.TASKS, "negative")
    outcome = cli("--conf_path", conf)
    assert outcome.code == 2 and "'negative' is not one of 'inpaint', 'remove_shadow'" in outcome.err


def test_argument_chooses_the_task(project: Project, cli: Command) -> None:
    conf = project(count=1, data=DATA)  # its task is the default one
    outcome = cli("--conf_path", conf, "--task", "negative")
    assert outcome.code == 0 and Path("log/run/negative/p0.png").is_file()
    assert run_json()["config"]["task"] == "negative"
    outcome = cli("gts/p0.png", "--conf_path", conf, "--task", "negative", "-o", "out")
    assert outcome.code == 0 and Path("out/negative/p0.png").is_file()


def test_argument_with_a_misspelt_task_names_the_nearest(project: Project, cli: Command) -> None:
    outcome = cli("--conf_path", project(count=1, data=DATA), "--task", "negativ")
    assert outcome.code == 2 and "nearest is 'negative'" in outcome.err
    outcome = cli("gts/p0.png", "--task", "negative")
    assert outcome.code == 2 and "--task negative needs a YAML, named by --conf_path" in outcome.err


def test_automatic_masks_are_refused_by_name(conf: Path, cli: Command) -> None:
    outcome = cli("--conf_path", conf, "--set", "data.mask_path=auto")
    assert outcome.code == 2 and "not negative" in outcome.err


def test_seeds_give_variants_of_each_image(conf: Path, cli: Command) -> None:
    assert cli("--conf_path", conf, "--set", "seeds=2").code == 0
    first, second = (read_image(f"log/run/negative/p0_seed{seed}.png") for seed in range(2))
    assert not np.array_equal(first, second)
    assert cli("--conf_path", conf, "--set", "seed=1", "name=other").code == 0
    assert np.array_equal(read_image("log/other/negative/p0.png"), second)


def test_engine_yields_the_task_s_results(conf: Path) -> None:
    results = list(Engine(load_config(conf))())
    assert [type(result) for result in results] == [Result, Result]
    assert [list(result.outputs) for result in results] == [["negative"]] * 2


def test_broken_image_fails_alone(conf: Path, cli: Command) -> None:
    Path("gts/p0.png").write_bytes(b"no image")
    outcome = cli("--conf_path", conf)
    assert outcome.code == 1 and "p0 failed" in outcome.err
    assert "error" in run_json()["images"]["p0"] and Path("log/run/negative/p1.png").is_file()
