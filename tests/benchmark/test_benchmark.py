"""benchmark: what is timed is what is said, whoever runs it; arithmetic of the rounds."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from guided_diffusion.benchmark import __main__ as benchmark
from guided_diffusion.benchmark import harness, ranks, sections, worker
from guided_diffusion.benchmark.harness import Absent, Contender, Times, in_turn
from guided_diffusion.build import build_network, flops_per_evaluation
from guided_diffusion.config.schema import ModelConfig
from guided_diffusion.images.formats import read_image
from guided_diffusion.runtime import hardware
from guided_diffusion.scheduler import JumpSchedule, count_nfe
from tests.conftest import MODEL

TINY = ModelConfig(**MODEL)
OURS = ["ours, fp32", "ours, fp32, compiled", "ours, bf16", "ours, bf16, compiled"]

PEER = """
import torch
class Net(torch.nn.Conv2d):
    def load_state_dict(self, state): self.loaded = len(state)
    def convert_to_fp16(self): self.weight.data *= 2  # to be seen
    def forward(self, x, t): return torch.cat([super().forward(x)] * 2, dim=1)
class Diffusion:
    def p_sample_loop(self, model, shape, model_kwargs, conf, **_):
        print("what a peer prints is no reply")
        assert model_kwargs["gt"].shape == tuple(shape) and conf.schedule_jump_params["t_T"]
        for _ in range(5): model(torch.zeros(shape), torch.zeros(shape[0]), gt=None)
def model_and_diffusion_defaults(): return {"num_channels": 1, "learn_sigma": False, "use_fp16": False}
def create_model_and_diffusion(num_channels, learn_sigma, use_fp16, conf):
    assert not use_fp16 or conf["use_fp16"]
    torch.manual_seed(0)
    return Net(3, 3, 1, bias=False), None
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
    for module in (harness, sections):
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
    assert benchmark.main([*few, *arguments], TINY, TINY) == 0
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
        peer.ask("answer", batch=2, side=8, path=str(tmp_path / "full.pt"))
        with pytest.raises(Absent, match="^peer does not run here: .*lacking"):
            peer.ask("lacking")
    assert peer.process.returncode == 0
    with Contender("peer", {**options, "precision": "fp16"}) as half:
        half.ask("answer", batch=2, side=8, path=str(tmp_path / "half.pt"))
    assert torch.equal(torch.load(tmp_path / "half.pt"), 2 * torch.load(tmp_path / "full.pt"))


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
    assert [row[:2] for row in rows] == [["2", name] for name in OURS]
    exact, quick, half, compiled = (float(row[-1]) for row in rows)
    assert quick == exact
    assert exact == 0 and 0 < half == compiled < 0.1


def test_walks_count_the_evaluations_of_their_schedule(
    here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    _, rows = main(capsys, "--only", "loop")
    times = JumpSchedule(**sections.SCHEDULE).times(10)
    assert {row[2] for row in rows} == {str(count_nfe(times)[0])}
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


def test_what_grows_is_drawn_where_there_is_matplotlib(
    here: None, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections, "whole_walk", lambda *_: 1.0)
    plot = tmp_path / "linear.png"
    out, _ = main(capsys, "--only", "linear", "--plot", str(plot))
    assert read_image(plot).shape[1] > 1000 and "matplotlib" not in out
    plot.unlink()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    out, rows = main(capsys, "--only", "linear", "--plot", str(plot))
    assert "The plot needs matplotlib" in out and rows and not plot.exists()


def test_the_large_network_is_timed_in_each_precision(
    here: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "has_bf16", lambda _device: True)
    out, rows = main(capsys, "--only", "large")
    assert [row[0] for row in rows] == ["ours, fp32", "ours, bf16"] and rows[0][3:] == ["1.00", "1.00"]
    assert all(float(row[1]) >= 0 for row in rows)
    [rate] = re.findall(r"product in bf16 reaches ([0-9]+) GFLOP/s", out)
    assert int(rate) > 0


def test_on_a_gpu_the_large_network_takes_as_many_at_once_as_pay(
    here: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {1: 1.0, 4: 2.0, 16: 8.0}  # for each: 1, 1/2, 1/2
    monkeypatch.setattr(sections.Bench, "on_gpu", True)
    monkeypatch.setattr(hardware, "has_bf16", lambda _device: True)
    monkeypatch.setattr(sections, "evaluation", lambda _of, batch, _side, calls=0: lambda: seconds[batch])
    out, rows = main(capsys, "--only", "large")
    assert [row[0] for row in rows] == [*OURS, "1", "4", "16"]
    nfe, _ = count_nfe(JumpSchedule(250, jump_length=10, jump_n_sample=10).times(250))
    assert [float(row[-1]) for row in rows[4:]] == [nfe, nfe / 2, nfe / 2]
    assert f"{nfe} evaluations by the paper's schedule" in out


def test_batches_grow_until_memory_holds_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluation(_of: object, batch: int, _side: int) -> Any:
        if batch == 64:
            raise Absent("ours does not run here: OutOfMemoryError")
        return lambda: 1.0

    monkeypatch.setattr(sections, "evaluation", evaluation)
    told: list[str] = []
    ours: Any = None
    assert list(sections.batches(ours, 8, told.append)) == [(1, 1.0), (4, 0.25), (16, 0.0625)]
    assert told == ["64 images at once: ours does not run here: OutOfMemoryError"]


def test_ranks_are_judged_by_one_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: Any
) -> None:
    """Here each run is one process, so that images are the same; how many there would be is told."""
    monkeypatch.setattr(sections, "PICTURES", 2)
    monkeypatch.setattr(ranks, "STEPS", 2)
    monkeypatch.setattr(ranks, "in_turn", lambda measures, rounds: [Times((each(),)) for each in measures])
    calls: list[tuple[str, int]] = []

    def run(words: list[str], folder: Path, variables: Mapping[str, str]) -> str:
        [started] = [i for i, word in enumerate(words) if word.endswith("test.py")]
        calls.append((words[started - 1], len(os.sched_getaffinity(0))))
        monkeypatch.chdir(folder)
        assert variables["OMP_NUM_THREADS"] == "1"
        return "" if command.main(words[started + 1 :]) == 0 else "it failed"

    monkeypatch.setattr(ranks, "call", run)
    before = os.sched_getaffinity(0)
    _, rows = main(capsys, "--only", "ranks")
    assert os.sched_getaffinity(0) == before
    given = [min(cores, len(before)) for cores in (1, 1, 2, 4)]
    assert [row[0] for row in rows] == ["no torchrun", "1", "2", "4"]
    assert [row[1] for row in rows] == [str(cores) for cores in given]
    assert rows[0][4] == "100%" and {row[5] for row in rows} == {"yes"}
    plain, *under = dict.fromkeys(calls)
    assert plain == (sys.executable, 1)
    assert under == [(f"--nproc_per_node={n}", cores) for n, cores in zip((1, 2, 4), given[1:], strict=True)]
    assert len(calls) == 8  # each again, with nothing left to do


def test_ranks_that_do_not_run_are_told_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections, "PICTURES", 1)
    monkeypatch.setattr(ranks, "call", lambda *_: "Traceback\nNo room")
    out, rows = main(capsys, "--only", "ranks")
    assert "test.py by one process does not run here: No room" in out and not rows


def test_the_clock_waits_for_the_device_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waited.append(device))
    out: Any = SimpleNamespace(is_cuda=True, device=torch.device("cuda:1"))
    assert worker.wait(out) is out
    worker.Counted(lambda: out, lambda: 0.0, "cuda:1")()
    assert waited == [torch.device("cuda:1"), "cuda:1", "cuda:1"]


def test_ours_rounds_products_as_the_engine_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(hardware, "keep_memory", lambda: True)
    monkeypatch.setattr(hardware, "round_products", told.append)
    sections.write_weights(TINY, tmp_path / "w.pt", torch.float32)
    options = {"engine": "ours", "precision": "tf32", "compile": False, "model": asdict(TINY)}
    Here("", {**options, "weights": str(tmp_path / "w.pt"), "device": "cpu", "threads": 1})
    assert told == ["tf32"]


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
    assert benchmark.main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert arguments[1] in line
