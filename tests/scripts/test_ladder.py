"""scripts/ladder.py with networks so small that a variant takes a second: plan, table, errors."""

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
from guided_diffusion.training.prior_trainer import PriorTrainer
from guided_diffusion.training.scene_windows import SceneWindows
from tests.helpers.training import CODEC, CPU, write_yaml

SCRIPT = str(Path(__file__).resolve().parents[2] / "scripts" / "ladder.py")
LABELS = {"": "as it is", "loss_weighting=p2": "loss_weighting=p2", "channel_mult=1,2": "channel_mult=1,2"}


@dataclass(frozen=True)
class Outcome:
    code: int
    rows: list[list[str]]
    err: str


@pytest.fixture
def ladder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Call it with variants and further options; their folders are in tmp_path/runs."""
    monkeypatch.setattr(run_cost, "matrix_rate", lambda *_: 1.0)
    monkeypatch.setattr(PriorTrainer, "step_flops", lambda _: 1)
    conf = write_yaml(tmp_path)

    def call(*variants: str, words: tuple[str, ...] = ("--minutes", "0.001")) -> Outcome:
        given = ["--conf_path", str(conf), "--out", str(tmp_path / "runs"), "--n", "5", "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", [SCRIPT, *given, *words, "--try", *variants])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(SCRIPT, run_name="__main__")
        printed = capsys.readouterr()
        rows = [line.strip("| ").split(" | ") for line in printed.out.splitlines() if line.startswith("| ")]
        return Outcome(int(caught.value.code or 0), rows, printed.err)

    return call


def test_ladder_trains_equally_long_and_compares(ladder: Callable[..., Outcome], tmp_path: Path) -> None:
    first = ladder(*LABELS)
    assert first.code == 0, first.err
    heads, *rows = first.rows
    assert [row[0] for row in rows] == list(LABELS.values())
    step_counts = []
    for words, row in zip(LABELS, rows, strict=True):
        cells = dict(zip(heads, row, strict=True))
        folder = tmp_path / "runs" / LABELS[words].replace(" ", "-")
        plan = json.loads((folder / "plan.json").read_text())
        assert plan["iterations"] == max(1, round(60 * 0.001 / plan["cost"])) == int(cells["steps"])
        step_counts.append(plan["iterations"])
        assert int(cells["images"]) == 2 * plan["iterations"]
        assert float(cells["half (MB)"]) == pytest.approx(
            (folder / "weights.pt").stat().st_size / 1e6, abs=0.06
        )
        error, bits = measure_directly(tmp_path / "train.yml", words, folder)
        assert float(cells["all"]) == pytest.approx(error, abs=6e-5)
        assert float(cells["bound"]) == pytest.approx(bits, abs=6e-4)
        if words:
            base, low, high = parse_numbers(cells["all, minus first"])
            assert low <= base <= high
            assert base == pytest.approx(float(cells["all"]) - float(rows[0][heads.index("all")]), abs=2e-4)
    assert step_counts[0] == step_counts[1]  # the same network, hence the same cost


def parse_numbers(cell: str) -> list[float]:
    return [float(word.strip("[],")) for word in cell.split()]


def measure_directly(conf: Path, words: str, folder: Path) -> tuple[float, float]:
    """Error and bound of the average in the folder's state, on scenes 0 to 4 of seed 1000."""
    trainer = PriorTrainer(load_train(conf, words.split()), CPU, CODEC)
    state = torch.load(folder / "state.pt", weights_only=True)
    trainer.ema.load_state_dict(state["ema"])
    scenes = SceneWindows(16, 1000, (1,), CODEC)
    losses = measure(trainer.denoiser(trainer.ema), [scenes[i] for i in range(5)], 1000)
    return float(losses.error.mean()), float(losses.bits.mean())


def test_ladder_keeps_finished_variants(ladder: Callable[..., Outcome], tmp_path: Path) -> None:
    first = ladder("")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.pt")}
    assert len(files) == 2
    again = ladder("", "num_channels=64")
    assert again.rows[:2] == first.rows and len(again.rows) == 3
    assert {path: path.stat().st_mtime_ns for path in files} == files


@pytest.mark.parametrize(
    ("variants", "message"),
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
def test_ladder_refuses_what_cannot_be_compared(
    ladder: Callable[..., Outcome], tmp_path: Path, variants: tuple[str, ...], message: str
) -> None:
    outcome = ladder(*variants)
    assert outcome.code == 2 and message in outcome.err and outcome.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_ladder_leaves_folder_of_another_ladder_alone(ladder: Callable[..., Outcome], tmp_path: Path) -> None:
    plan = tmp_path / "runs" / "as-it-is" / "plan.json"
    plan.parent.mkdir(parents=True)
    plan.write_text('{"asked": {"minutes": 9}}')
    outcome = ladder("")
    assert outcome.code == 2 and "is of another ladder ({'minutes': 9}); choose another --out" in outcome.err
    assert list(plan.parent.iterdir()) == [plan]


@pytest.mark.parametrize("words", [("--n", "0"), ("--minutes", "0"), ("--minutes", "-1")])
def test_ladder_refuses_no_images_and_no_time(ladder: Callable[..., Outcome], words: tuple[str, ...]) -> None:
    outcome = ladder("", words=words)
    assert outcome.code == 2 and "at least one image and some time" in outcome.err
