"""The log folder: finished images stay, also through kill -9; run.json and overview.png agree with them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from guided_diffusion import __version__, checkpoints
from guided_diffusion.inpainting.task import InpaintTask
from guided_diffusion.output import log_folder
from guided_diffusion.output.log_folder import LogFolder
from guided_diffusion.output.results import Output, Result, one_line
from tests.helpers.log_folder import INPAINTED, columns, digests, overview, pixels, run_json, spot
from tests.helpers.project import NFE, ROOT, Cli, Project, image, keep_mask
from tests.helpers.remote import fake_blobfile

# Runs `python test.py` again and again, each time in a process of its own that is killed: at the n-th file it
# is about to name, or after n milliseconds. Between kills no file may be torn, and none that was finished may
# have been touched. The fork spares the time to import torch.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from PIL import Image
import torch
from guided_diffusion import cli as command

torch.set_num_threads(1)
inpainted, finished = Path("log/run/inpainted"), {}
replace, replaced = os.replace, 0

def die_at(count):
    def patched(source, target):
        global replaced
        replaced += 1
        if replaced == count:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
    os.replace = patched

def killed_run(at_file=None, after=None):
    child = os.fork()
    if child == 0:
        if at_file:
            die_at(at_file)
        os._exit(command.main(["--conf_path", "conf.yml", "--set", "show_progress=false"]))
    if after:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    for path in Path("log").rglob("*.png"):
        if not path.name.startswith("."):
            with Image.open(path) as image:
                image.load()
    for path in inpainted.glob("*.png"):
        told = path.stat().st_mtime_ns, path.stat().st_ino
        assert finished.setdefault(path.name, told) == told, path
    return os.WIFSIGNALED(status)

# An image is gt_masked, gt, gt_keep_mask, run.json, inpainted: the kills fall before each of the five.
kills = [killed_run(at_file=count) for count in (1, 2, 8, 4, 5)]
random.seed(0)
kills += [killed_run(after=random.uniform(0.0, 0.5)) for _ in range(4)]
print(sum(kills), len(finished))
"""


def test_same_command_finishes_after_kill_9(project: Project, cli: Cli) -> None:
    data = {"gt_path": "gts", "mask_path": "masks", "batch_size": 1}  # so that some are finished
    conf = project(count=6, timestep_respacing="12", data=data)
    driver = subprocess.run(
        [sys.executable, "-c", KILLED],
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert driver.returncode == 0, driver.stderr
    kills, finished = map(int, driver.stdout.split()[-2:])
    assert kills >= 5 and 1 <= finished <= 6
    before = {path.name: path.stat().st_mtime_ns for path in INPAINTED.glob("*.png")}
    assert cli("--conf_path", conf).code == 0
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in INPAINTED.iterdir()}.items()
    resumed, run = digests(Path("log/run"), but=("run.log", "run.json")), run_json()
    Path("log/run").rename("log/killed")
    assert cli("--conf_path", conf).code == 0
    assert resumed == digests(Path("log/run"), but=("run.log", "run.json"))  # no leftovers either
    assert sorted(run["images"]) == [f"p{i}" for i in range(6)]
    nfe = {name: image["nfe"] for name, image in run["images"].items()}
    assert nfe == {name: image["nfe"] for name, image in run_json()["images"].items()}


def test_second_run_computes_nothing(project: Project, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = project()
    cli("--conf_path", conf)
    first, before = digests(Path("log/run"), but=("run.log",)), run_json()
    monkeypatch.setattr(checkpoints, "load", lambda *_: pytest.fail("the network was loaded"))
    outcome = cli("--conf_path", conf)
    assert outcome.code == 0
    assert "3 of 3 images were finished before with these settings and are kept" in outcome.out
    assert digests(Path("log/run"), but=("run.log",)) == first
    assert run_json() == before


def changed_mask() -> None:
    Image.fromarray(keep_mask().T).save("masks/p0.png")


def changed_weights() -> None:
    state = torch.load("tiny.pt", weights_only=True)
    torch.save({key: value * 1.01 for key, value in state.items()}, "tiny.pt")


def changed_image() -> None:
    Image.fromarray(image(8)).save("gts/p0.png")


def torn() -> None:
    path = INPAINTED / "p0.png"
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("change", [changed_mask, changed_weights, changed_image, torn, None])
def test_image_is_recomputed_when_an_input_changes(
    project: Project, cli: Cli, tiny_weights: Path, change: Callable[[], None] | None
) -> None:
    Path("tiny.pt").write_bytes(tiny_weights.read_bytes())
    conf = project(count=2, model_path="tiny.pt")
    cli("--conf_path", conf)
    before = {path.name: path.stat().st_mtime_ns for path in INPAINTED.iterdir()}
    if change:
        change()
    assert cli("--conf_path", conf, *([] if change else ["--set", "seed=1"])).code == 0
    new = {path.name for path in INPAINTED.iterdir() if path.stat().st_mtime_ns != before[path.name]}
    assert new == ({"p0.png", "p1.png"} if change in (None, changed_weights) else {"p0.png"})
    assert sorted(run_json()["images"]) == ["p0", "p1"]


def test_run_json_describes_the_run(project: Project, cli: Cli) -> None:
    cli("--conf_path", project(precision="fp32"), "--set", "seed=7")
    run = run_json()
    assert (run["seed"], run["precision"], run["threads"]) == (7, "fp32", 1)
    assert run["device"].startswith("cpu")
    assert re_hex(run["fingerprint"])
    python = ".".join(map(str, sys.version_info[:3]))
    assert run["versions"] == {
        "python": python,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "penumbra": __version__,
    }
    assert run["command"] == f"python test.py --conf_path {Path('conf.yml').absolute()} --set seed=7"
    assert run["config"]["schedule_jump_params"]["jump_length"] == 2
    assert run["nfe"] == 3 * NFE
    assert all(0 < p["seconds"] < 60 and p["nfe"] == NFE for p in run["images"].values())


def re_hex(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def test_run_json_records_failures_until_they_are_mended(project: Project, cli: Cli) -> None:
    conf = project()
    good = Path("gts/p1.png").read_bytes()
    Path("gts/p1.png").write_bytes(good[:50])
    Image.fromarray(np.full((16, 16), 255, np.uint8)).save("masks/p2.png")
    outcome = cli("--conf_path", conf)
    assert outcome.code == 1 and "p2: the mask keeps every pixel" in outcome.out
    images = run_json()["images"]
    assert "gts/p1.png" in images["p1"]["error"]
    assert "copied" in images["p2"]["note"] and images["p2"]["nfe"] == 0
    Path("gts/p1.png").write_bytes(good)
    assert cli("--conf_path", conf).code == 0
    assert "error" not in run_json()["images"]["p1"] and "copied" in run_json()["images"]["p2"]["note"]


@pytest.mark.parametrize("content", ["[]", "{", '{"fingerprint": "other", "images": {"old": {}}}'])
def test_run_json_of_another_config_is_replaced(project: Project, cli: Cli, content: str) -> None:
    conf = project(count=1)
    Path("log/run").mkdir(parents=True)
    Path("log/run/run.json").write_text(content)
    assert cli("--conf_path", conf).code == 0
    assert list(run_json()["images"]) == ["p0"]


def test_run_json_keeps_images_that_are_not_asked_for(project: Project, cli: Cli) -> None:
    conf = project()
    cli("--conf_path", conf)
    cli("--conf_path", conf, "--set", "data.max_len=1")
    assert sorted(run_json()["images"]) == ["p0", "p1", "p2"]


def test_overview_omits_failed_images(project: Project, cli: Cli) -> None:
    conf = project()
    cli("--conf_path", conf)  # what is there from before does not stand in for a failure
    Path("gts/p0.png").write_bytes(b"")
    assert cli("--conf_path", conf, "--set", "seed=1").code == 1
    sheet, tops = overview(), []
    assert columns(sheet) == 3
    for i in (1, 2):
        shown = (image(i), image(i) * keep_mask()[..., None], pixels(INPAINTED / f"p{i}.png"))
        places = [spot(sheet, array) for array in shown]
        assert all(places), i
        assert [place[1] for place in places if place] == [0, 1, 2]
        tops += [place[0] for place in places if place]
    assert tops == sorted(tops) and len(set(tops)) == 2
    assert spot(sheet, pixels(INPAINTED / "p0.png")) is None


def test_overview_of_generated_images_has_one_column(project: Project, cli: Cli) -> None:
    assert cli("--conf_path", project(count=0, method="ddim", data={}, generate=2)).code == 0
    sheet = overview()
    assert columns(sheet) == 1
    assert spot(sheet, pixels(INPAINTED / "000000.png")) and spot(sheet, pixels(INPAINTED / "000001.png"))
    files = sorted(path.name for path in Path("log/run").iterdir())
    assert files == ["inpainted", "overview.png", "run.json", "run.log"]


def test_overview_omits_columns_of_an_earlier_method(project: Project, cli: Cli) -> None:
    conf = project(count=1)
    cli("--conf_path", conf)
    cli("--conf_path", conf, "--set", "method=intermediate", "t_start=2", "data.mask_path=null")
    assert columns(overview()) == 2
    assert spot(overview(), image(0))


def test_overview_is_not_written_if_all_images_failed(project: Project, cli: Cli) -> None:
    conf = project(count=1)
    Path("gts/p0.png").write_bytes(b"")
    outcome = cli("--conf_path", conf)
    assert outcome.code == 1 and "0 of 1 images" in outcome.out
    assert not Path("log/run/overview.png").exists() and run_json()["images"]["p0"]["error"]


def test_paths_move_folders(project: Project, cli: Cli, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "blobfile", fake_blobfile(tmp_path))
    for folder in ("bucket/filled", "bucket/masked"):
        Path(folder).mkdir(parents=True)
    paths = {"srs": "gs://bucket/filled", "lrs": "gs://bucket/masked", "gts": str(tmp_path / "absolute")}
    conf = project(count=1, paths=paths)
    assert cli("--conf_path", conf).code == 0
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("p0.png")}
    outputs = {
        "bucket/filled/p0.png",
        "bucket/masked/p0.png",
        "absolute/p0.png",
        "log/run/gt_keep_mask/p0.png",
    }
    assert files == outputs | {"gts/p0.png", "masks/p0.png"}
    assert spot(overview(), image(0))
    assert "are kept" in cli("--conf_path", conf).out
    moved = {**paths, "gts": "moved"}  # folders are no part of the fingerprint, but images are written there
    assert "are kept" in cli("--conf_path", project(count=1, paths=moved)).out
    assert Path("moved/p0.png").exists()


def test_log_folder_writes_the_inpainted_image_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(log_folder, "write_image", lambda path, *_: written.append(Path(path).parent.name))
    monkeypatch.setattr(log_folder, "write_bytes", lambda path, _: written.append(Path(path).name))
    folders = {key: str(tmp_path / key) for key in ("srs", "lrs", "gts", "gt_keep_masks")}
    folder = LogFolder(str(tmp_path), folders, {"fingerprint": "f"}, InpaintTask.OUTPUTS)
    folder.save(Result("p", image(1), keep_mask(), {"inpainted": Output("key", image(0), 3, 0.5)}))
    assert written[-2:] == ["run.json", "srs"]
    assert sorted(written[:-2]) == ["gt_keep_masks", "gts", "lrs"]


def test_one_line_prints_any_name() -> None:
    assert one_line("a\nb\udce9 c") == "a b\\udce9 c"
    assert one_line("Schätten 影") == "Schätten 影"


def test_image_named_as_an_old_key_keeps_its_name(project: Project, cli: Cli) -> None:
    conf = project(count=1)
    for folder in ("gts", "masks"):
        Path(folder, "p0.png").rename(Path(folder, "pictures.png"))
    assert cli("--conf_path", conf).code == 0
    before = run_json()["images"]
    assert list(before) == ["pictures"] and before["pictures"]["nfe"] > 0
    assert cli("--conf_path", conf).code == 0
    assert run_json()["images"] == before


def test_old_run_json_is_read(project: Project, cli: Cli) -> None:
    conf = project(count=1)
    assert cli("--conf_path", conf).code == 0
    run = run_json()
    old = {"evaluations" if key == "nfe" else key: value for key, value in run["images"]["p0"].items()}
    content = {key: value for key, value in run.items() if key not in ("images", "nfe")}
    content |= {"evaluations": run["nfe"], "pictures": {"p0": old}}
    Path("log/run/run.json").write_text(json.dumps(content))
    assert cli("--conf_path", conf).code == 0
    assert run_json()["images"] == run["images"] and run_json()["nfe"] == run["nfe"]
