"""benchmark: what is timed is what is said, whoever runs it; arithmetic of the rounds."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from guided_diffusion import hardware
from guided_diffusion.assembly import build_network, flops_per_evaluation
from guided_diffusion.benchmark import __main__ as command
from guided_diffusion.benchmark import contest, sections, worker
from guided_diffusion.benchmark.contest import Absent, Contender, Times, in_turn
from guided_diffusion.config import ModelConfig
from guided_diffusion.scheduler import JumpSchedule, count_evaluations
from tests.conftest import MODEL

TINY = ModelConfig(**MODEL)

PEER = """
import torch
class Net(torch.nn.Conv2d):
    def load_state_dict(self, state): self.loaded = len(state)
    def forward(self, x, t): return torch.cat([super().forward(x)] * 2, dim=1)
class Diffusion:
    def p_sample_loop(self, model, shape, model_kwargs, conf, **_):
        print("what a peer prints is no reply")
        assert model_kwargs["gt"].shape == tuple(shape) and conf.schedule_jump_params["t_T"]
        for _ in range(5): model(torch.zeros(shape), torch.zeros(shape[0]), gt=None)
def model_and_diffusion_defaults(): return {"num_channels": 1, "learn_sigma": False}
def create_model_and_diffusion(num_channels, learn_sigma, conf): return Net(3, 3, 1), None
def create_gaussian_diffusion(steps, learn_sigma, timestep_respacing, conf): return Diffusion()
"""
CONF = "class Default_Conf(dict):\n    __getattr__ = dict.get\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder laid out as RePaint's code, with a network of one layer and walks of five evaluations."""
    for name, text in (("guided_diffusion/script_util.py", PEER), ("conf_mgt/__init__.py", CONF)):
        path = tmp_path / "peer" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    (tmp_path / "peer" / "guided_diffusion" / "__init__.py").touch()
    return tmp_path / "peer"


class Here:
    """A Contender without a process of its own."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        try:
            self.name, self.server = name, worker.Server(worker.Options(**options))
        except ImportError as error:
            raise Absent(f"{name}: {error}") from None

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        with torch.no_grad():
            return json.loads(json.dumps(getattr(self.server, do)(**arguments)))

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "keep_memory", lambda: True)
    for module in (contest, sections):
        monkeypatch.setattr(module, "Contender", Here)


def cells(text: str) -> list[list[str]]:
    """Rows of the tables in a text, without their heads."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]
    heads = {i for i, row in enumerate(rows) if row[0] == "---"}
    return [row for i, row in enumerate(rows) if not heads & {i, i + 1}]


def main(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, list[list[str]]]:
    few = ["--rounds", "1", "--batch", "2", "--threads", "1", "--device", "cpu"]
    assert command.main([*few, *arguments], TINY, TINY) == 0
    out = capsys.readouterr().out
    return out, cells(out)


def test_ratios_are_of_the_same_round() -> None:
    ours, theirs = Times((1.0, 2.0, 4.0)), Times((3.0, 4.0, 4.0))
    assert ours.faster_than(theirs) == (2.0, 3.0)
    assert (ours.best, ours.median) == (1.0, 2.0)


def test_rounds_go_in_turn_and_the_first_does_not_count() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    a, b = in_turn([lambda: measure("a"), lambda: measure("b")], 2)
    assert order == ["a", "b"] * 3
    assert (a.rounds, b.rounds) == ((3.0, 5.0), (4.0, 6.0))


def test_another_network_in_its_own_process(checkout: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(1)}, weights)
    options = {"engine": "repaint", "precision": "fp32", "compile": False, "model": {"num_channels": 8}}
    options |= {"weights": str(weights), "device": "cpu", "threads": 1, "place": str(checkout)}
    with Contender("peer", options) as peer:
        took = peer.ask("evaluate", batch=2, side=8, calls=3)["seconds"]
        assert len(took) == 3 and all(seconds >= 0 for seconds in took)
        walked = peer.ask("walk", batch=2, side=8, schedule={"t_T": 3})
        assert walked["evaluations"] == 5 and 0 <= walked["inside"] <= walked["seconds"]
        with pytest.raises(Absent, match="^peer does not run here: .*lacking"):
            peer.ask("lacking")
    assert peer.process.returncode == 0


def test_an_engine_that_is_not_there_is_told_in_one_line() -> None:
    options = {"engine": "diffusers", "device": "cpu", "threads": 1, "model": {}}
    replies = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "diffusers", None)
        worker.serve(io.StringIO(json.dumps(options) + "\n"), replies)
    [line] = replies.getvalue().splitlines()
    assert "diffusers" in json.loads(line)["error"]


def test_weights_are_the_same_each_time_and_fit(tmp_path: Path) -> None:
    for name in "ab":
        sections.write_weights(TINY, tmp_path / name, torch.float16)
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in "ab")
    assert all(torch.equal(one[key], two[key]) and one[key].any() for key in one)
    build_network(TINY).load_state_dict(one)


def test_the_network_section_judges_ours_by_the_first(
    here: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "has_bf16", lambda _device: True)
    out, rows = main(capsys, "--only", "network")
    assert "clone https://github.com/andreas128/RePaint" in out
    assert [row[:2] for row in rows] == [
        ["2", f"ours, {what}"] for what in ("fp32", "bf16", "bf16, compiled")
    ]
    exact, half, compiled = (float(row[-1]) for row in rows)
    assert exact == 0 and 0 < half == compiled < 0.1


def test_walks_count_the_evaluations_of_their_schedule(
    here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    _, rows = main(capsys, "--only", "loop")
    times = JumpSchedule(**sections.SCHEDULE).times(10)
    assert {row[2] for row in rows} == {str(count_evaluations(times)[0])}
    assert all(0 <= float(row[-2].rstrip("%")) < 100 for row in rows)


def test_the_other_sections_measure_what_they_say(here: None, capsys: pytest.CaptureFixture[str]) -> None:
    out, rows = main(capsys, "--only", "linear", "memory", "roofline")
    assert [row[1] for row in rows[:4]] == ["5", "10", "20", "40"]
    assert [row[1] for row in rows[8:12]] == ["256", "576", "1024", "2304"]
    assert {rows[i][3] for i in (0, 4, 8)} == {"1.00"}
    weights = sum(p.numel() for p in build_network(TINY).parameters())
    [said] = re.findall(r"([0-9.]+) GB of weights", out)
    assert float(said) == round(4 * weights / 1e9, 2)
    [*_, last] = rows
    assert float(last[4].rstrip("%")) > 0


def test_the_large_network_is_timed_in_each_precision(
    here: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "has_bf16", lambda _device: True)
    out, rows = main(capsys, "--only", "large")
    assert [row[0] for row in rows] == ["ours, fp32", "ours, bf16"] and rows[0][3:] == ["1.00", "1.00"]
    assert all(float(row[1]) >= 0 for row in rows)
    [rate] = re.findall(r"product in bf16 reaches ([0-9]+) GFLOP/s", out)
    assert int(rate) > 0


def test_a_worker_counts_the_arithmetic_it_does(here: None, tmp_path: Path) -> None:
    sections.write_weights(TINY, tmp_path / "w.pt", torch.float32)
    options = {"engine": "ours", "precision": "fp32", "compile": False, "model": asdict(TINY)}
    ours = Here("", {**options, "weights": str(tmp_path / "w.pt"), "device": "cpu", "threads": 1})
    ours.server.engine.call = build_network(TINY)  # torch's counter does not see packed convolutions
    assert ours.ask("flops", batch=2, side=16)["flops"] == flops_per_evaluation(TINY, (2, 3, 16, 16))


@pytest.mark.parametrize("arguments", [["--repaint", "nowhere"], ["--device", "tpu"]])
def test_wrong_arguments_are_told_in_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert arguments[1] in line
