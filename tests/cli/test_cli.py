"""`python test.py`: exit codes, errors, plan, and what it shows, on a tiny model."""

from __future__ import annotations

import io
import os
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from guided_diffusion import build, checkpoints
from guided_diffusion.images.formats import read_text
from guided_diffusion.runners import display
from tests.helpers.log_folder import pixels
from tests.helpers.project import NFE, ROOT, Cli, Outcome, Project, image, keep_mask


def one_line(outcome: Outcome) -> str:
    """The single line of an error; asserts that there is nothing else."""
    assert outcome.out == ""
    [line] = outcome.err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test if a network is built or weights are read."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network was touched")

    monkeypatch.setattr(checkpoints, "load", refuse)
    monkeypatch.setattr(build, "build_network", refuse)


def test_exit_status_is_0_when_all_images_are_done(project: Project, cli: Cli) -> None:
    outcome = cli("--conf_path", project())
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines()[-1].startswith("3 of 3 images in ")
    folders = {"inpainted", "gt", "gt_masked", "gt_keep_mask"}
    written = {str(p.relative_to("log/run")) for p in Path("log/run").rglob("*.png")}
    assert written == {f"{folder}/p{i}.png" for folder in folders for i in range(3)} | {"overview.png"}
    assert np.array_equal(pixels("log/run/gt/p1.png"), image(1))
    masked = pixels("log/run/gt_masked/p1.png")
    assert not masked[~keep_mask()].any() and np.array_equal(masked[keep_mask()], image(1)[keep_mask()])
    assert np.array_equal(pixels("log/run/gt_keep_mask/p1.png") == 255, keep_mask())


def broken_files() -> dict[str, str]:
    """Spoil images in ways people have them; file name -> what its failure must say."""
    good = Path("gts/p0.png").read_bytes()
    for name in ("cut", "empty", "text", "bomb", "shape"):
        Image.fromarray(keep_mask()).save(f"masks/{name}.png")
    Path("gts/cut.png").write_bytes(good[: len(good) // 2])
    Path("gts/empty.jpg").touch()
    Path("gts/text.webp").write_text("no image")
    header = b"IHDR" + struct.pack(">II", 40_000, 40_000) + good[24:29]
    Path("gts/bomb.png").write_bytes(good[:12] + header + struct.pack(">I", zlib.crc32(header)) + good[33:])
    Image.fromarray(image(0, 16, 24)).save("gts/shape.png")
    shape = "gts/shape.png is 24x16 and its mask masks/shape.png is 16x16"
    return {
        "cut": "gts/cut.png",
        "empty": "empty",
        "text": "not an image",
        "bomb": "enormous",
        "shape": shape,
    }


def test_exit_status_is_1_when_images_fail_each_with_reason(project: Project, cli: Cli) -> None:
    conf = project(count=2)
    reasons = broken_files()
    outcome = cli("--conf_path", conf, "--set", "data.batch_size=4")
    assert outcome.code == 1
    lines = outcome.err.splitlines()
    assert len(lines) == len(reasons)
    for name, reason in reasons.items():
        [line] = [line for line in lines if line.startswith(f"error: {name} failed: ")]
        assert reason in line
    assert sorted(p.name for p in Path("log/run/inpainted").iterdir()) == ["p0.png", "p1.png"]
    assert "2 of 7 images" in outcome.out


def test_unwritable_file_fails_only_its_image(project: Project, cli: Cli) -> None:
    conf = project(count=2)
    Path("log/run/gt_masked").mkdir(parents=True)
    Path("log/run/gt_masked/p0.png").mkdir()  # a folder in the way of a file
    outcome = cli("--conf_path", conf)
    assert outcome.code == 1
    assert "p0 failed: log/run/gt_masked/p0.png cannot be written: Is a directory" in outcome.err
    assert [p.name for p in Path("log/run/inpainted").iterdir()] == ["p1.png"]


def test_file_in_place_of_folder_is_named(project: Project, cli: Cli) -> None:
    conf = project(count=1)
    Path("taken").touch()
    outcome = cli("--conf_path", conf, "--set", "paths.srs=taken")
    assert outcome.code == 1
    assert outcome.err == "error: p0 failed: taken cannot be written: File exists\n"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "jump_lenght=2",
            "unknown key 'jump_lenght'.*nearest .* 'schedule_jump_params.jump_length'",
        ),
        ("seed=one", "seed: 'one' is not an integer"),
        ("data.batch_size=0", "data.batch_size: 0 is not an integer of at least 1"),
        ("model_path=absent.pt", "absent.pt is not there; mend model_path"),
        ("data.gt_path=absent", "data.gt_path: absent does not exist; mend the path"),
        ("data.mask_path=absent", "data.mask_path: absent does not exist; mend the path"),
        ("data.mask_path=null", "method repaint needs data.mask_path; name a mask"),
        ("schedule_jump_params.t_T=7", "t_T 7 is beyond the 6 steps"),
        ("schedule_jump_params.jump_length=6", "jump_length 6 leaves no room"),
        ("device=cuda:77", r"device 'cuda:77' is not there .* use auto or cpu"),
        ("cond_y=1000", r"cond_y 1000 is beyond the 1000 classes; use 0\.\.999"),
    ],
)
@pytest.mark.usefixtures("no_network")
def test_wrong_setting_exits_2_with_one_line_before_any_network(
    project: Project, cli: Cli, override: str, message: str
) -> None:
    outcome = cli("--conf_path", project(), "--set", override)
    assert outcome.code == 2
    assert re.search(message, one_line(outcome))
    assert not Path("log").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no configuration given; name one, e.g. --conf_path confs/shadow.yml"),
        (["--conf_path", "absent.yml"], "cannot read absent.yml: No such file or directory; give a YAML"),
        (["--conf_path", "broken.yml"], "broken.yml, line 2: .*not valid YAML"),
    ],
)
@pytest.mark.usefixtures("no_network")
def test_missing_or_broken_yaml_exits_2_with_one_line(
    project: Project, cli: Cli, arguments: list[str], message: str
) -> None:
    project()
    Path("broken.yml").write_text("name: run\n  seed: [1\n")
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert re.search(message, one_line(outcome))


@pytest.mark.parametrize("dry", [[], ["--dry_run"]])
def test_impossible_network_exits_2_before_writing(project: Project, cli: Cli, dry: list[str]) -> None:
    outcome = cli("--conf_path", project(), "--set", "num_head_channels=24", *dry)
    assert outcome.code == 2
    assert "num_head_channels 24 does not divide 32 channels" in one_line(outcome)
    assert not Path("log").exists()


def test_weights_of_other_network_exit_2_with_fitting_keys(project: Project, cli: Cli) -> None:
    outcome = cli("--conf_path", project(), "--set", "num_res_blocks=2")
    assert outcome.code == 2
    assert "num_res_blocks: 1" in one_line(outcome)
    assert "num_res_blocks: 1" in Path("log/run/run.log").read_text()


def test_device_flag_overrides_yaml(project: Project, cli: Cli) -> None:
    assert cli("--conf_path", project(device="cuda:77"), "--device", "cpu").code == 0
    assert cli("--conf_path", project(), "--device", "cuda:77").code == 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("wanted", [True, False])
def test_terminal_shows_two_bars_unless_turned_off(
    project: Project, cli: Cli, monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)  # no thread that outlives the test
    assert cli("--conf_path", project(show_progress=wanted)).code == 0
    shown = screen.getvalue()
    if not wanted:
        assert shown == ""
        return
    assert re.search(r"images: 100%.*3/3 \[00:\d\d<00:\d\d", shown)
    assert re.search(rf"steps: .*\d/{NFE} \[00:\d\d<", shown)


def test_without_terminal_prints_a_line_per_image_and_no_bar(
    project: Project, cli: Cli, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "QUIET_SECONDS", -1.0)
    conf = project()
    outcome = cli("--conf_path", conf, "--set", "data.batch_size=1")
    assert outcome.err == "" and "\r" not in outcome.out
    assert [line for line in outcome.out.splitlines() if line.startswith(f"p1: {NFE} NFE in")]
    assert f"p1: step {NFE // 2} of {NFE}" in outcome.out
    silent = cli("--conf_path", conf, "--set", "show_progress=false", "seed=1")
    assert silent.out.count("\n") == 1 and silent.out.startswith("3 of 3 images")


def test_log_file_has_few_and_complete_lines(project: Project, cli: Cli) -> None:
    conf = project(schedule_jump_params={"t_T": 5, "jump_length": 2, "jump_n_sample": 2})
    cli("--conf_path", conf)
    cli("--conf_path", conf)
    lines = Path("log/run/run.log").read_text().splitlines()
    assert len(lines) < 12
    assert all(
        re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR) \S", at) for at in lines
    )
    assert sum("t_T 5 is short of 6" in line for line in lines) == 2
    assert sum("NFE in" in line for line in lines) == 3


NAMES = ["a.b.c", "with space", "Schätten 影 ☂", "sub/p", "other/p", "sub/deep er/p.1"]


def test_unusual_file_names_are_kept(project: Project, cli: Cli) -> None:
    conf = project(count=0, data={"gt_path": "gts", "mask_path": "one mask.png"})
    Image.fromarray(keep_mask()).save("one mask.png")
    for i, name in enumerate(NAMES):
        Path("gts", name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image(i)).save(f"gts/{name}.png")
    strange = os.fsdecode(b"gts/latin\xe9\nline.png")
    try:
        Image.fromarray(image(9)).save(strange)
    except OSError:  # a file system that takes UTF-8 only
        strange = ""
    assert cli("--conf_path", conf).code == 0
    written = sorted(
        str(p.relative_to("log/run/inpainted")) for p in Path("log/run/inpainted").rglob("*.png")
    )
    assert written == sorted([*(f"{name}.png" for name in NAMES), *([strange[4:]] if strange else [])])
    for i, name in enumerate(NAMES):
        filled = pixels(f"log/run/inpainted/{name}.png")
        assert np.array_equal(filled[keep_mask()], image(i)[keep_mask()])


def test_ctrl_c_exits_130_and_leaves_complete_images(project: Project, tiny_weights: Path) -> None:
    conf = project(count=60, timestep_respacing="60")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, str(ROOT / "test.py"), "--conf_path", str(conf)]
    pipe = subprocess.PIPE
    # Whoever runs the tests in the background has this signal ignored, and programs inherit that.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        arguments, stdout=pipe, stderr=pipe, text=True, env=environment, preexec_fn=heed
    ) as process:
        deadline = time.monotonic() + 60
        while not list(Path("log").rglob("inpainted/*.png")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=90)
    assert process.returncode == 130, err
    assert err == "error: stopped; finished images are kept; run the same command again to continue\n"
    written = list(Path("log/run/inpainted").iterdir())
    assert 1 <= len(written) < 60
    assert all(read_text(path) for path in written)
