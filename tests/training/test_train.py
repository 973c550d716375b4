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
from guided_diffusion.train import Stop, main, sample_grid
from guided_diffusion.training import run_cost
from guided_diffusion.training.datasets import SceneStream
from guided_diffusion.training.trainer import Trainer
from tests.conftest import image
from tests.helpers.training import assert_figures, assert_same_run, losses, state, tiny, write_yaml

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(folder: Path, *more: str, **keys: object) -> int:
    return main(["--conf_path", str(write_yaml(folder, **keys)), *more])


@pytest.fixture(scope="module", autouse=True)
def _little_time_for_the_matrix_rate() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_cost, "_RATE_SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder, log_interval=3) == 0
    return folder


def test_a_run_leaves_what_it_promises(whole: Path) -> None:
    out = whole / "out"
    found = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    grids = [f"samples/{step:06d}.png" for step in (2, 4, 6)]
    assert found == ["figures.json", "loss.csv", *grids, "state.pt", "tiny.pt"]
    assert [(row["step"], row["images"]) for row in losses(whole)] == [("3", "6"), ("6", "12")]
    load(Trainer(tiny(whole), CPU).network, str(out / "tiny.pt"), 16)
    assert state(whole)["step"] == 6


def test_a_finished_run_does_nothing_more(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.read_bytes() for p in (whole / "out").rglob("*.p*")}
    assert run(whole, log_interval=3) == 0
    assert {p: p.read_bytes() for p in (whole / "out").rglob("*.p*")} == before
    assert capsys.readouterr().out == f"6 of 6 steps are done and saved in {whole}/out\n"


class Killed(BaseException):
    """Nothing in the package may catch it."""


@pytest.mark.parametrize("moment", range(1, 15))
def test_killed_while_a_file_is_written(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Dead at the n-th file that is about to appear under its name; the next run must not notice."""
    moments, replace = count(1), os.replace

    def fatal(source: Path, target: Path) -> None:
        if next(moments) == moment:
            raise Killed
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", fatal)
    try:
        run(tmp_path, log_interval=3)
    except Killed:
        monkeypatch.undo()
        assert run(tmp_path, log_interval=3) == 0
    else:
        assert moment == 14, "thirteen files are written in all"
    assert_same_run(tmp_path, whole)


def wait_for(ready: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
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


def test_kill_9_then_the_same_command(whole: Path, tmp_path: Path) -> None:
    conf = write_yaml(tmp_path, iterations=100_000, workers=1, log_interval=3)
    process = start(conf)
    wait_for(lambda: (tmp_path / "out" / "state.pt").exists(), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    stood = state(tmp_path)["step"]
    assert stood >= 2 and stood % 2 == 0
    end = stood + 3
    assert run(tmp_path, iterations=end, log_interval=3) == 0
    undisturbed = tmp_path / "undisturbed"
    assert run(undisturbed, iterations=end, log_interval=3) == 0
    # The killed run was to go on for longer, so its last grid may be of a step that is none now.
    for path in (tmp_path / "out" / "samples").iterdir():
        if not (undisturbed / "out" / "samples" / path.name).exists():
            path.unlink()
    assert_same_run(tmp_path, undisturbed)


def test_ctrl_c_saves_and_says_so(tmp_path: Path) -> None:
    conf = write_yaml(tmp_path, iterations=100_000, workers=1, save_interval=50_000, log_interval=1)
    process = start(conf)
    wait_for(lambda: (tmp_path / "out" / "loss.csv").exists() and bool(losses(tmp_path)), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopping after this step" in err and "Traceback" not in err
    step = state(tmp_path)["step"]
    assert out == f"{step} of 100000 steps are done and saved in {tmp_path}/out\n"
    assert [int(row["step"]) for row in losses(tmp_path)] == list(range(1, step + 1))


def test_the_second_ctrl_c_does_not_wait(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Trainer.train_step

    def interrupted(self: Trainer, model: torch.nn.Module, x0: torch.Tensor) -> None:
        step(self, model, x0)
        if self.step == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Trainer, "train_step", interrupted)
    assert run(tmp_path, log_interval=3) == 130
    assert "error: stopped at once; the state saved last is kept" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.undo()
    assert state(tmp_path)["step"] == 2
    assert run(tmp_path, log_interval=3) == 0
    assert_same_run(tmp_path, whole)


def test_slices_make_the_same_run(whole: Path, tmp_path: Path) -> None:
    """No minute is long enough for a second step."""
    for done in range(1, 7):
        assert run(tmp_path, "--minutes", "0", log_interval=3) == 0
        assert state(tmp_path)["step"] == done
    assert run(tmp_path, "--minutes", "0", log_interval=3) == 0
    assert_same_run(tmp_path, whole)
    rows = state(tmp_path)["slices"]
    assert [(row["first_step"], row["last_step"]) for row in rows] == [(i, i + 1) for i in range(6)]
    assert_figures(tmp_path)


def test_the_figures_of_a_run(whole: Path) -> None:
    assert_figures(whole)
    [row] = state(whole)["slices"]
    forward = flops_per_evaluation(tiny(whole).model, (2, 3, 16, 16))
    assert 2.5 * forward < row["flops_per_step"] <= 3 * forward, "backward costs twice as much as forward"


def test_figures_that_a_kill_left_out_are_written_by_the_next_run(whole: Path, tmp_path: Path) -> None:
    assert run(tmp_path, iterations=2) == 0
    path = tmp_path / "out" / "figures.json"
    before = path.read_bytes()
    path.unlink()
    assert run(tmp_path, iterations=2) == 0
    assert path.read_bytes() == before


def test_samples_come_at_their_own_interval_and_change_nothing(whole: Path, tmp_path: Path) -> None:
    assert run(tmp_path, log_interval=3, sample_interval=5) == 0
    grids = tmp_path / "out" / "samples"
    assert sorted(path.name for path in grids.iterdir()) == ["000005.png", "000006.png"]
    for path in (whole / "out" / "samples").iterdir():
        (grids / path.name).write_bytes(path.read_bytes()) if path.name != "000006.png" else None
    (grids / "000005.png").unlink()
    assert_same_run(tmp_path, whole)


def test_slices_with_clean_pixels_make_the_same_run(whole: Path, tmp_path: Path) -> None:
    keys = {"per_pixel_time": True, "start_from": str(whole / "out" / "tiny.pt"), "iterations": 3}
    assert run(tmp_path / "at_once", **keys) == 0
    for _ in range(3):
        assert run(tmp_path / "sliced", "--minutes", "0", **keys) == 0
    assert_same_run(tmp_path / "at_once", tmp_path / "sliced")
    assert run(tmp_path / "noisy", **{**keys, "per_pixel_time": False}) == 0
    assert losses(tmp_path / "noisy") != losses(tmp_path / "at_once")


def test_stop_asks_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(train.time, "monotonic", lambda: now)
    half, endless = Stop(0.5), Stop(None)
    now = 130.0
    assert not half()
    now = 130.1
    assert half() and not endless()


def folder_of(root: Path, count: int) -> Path:
    for i in range(count):
        write_image(root / f"{i}.png", image(i, 20, 24))
    return root


def test_a_broken_picture_in_the_folder_is_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = folder_of(tmp_path / "images", 3)
    (images / "broken.png").write_bytes((images / "0.png").read_bytes()[:100])
    assert run(tmp_path, data_dir=str(images), iterations=4, random_crop=True, random_flip=True) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "broken.png" in line]
    assert len(told) == 1 and "warning: another image in its place: " in told[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_broken_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    assert run(tmp_path, data_dir=str(tmp_path / "images"), workers=workers) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"error: {tmp_path}/images/a.png: the file is empty") and "mend data_dir" in told


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and told[0].startswith("error: ")
    return told[0]


def test_mistakes_are_one_line_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = str(write_yaml(tmp_path))
    assert "--conf_path confs/train/scenes64.yml" in refusal(capsys)
    assert "none.yml" in refusal(capsys, "--conf_path", str(tmp_path / "none.yml"))
    assert "is not a folder" in refusal(capsys, "--conf_path", conf, "--set", f"data_dir={tmp_path}/none")
    assert "'batch_size'" in refusal(capsys, "--conf_path", conf, "--set", "lr=1", "--set", "bach_size=2")
    assert "use auto, cpu" in refusal(capsys, "--conf_path", conf, "--device", "quantum")
    assert "is too few" in refusal(capsys, "--conf_path", conf, "--set", "noise_schedule=linear")


def test_another_network_on_resume_is_one_line(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = str(whole / "train.yml")
    told = refusal(capsys, "--conf_path", conf, "--set", "num_channels=64")
    assert "num_channels: 32" in told and str(whole / "out") in told


def test_a_place_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("a file")
    assert run(tmp_path, out=str(tmp_path / "taken" / "out")) == 1
    assert "taken" in capsys.readouterr().err.splitlines()[-1]


def test_a_loss_gone_wild_keeps_the_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = SceneStream.__getitem__
    monkeypatch.setattr(
        SceneStream, "__getitem__", lambda self, i: plain(self, i) * (1 if i < 6 else float("nan"))
    )
    assert run(tmp_path) == 1
    assert "no longer finite" in capsys.readouterr().err.splitlines()[-1]
    assert state(tmp_path)["step"] == 2
    assert all(value.isfinite().all() for value in state(tmp_path)["network"].values())


def test_the_grid_is_all_samples(tmp_path: Path) -> None:
    trainer = Trainer(tiny(tmp_path), CPU)
    grid = sample_grid(trainer, rows=3)
    gap = 9
    assert grid.shape == (gap + 3 * (128 + gap), gap + 3 * (128 + gap), 3)
    # An untrained network's average leaves noise: every cell is full of it, the gaps are paper.
    for row in range(3):
        for column in range(3):
            top, left = gap + row * (128 + gap), gap + column * (128 + gap)
            assert grid[top : top + 128, left : left + 128].std() > 20
    assert (grid[:gap] == 242).all() and (grid[:, :gap] == 242).all() and (grid[-gap:] == 242).all()
    assert (sample_grid(trainer, rows=3) == grid).all()


def test_the_grid_of_a_run_is_a_picture(whole: Path) -> None:
    with Image.open(whole / "out" / "samples" / "000006.png") as pil_image:
        assert pil_image.size == (4 * 137 + 9, 4 * 137 + 9)


def torchrun(*arguments: str) -> subprocess.CompletedProcess:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [sys.executable, *launcher, *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def test_two_ranks_under_torchrun(tmp_path: Path) -> None:
    conf = write_yaml(tmp_path, iterations=4, log_interval=1, microbatch=1, schedule_sampler="loss-aware")
    done = torchrun("-m", "guided_diffusion.train", "--conf_path", str(conf), "--device", "cpu")
    assert done.stdout == f"4 of 4 steps are done and saved in {tmp_path}/out\n"
    assert [(row["step"], row["images"]) for row in losses(tmp_path)] == [
        (str(step), str(4 * step)) for step in range(1, 5)
    ]


def test_two_ranks_stay_together(tmp_path: Path) -> None:
    assert run(tmp_path, iterations=4) == 0
    conf = write_yaml(tmp_path, iterations=100, microbatch=1, schedule_sampler="loss-aware")
    torchrun("-m", "tests.helpers.two_ranks", str(conf), str(tmp_path))
    one, other = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    # Seven steps after the fourth one rank wants to stop; both do when they next ask each other.
    assert one["step"] == other["step"] == state(tmp_path)["step"] == 20
    assert all(torch.equal(one["weights"][key], other["weights"][key]) for key in one["weights"])
    scenes = SceneStream(16, 0)
    for rank, drawn in enumerate((one["drawn"], other["drawn"])):
        assert torch.equal(drawn, torch.stack([scenes[i] for i in range(16 + rank, 80, 2)]))
