"""The log folder's overview with task remove_shadow and with truths, its order of writing, and samples.npz."""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.output import log_folder
from guided_diffusion.output.log_folder import LIFTED_COLUMNS, LogFolder
from guided_diffusion.output.results import Lifted, Result
from tests.helpers.negative import Negative
from tests.helpers.project import Cli, Project, image, keep_mask
from tests.output.test_log_folder import columns, digests, overview, spot

FOLDERS = ("srs", "lrs", "gts", "gt_keep_masks", "shadow_frees", "shadow_mattes", "shadow_fields")


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as pil_image:
        return np.array(pil_image.convert("RGB"))


def truths(count: int) -> str:
    """A folder of truths for the first `count` images; returns its path."""
    Path("free").mkdir()
    for i in range(count):
        Image.fromarray(image(50 + i)).save(f"free/p{i}.png")
    return "free"


def relit(project: Project, count: int, **data: str) -> Path:
    folders = {"gt_path": "gts", "mask_path": "masks", **data}
    return project(count=count, task="remove_shadow", data=folders)


def test_the_overview_of_relight_has_six_columns(project: Project, cli: Cli, negative: Negative) -> None:
    conf = relit(project, 2, shadow_free_path=truths(1))
    assert cli("--conf_path", conf).code == 0
    sheet = overview()
    assert columns(sheet) == 6
    for i in range(2):
        folders = ("gt", "gt_masked", "inpainted", "shadow_free")
        places = [spot(sheet, pixels(f"log/run/{folder}/p{i}.png")) for folder in folders]
        assert [place[1] for place in places if place] == [0, 1, 2, 4]
        assert len({place[0] for place in places if place}) == 1
    matte = spot(sheet, pixels("log/run/shadow_matte/p0.png"))  # both have the same mask
    assert matte is not None and matte[1] == 3
    first, second = spot(sheet, image(50)), spot(sheet, image(0))
    assert first is not None and second is not None
    assert first == (second[0], 5)  # in the row of p0
    assert spot(sheet, np.full((16, 16, 3), 255, np.uint8)) is not None  # p1 has no truth: its cell is blank


def test_a_truth_that_cannot_be_read_is_blank(project: Project, cli: Cli) -> None:
    project(count=1)
    conf = relit(project, 1, shadow_free_path=truths(1))
    Path("free/p0.png").write_bytes(b"no image")
    assert cli("--conf_path", conf).code == 0
    assert columns(overview()) == 6


@pytest.mark.parametrize(("output", "number"), [("inpainted", 3), ("shadow_free", 4)])
def test_one_output_has_its_columns_alone(project: Project, cli: Cli, output: str, number: int) -> None:
    assert cli("--conf_path", relit(project, 1), "--set", f"outputs={output}").code == 0
    assert columns(overview()) == number
    assert spot(overview(), pixels(f"log/run/{output}/p0.png"))


def test_other_methods_show_the_truth_too(project: Project, cli: Cli) -> None:
    project(count=1)
    data = {"gt_path": "gts", "mask_path": "masks", "shadow_free_path": truths(1)}
    assert cli("--conf_path", project(count=1, data=data)).code == 0
    assert columns(overview()) == 4 and spot(overview(), image(50))


def test_a_folder_of_truths_that_is_not_there_is_told(project: Project, cli: Cli) -> None:
    conf = relit(project, 1, shadow_free_path="no/free")
    assert "missing: no/free (mend the path" in cli("--conf_path", conf, "--dry_run").out
    outcome = cli("--conf_path", conf)
    assert outcome.code == 2 and "data.shadow_free_path: no/free does not exist" in outcome.err
    assert not Path("log").exists()


def test_what_is_finished_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(log_folder, "write_image", lambda path, *_: written.append(Path(path).parent.name))
    monkeypatch.setattr(log_folder, "write_bytes", lambda path, _: written.append(Path(path).name))
    folders = {key: str(tmp_path / key) for key in FOLDERS}
    folder = LogFolder(str(tmp_path), folders, {"fingerprint": "f"}, LIFTED_COLUMNS)
    shares = np.ones((16, 16), np.float32)
    lifted = Lifted("other key", image(2), shares, np.dstack([shares] * 3))
    folder.save(Result("p", "key", image(0), image(1), keep_mask(), lifted=lifted))
    assert written[-3:] == ["run.json", "srs", "shadow_frees"]
    assert sorted(written[:-3]) == ["gt_keep_masks", "gts", "lrs", "shadow_fields", "shadow_mattes"]


# samples.npz


def test_npz_holds_the_finished_pictures_under_their_names(project: Project, cli: Cli) -> None:
    conf = project(count=3, save_npz=True)
    Path("gts/p1.png").write_bytes(b"")
    assert cli("--conf_path", conf).code == 1
    with np.load("log/run/samples.npz") as samples:
        assert sorted(samples.files) == ["arr_0", "names"]
        assert samples["names"].tolist() == ["p0", "p2"] and samples["names"].dtype.kind == "U"
        assert samples["arr_0"].dtype == np.uint8 and samples["arr_0"].shape == (2, 16, 16, 3)
        for name, array in zip(samples["names"], samples["arr_0"], strict=True):
            assert np.array_equal(array, pixels(f"log/run/inpainted/{name}.png"))


def test_npz_can_be_asked_for_afterwards(project: Project, cli: Cli) -> None:
    conf = project(count=2)
    cli("--conf_path", conf)
    assert not Path("log/run/samples.npz").exists()
    assert "2 of 2 images were finished before" in cli("--conf_path", conf, "--set", "save_npz=true").out
    with np.load("log/run/samples.npz") as samples:
        assert len(samples["arr_0"]) == 2


@pytest.mark.parametrize(
    ("outputs", "main"), [("shadow_free", "shadow_free"), ("[shadow_free, inpainted]", "inpainted")]
)
def test_npz_of_relight(project: Project, cli: Cli, outputs: str, main: str) -> None:
    cli("--conf_path", relit(project, 1), "--set", f"outputs={outputs}", "save_npz=true")
    with np.load("log/run/samples.npz") as samples:
        assert np.array_equal(samples["arr_0"][0], pixels(f"log/run/{main}/p0.png"))


def test_npz_of_several_sizes_has_an_array_for_each(project: Project, cli: Cli) -> None:
    conf = project(count=2, save_npz=True)
    Image.fromarray(image(9, 16, 20)).save("gts/sub p.png")
    Image.fromarray(keep_mask(16, 20)).save("masks/sub p.png")
    outcome = cli("--conf_path", conf)
    assert outcome.code == 0
    assert outcome.err == "warning: images of several sizes: in samples.npz they are arr_0 to arr_2\n"
    with np.load("log/run/samples.npz") as samples:
        assert samples["names"].tolist() == ["p0", "p1", "sub p"]
        for i, name in enumerate(samples["names"]):
            assert np.array_equal(samples[f"arr_{i}"], pixels(f"log/run/inpainted/{name}.png"))


def test_npz_of_nothing_is_not_written(project: Project, cli: Cli) -> None:
    conf = project(count=1, save_npz=True)
    Path("gts/p0.png").write_bytes(b"")
    assert cli("--conf_path", conf).code == 1
    assert not Path("log/run/samples.npz").exists()
    assert "error" in json.loads(Path("log/run/run.json").read_text())["images"]["p0"]


FILES = 8  # of one image: lrs, gts, gt_keep_masks, shadow_mattes, shadow_fields, run.json, srs, shadow_frees


@pytest.mark.parametrize("stopped_at", range(1, FILES + 1))
def test_a_run_stopped_before_any_file_is_finished_by_the_same_command(
    project: Project, cli: Cli, monkeypatch: pytest.MonkeyPatch, stopped_at: int
) -> None:
    conf = relit(project, 1)
    replace, named = os.replace, 0

    def stop(source: str, target: str) -> None:
        nonlocal named
        named += 1
        if named == stopped_at:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", stop)
        assert cli("--conf_path", conf).code == 130
    finished = {path: path.stat().st_mtime_ns for path in Path("log/run/inpainted").rglob("*.png")}
    assert len(finished) == (stopped_at == FILES)
    assert cli("--conf_path", conf).code == 0
    assert finished.items() <= {path: path.stat().st_mtime_ns for path in finished}.items()
    resumed = digests(Path("log/run"), but=("run.log", "run.json"))
    Path("log/run").rename("log/stopped")
    assert cli("--conf_path", conf).code == 0
    assert resumed == digests(Path("log/run"), but=("run.log", "run.json"))


def test_many_threads_may_save_and_one_at_a_time_writes_run_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, write = threading.Lock(), log_folder.write_bytes

    def alone(path: str, data: bytes) -> None:
        assert writing.acquire(blocking=False), "another thread is at it"
        time.sleep(0.001)
        write(path, data)
        writing.release()

    monkeypatch.setattr(log_folder, "write_bytes", alone)
    folders = {name: str(tmp_path / name) for name in FOLDERS}
    folder, shown = LogFolder(str(tmp_path), folders, {"fingerprint": "f"}), np.zeros((4, 4, 3), np.uint8)
    with ThreadPoolExecutor(8) as threads:
        results = [Result(f"p{i}", key="k", filled=shown, gt=shown, nfe=1) for i in range(20)]
        own = threads.map(folder.save, results)
        others = threads.map(lambda i: folder.accept(f"q{i}", {"evaluations": 1}, None), range(20))
    assert list(own) == list(others) == [None] * 20
    told = json.loads((tmp_path / "run.json").read_text())
    assert len(told["images"]) == told["evaluations"] == 40
