"""The overview with task remove_shadow and ground truths, the order of writing, and samples.npz."""

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

from guided_diffusion.inpainting.task import InpaintTask
from guided_diffusion.output import log_folder
from guided_diffusion.output.log_folder import LogFolder
from guided_diffusion.output.results import Output, Result
from guided_diffusion.shadow.task import RemoveShadowTask
from tests.helpers.log_folder import columns, digests, overview, spot
from tests.helpers.log_folder import rgb as pixels
from tests.helpers.negative import Negative
from tests.helpers.project import Cli, Project, image, keep_mask

FOLDERS = ("srs", "lrs", "gts", "gt_keep_masks", "shadow_frees", "shadow_mattes", "shadow_fields")


def ground_truths(count: int) -> str:
    """Write ground truths of the first `count` images; returns its path."""
    Path("free").mkdir()
    for i in range(count):
        Image.fromarray(image(50 + i)).save(f"free/p{i}.png")
    return "free"


def shadow_project(project: Project, count: int, **data: str) -> Path:
    folders = {"gt_path": "gts", "mask_path": "masks", **data}
    return project(count=count, task="remove_shadow", data=folders)


def test_overview_of_remove_shadow_has_six_columns(project: Project, cli: Cli, negative: Negative) -> None:
    conf = shadow_project(project, 2, shadow_free_path=ground_truths(1))
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
    assert (
        spot(sheet, np.full((16, 16, 3), 255, np.uint8)) is not None
    )  # p1 has no ground truth: its cell is blank


def test_overview_leaves_an_unreadable_ground_truth_blank(project: Project, cli: Cli) -> None:
    project(count=1)
    conf = shadow_project(project, 1, shadow_free_path=ground_truths(1))
    Path("free/p0.png").write_bytes(b"no image")
    assert cli("--conf_path", conf).code == 0
    assert columns(overview()) == 6


@pytest.mark.parametrize(("output", "number"), [("inpainted", 3), ("shadow_free", 4)])
def test_overview_of_a_single_output(project: Project, cli: Cli, output: str, number: int) -> None:
    assert cli("--conf_path", shadow_project(project, 1), "--set", f"outputs={output}").code == 0
    assert columns(overview()) == number
    assert spot(overview(), pixels(f"log/run/{output}/p0.png"))


def test_overview_of_inpaint_shows_the_ground_truth(project: Project, cli: Cli) -> None:
    project(count=1)
    data = {"gt_path": "gts", "mask_path": "masks", "shadow_free_path": ground_truths(1)}
    assert cli("--conf_path", project(count=1, data=data)).code == 0
    assert columns(overview()) == 4 and spot(overview(), image(50))


def test_missing_folder_of_ground_truths_is_named(project: Project, cli: Cli) -> None:
    conf = shadow_project(project, 1, shadow_free_path="no/free")
    assert "missing: no/free (mend the path" in cli("--conf_path", conf, "--dry_run").out
    outcome = cli("--conf_path", conf)
    assert outcome.code == 2 and "data.shadow_free_path: no/free does not exist" in outcome.err
    assert not Path("log").exists()


def test_log_folder_writes_outputs_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(log_folder, "write_image", lambda path, *_: written.append(Path(path).parent.name))
    monkeypatch.setattr(log_folder, "write_bytes", lambda path, _: written.append(Path(path).name))
    folders = {key: str(tmp_path / key) for key in FOLDERS}
    folder = LogFolder(str(tmp_path), folders, {"fingerprint": "f"}, RemoveShadowTask.OUTPUTS)
    matte = np.ones((16, 16), np.float32)
    shadow_free = Output("other key", image(2), extras={"matte": matte, "field": np.dstack([matte] * 3)})
    outputs = {"inpainted": Output("key", image(0)), "shadow_free": shadow_free}
    folder.save(Result("p", image(1), keep_mask(), outputs))
    assert written[-3:] == ["run.json", "srs", "shadow_frees"]
    assert sorted(written[:-3]) == ["gt_keep_masks", "gts", "lrs", "shadow_fields", "shadow_mattes"]


# samples.npz


def test_npz_holds_finished_images_and_names(project: Project, cli: Cli) -> None:
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
def test_npz_of_remove_shadow(project: Project, cli: Cli, outputs: str, main: str) -> None:
    cli("--conf_path", shadow_project(project, 1), "--set", f"outputs={outputs}", "save_npz=true")
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
def test_same_command_finishes_a_run_stopped_at_any_file(
    project: Project, cli: Cli, monkeypatch: pytest.MonkeyPatch, stopped_at: int
) -> None:
    conf = shadow_project(project, 1)
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


def test_run_json_is_written_by_a_single_thread_at_a_time(
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
    folder = LogFolder(str(tmp_path), folders, {"fingerprint": "f"}, InpaintTask.OUTPUTS)
    shown = np.zeros((4, 4, 3), np.uint8)
    with ThreadPoolExecutor(8) as threads:
        outputs = {"inpainted": Output("k", shown, nfe=1)}
        saved = threads.map(folder.save, [Result(f"p{i}", shown, outputs=outputs) for i in range(20)])
        accepted = threads.map(lambda i: folder.accept(f"q{i}", {"nfe": 1}, None), range(20))
    assert list(saved) == list(accepted) == [None] * 20
    run = json.loads((tmp_path / "run.json").read_text())
    assert len(run["images"]) == run["nfe"] == 40
