"""scripts/ladder.py on networks so small that a variant takes a second: its plan, its table, its refusals."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from guided_diffusion.training import run_cost
from guided_diffusion.training.config import load_train
from guided_diffusion.training.held_out import measure
from guided_diffusion.training.scene_windows import SceneWindows
from guided_diffusion.training.trainer import Trainer
from tests.helpers.training import write_yaml

SCRIPT = str(Path(__file__).resolve().parents[2] / "scripts" / "ladder.py")
NAMES = {"": "as it is", "loss_weighting=p2": "loss_weighting=p2", "channel_mult=1,2": "channel_mult=1,2"}


@dataclass(frozen=True)
class Outcome:
    code: int
    rows: list[list[str]]
    err: str


@pytest.fixture
def ladder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Call it with further words; the variants' folders are in tmp_path/runs."""
    monkeypatch.setattr(run_cost, "matrix_rate", lambda *_: 1.0)
    monkeypatch.setattr(Trainer, "step_flops", lambda _: 1)
    conf = write_yaml(tmp_path)

    def call(*variants: str, words: tuple[str, ...] = ("--minutes", "0.001")) -> Outcome:
        given = ["--conf_path", str(conf), "--out", str(tmp_path / "runs"), "--n", "5", "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", [SCRIPT, *given, *words, "--try", *variants])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(SCRIPT, run_name="__main__")
        told = capsys.readouterr()
        rows = [line.strip("| ").split(" | ") for line in told.out.splitlines() if line.startswith("| ")]
        return Outcome(int(caught.value.code or 0), rows, told.err)

    return call


def test_all_variants_take_the_same_time_and_are_compared(
    ladder: Callable[..., Outcome], tmp_path: Path
) -> None:
    first = ladder(*NAMES)
    assert first.code == 0, first.err
    heads, *rows = first.rows
    assert [row[0] for row in rows] == list(NAMES.values())
    steps = []
    for words, row in zip(NAMES, rows, strict=True):
        cells = dict(zip(heads, row, strict=True))
        folder = tmp_path / "runs" / NAMES[words].replace(" ", "-")
        plan = json.loads((folder / "plan.json").read_text())
        assert plan["iterations"] == max(1, round(60 * 0.001 / plan["cost"])) == int(cells["steps"])
        steps.append(plan["iterations"])
        assert int(cells["images"]) == 2 * plan["iterations"]
        assert float(cells["half (MB)"]) == pytest.approx(
            (folder / "weights.pt").stat().st_size / 1e6, abs=0.06
        )
        error, bits = judged_by_hand(tmp_path / "train.yml", words, folder)
        assert float(cells["all"]) == pytest.approx(error, abs=6e-5)
        assert float(cells["bound"]) == pytest.approx(bits, abs=6e-4)
        if words:
            base, low, high = numbers(cells["all, minus first"])
            assert low <= base <= high
            assert base == pytest.approx(float(cells["all"]) - float(rows[0][heads.index("all")]), abs=2e-4)
    assert steps[0] == steps[1]  # of one network, hence of one cost


def numbers(cell: str) -> list[float]:
    return [float(word.strip("[],")) for word in cell.split()]


def judged_by_hand(conf: Path, words: str, folder: Path) -> tuple[float, float]:
    """Of the average that lies in the folder's state, on scenes 0 to 4 of seed 1000."""
    trainer = Trainer(load_train(conf, words.split()), torch.device("cpu"))
    state = torch.load(folder / "state.pt", weights_only=True)
    trainer.ema.load_state_dict(state["ema"])
    scenes = SceneWindows(16, 1000, (1,))
    told = measure(trainer.denoiser(trainer.ema), [scenes[i] for i in range(5)], 1000)
    return float(told.error.mean()), float(told.bits.mean())


def test_what_is_done_is_not_done_again(ladder: Callable[..., Outcome], tmp_path: Path) -> None:
    first = ladder("")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.pt")}
    assert len(files) == 2
    again = ladder("", "num_channels=64")
    assert again.rows[:2] == first.rows and len(again.rows) == 3
    assert {path: path.stat().st_mtime_ns for path in files} == files


@pytest.mark.parametrize(
    ("variants", "told"),
    [
        (("", "image_size=32"), "--try 'image_size=32': errors compare only within one image_size"),
        (("", "noise_schedule=linear"), "--try 'noise_schedule=linear': errors compare only"),
        (("seed=1000",), "a seed below 1000"),
        (("predict_xstart=true",), "predict_xstart: false"),
        (("learn_sigma=false",), "learn_sigma: true"),
        (("data_dir=images",), "data_dir: scenes"),
        (("", ""), "give each variant once"),
        (("num_chanels=32",), "num_channels"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    ladder: Callable[..., Outcome], tmp_path: Path, variants: tuple[str, ...], told: str
) -> None:
    outcome = ladder(*variants)
    assert outcome.code == 2 and told in outcome.err and outcome.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_another_ladder_is_left_alone(ladder: Callable[..., Outcome], tmp_path: Path) -> None:
    plan = tmp_path / "runs" / "as-it-is" / "plan.json"
    plan.parent.mkdir(parents=True)
    plan.write_text('{"asked": {"minutes": 9}}')
    outcome = ladder("")
    assert outcome.code == 2 and "is of another ladder ({'minutes': 9}); choose another --out" in outcome.err
    assert list(plan.parent.iterdir()) == [plan]


@pytest.mark.parametrize("words", [("--n", "0"), ("--minutes", "0"), ("--minutes", "-1")])
def test_nothing_to_do_is_refused(ladder: Callable[..., Outcome], words: tuple[str, ...]) -> None:
    outcome = ladder("", words=words)
    assert outcome.code == 2 and "at least one image and some time" in outcome.err
