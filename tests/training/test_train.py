"""The training command: files, resuming, stopping, errors, ranks."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
import torch
from PIL import Image

from guided_diffusion import train
from guided_diffusion.build import flops_per_evaluation
from guided_diffusion.checkpoints import load
from guided_diffusion.images import files
from guided_diffusion.images.formats import write_image
from guided_diffusion.train import StopSignal, main
from guided_diffusion.training import run_cost
from guided_diffusion.training.prior_trainer import PriorTrainer
from guided_diffusion.training.scene_windows import SceneWindows
from tests.helpers.project import image
from tests.helpers.training import (
    assert_cost,
    assert_same_run,
    read_losses,
    read_state,
    run_train,
    tiny_config,
    tiny_trainer,
    write_yaml,
)

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module", autouse=True)
def _skip_matrix_rate() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_cost, "_RATE_SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert run_train(folder, log_interval=3) == 0
    return folder


def test_train_writes_all_files(uninterrupted: Path) -> None:
    out = uninterrupted / "out"
    written = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    grids = [f"samples/{step:06d}.png" for step in (2, 4, 6)]
    assert written == ["cost.json", "loss.csv", *grids, "state.pt", "tiny.pt"]
    assert [(row["step"], row["images"]) for row in read_losses(uninterrupted)] == [("3", "6"), ("6", "12")]
    load(tiny_trainer(uninterrupted).network, str(out / "tiny.pt"), 16)
    assert read_state(uninterrupted)["step"] == 6


def test_train_does_nothing_more_when_finished(
    uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.read_bytes() for p in (uninterrupted / "out").rglob("*.p*")}
    assert run_train(uninterrupted, log_interval=3) == 0
    assert {p: p.read_bytes() for p in (uninterrupted / "out").rglob("*.p*")} == before
    assert capsys.readouterr().out == f"6 of 6 steps are done and saved in {uninterrupted}/out\n"


class Killed(BaseException):
    """An exception that nothing in the package may catch."""


@pytest.mark.parametrize("moment", range(1, 15))
def test_train_resumes_after_kill_at_any_file(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Killed just before the n-th file gets its name; the next run ends as if nothing had happened."""
    moments, replace = count(1), os.replace

    def fatal(source: Path, target: Path) -> None:
        if next(moments) == moment:
            raise Killed
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", fatal)
    try:
        run_train(tmp_path, log_interval=3)
    except Killed:
        monkeypatch.undo()
        assert run_train(tmp_path, log_interval=3) == 0
    else:
        assert moment == 14, "thirteen files are written in all"
    assert_same_run(tmp_path, uninterrupted)


def wait_for(ready: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not ready():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)


def start(conf: Path, *launcher: str) -> subprocess.Popen:
    command = [sys.executable, *launcher, "-m", "guided_diffusion.train", "--conf_path", str(conf)]
    return subprocess.Popen(
        [*command, "--device", "cpu"],
        env=ENVIRONMENT,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_train_resumes_after_kill_9(uninterrupted: Path, tmp_path: Path) -> None:
    conf = write_yaml(tmp_path, iterations=100_000, workers=1, log_interval=3)
    process = start(conf)
    wait_for(lambda: (tmp_path / "out" / "state.pt").exists(), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    stood = read_state(tmp_path)["step"]
    assert stood >= 2 and stood % 2 == 0
    end = stood + 3
    assert run_train(tmp_path, iterations=end, log_interval=3) == 0
    undisturbed = tmp_path / "undisturbed"
    assert run_train(undisturbed, iterations=end, log_interval=3) == 0
    # The killed run was to go on for longer, so its last grid may be of a step that is none now.
    for path in (tmp_path / "out" / "samples").iterdir():
        if not (undisturbed / "out" / "samples" / path.name).exists():
            path.unlink()
    assert_same_run(tmp_path, undisturbed)


def test_ctrl_c_saves_and_reports(tmp_path: Path) -> None:
    conf = write_yaml(tmp_path, iterations=100_000, workers=1, save_interval=50_000, log_interval=1)
    process = start(conf)
    wait_for(lambda: (tmp_path / "out" / "loss.csv").exists() and bool(read_losses(tmp_path)), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "stopping after this step" in err and "Traceback" not in err
    step = read_state(tmp_path)["step"]
    assert out == f"{step} of 100000 steps are done and saved in {tmp_path}/out\n"
    assert [int(row["step"]) for row in read_losses(tmp_path)] == list(range(1, step + 1))


def test_second_ctrl_c_stops_at_once(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = PriorTrainer.train_step

    def interrupted(self: PriorTrainer, model: torch.nn.Module, batch: torch.Tensor) -> None:
        step(self, model, batch)
        if self.step == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(PriorTrainer, "train_step", interrupted)
    assert run_train(tmp_path, log_interval=3) == 130
    assert "error: stopped at once; the state saved last is kept" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.undo()
    assert read_state(tmp_path)["step"] == 2
    assert run_train(tmp_path, log_interval=3) == 0
    assert_same_run(tmp_path, uninterrupted)


def test_train_in_sessions_equals_one_run(uninterrupted: Path, tmp_path: Path) -> None:
    """Sessions of one step each, since no time is left for a second one."""
    for done in range(1, 7):
        assert run_train(tmp_path, "--minutes", "0", log_interval=3) == 0
        assert read_state(tmp_path)["step"] == done
    assert run_train(tmp_path, "--minutes", "0", log_interval=3) == 0
    assert_same_run(tmp_path, uninterrupted)
    rows = read_state(tmp_path)["slices"]
    assert [(row["first_step"], row["last_step"]) for row in rows] == [(i, i + 1) for i in range(6)]
    assert_cost(tmp_path)


def test_cost_of_a_run(uninterrupted: Path) -> None:
    assert_cost(uninterrupted)
    [row] = read_state(uninterrupted)["slices"]
    forward = flops_per_evaluation(tiny_config(uninterrupted).model, (2, 3, 16, 16))
    assert 2.5 * forward < row["flops_per_step"] <= 3 * forward, "backward costs twice as much as forward"


def test_cost_missing_after_kill_is_written_on_resume(uninterrupted: Path, tmp_path: Path) -> None:
    assert run_train(tmp_path, iterations=2) == 0
    path = tmp_path / "out" / "cost.json"
    before = path.read_bytes()
    path.unlink()
    assert run_train(tmp_path, iterations=2) == 0
    assert path.read_bytes() == before


def test_run_of_an_earlier_version_resumes(uninterrupted: Path, tmp_path: Path) -> None:
    """Its state and loss.csv say `pictures`; its cost.json was figures.json."""
    assert run_train(tmp_path, iterations=2, log_interval=1) == 0
    out = tmp_path / "out"
    state = read_state(tmp_path)
    names = {"images": "pictures", "images_per_second": "pictures_per_second"}
    state["slices"] = [{names.get(key, key): value for key, value in row.items()} for row in state["slices"]]
    torch.save(state, out / "state.pt")
    (out / "loss.csv").write_text((out / "loss.csv").read_text().replace("images", "pictures"))
    (out / "cost.json").rename(out / "figures.json")
    assert run_train(tmp_path, log_interval=1) == 0
    assert [(row["step"], row["images"]) for row in read_losses(tmp_path)] == [
        (str(step), str(2 * step)) for step in range(1, 7)
    ]
    assert not (out / "figures.json").exists()
    assert_cost(tmp_path)
    assert (out / "tiny.pt").read_bytes() == (uninterrupted / "out" / "tiny.pt").read_bytes()


def test_sample_interval_changes_only_the_grids(uninterrupted: Path, tmp_path: Path) -> None:
    assert run_train(tmp_path, log_interval=3, sample_interval=5) == 0
    grids = tmp_path / "out" / "samples"
    assert sorted(path.name for path in grids.iterdir()) == ["000005.png", "000006.png"]
    for path in (uninterrupted / "out" / "samples").iterdir():
        (grids / path.name).write_bytes(path.read_bytes()) if path.name != "000006.png" else None
    (grids / "000005.png").unlink()
    assert_same_run(tmp_path, uninterrupted)


def test_train_in_sessions_with_clean_pixels_equals_one_run(uninterrupted: Path, tmp_path: Path) -> None:
    keys = {"per_pixel_time": True, "start_from": str(uninterrupted / "out" / "tiny.pt"), "iterations": 3}
    assert run_train(tmp_path / "at_once", **keys) == 0
    for _ in range(3):
        assert run_train(tmp_path / "sliced", "--minutes", "0", **keys) == 0
    assert_same_run(tmp_path / "at_once", tmp_path / "sliced")
    assert run_train(tmp_path / "noisy", **{**keys, "per_pixel_time": False}) == 0
    assert read_losses(tmp_path / "noisy") != read_losses(tmp_path / "at_once")


def test_stop_signal_reads_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(train.time, "monotonic", lambda: now)
    half_minute, endless = StopSignal(0.5), StopSignal(None)
    now = 130.0
    assert not half_minute()
    now = 130.1
    assert half_minute() and not endless()


def folder_of(root: Path, count: int) -> Path:
    for i in range(count):
        write_image(root / f"{i}.png", image(i, 20, 24))
    return root


def test_unreadable_image_is_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = folder_of(tmp_path / "images", 3)
    (images / "broken.png").write_bytes((images / "0.png").read_bytes()[:100])
    assert run_train(tmp_path, data_dir=str(images), iterations=4, random_crop=True, random_flip=True) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "broken.png" in line]
    assert len(lines) == 1 and "warning: another image in its place: " in lines[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_folder_of_unreadable_images_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    assert run_train(tmp_path, data_dir=str(tmp_path / "images"), workers=workers) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {tmp_path}/images/a.png: the file is empty") and "mend data_dir" in line


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def test_main_reports_mistakes_with_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = str(write_yaml(tmp_path))
    assert "--conf_path confs/train/scenes64.yml" in refusal(capsys)
    assert "none.yml" in refusal(capsys, "--conf_path", str(tmp_path / "none.yml"))
    assert "is not a folder" in refusal(capsys, "--conf_path", conf, "--set", f"data_dir={tmp_path}/none")
    assert "'batch_size'" in refusal(capsys, "--conf_path", conf, "--set", "lr=1", "--set", "bach_size=2")
    assert "use auto, cpu" in refusal(capsys, "--conf_path", conf, "--device", "quantum")
    assert "is too few" in refusal(capsys, "--conf_path", conf, "--set", "noise_schedule=linear")


def test_main_reports_another_network_on_resume(
    uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf = str(uninterrupted / "train.yml")
    line = refusal(capsys, "--conf_path", conf, "--set", "num_channels=64")
    assert "num_channels: 32" in line and str(uninterrupted / "out") in line


def test_main_reports_unwritable_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("a file")
    assert run_train(tmp_path, out=str(tmp_path / "taken" / "out")) == 1
    assert "taken" in capsys.readouterr().err.splitlines()[-1]


def test_non_finite_loss_keeps_the_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = SceneWindows.__getitem__
    monkeypatch.setattr(
        SceneWindows, "__getitem__", lambda self, i: plain(self, i) * (1 if i < 6 else float("nan"))
    )
    assert run_train(tmp_path) == 1
    assert "no longer finite" in capsys.readouterr().err.splitlines()[-1]
    assert read_state(tmp_path)["step"] == 2
    assert all(value.isfinite().all() for value in read_state(tmp_path)["network"].values())


def test_prior_grid_is_full_of_samples(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path)
    grid = trainer.grid(rows=3)
    gap = 9
    assert grid.shape == (gap + 3 * (128 + gap), gap + 3 * (128 + gap), 3)
    # An untrained network's average leaves noise: every cell is full of it, the gaps are paper.
    for row in range(3):
        for column in range(3):
            top, left = gap + row * (128 + gap), gap + column * (128 + gap)
            assert grid[top : top + 128, left : left + 128].std() > 20
    assert (grid[:gap] == 242).all() and (grid[:, :gap] == 242).all() and (grid[-gap:] == 242).all()
    assert (trainer.grid(rows=3) == grid).all()


def test_grid_of_a_run_is_an_image(uninterrupted: Path) -> None:
    with Image.open(uninterrupted / "out" / "samples" / "000006.png") as pil_image:
        assert pil_image.size == (4 * 137 + 9, 4 * 137 + 9)
