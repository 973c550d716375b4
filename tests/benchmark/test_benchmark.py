"""Tests of benchmark/: engines in processes, the arithmetic of rounds, and every section."""

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
from guided_diffusion.benchmark import harness, ranks, sections, settings, worker
from guided_diffusion.benchmark.harness import EngineProcess, EngineUnavailable, Times, interleaved
from guided_diffusion.build import build_network, flops_per_evaluation
from guided_diffusion.config.schema import ModelConfig
from guided_diffusion.images.formats import read_image
from guided_diffusion.runtime import device, memory
from guided_diffusion.scheduler import JumpSchedule, count_nfe
from tests.helpers.project import MODEL

TINY = ModelConfig(**MODEL)
PENUMBRA = ["Penumbra, fp32", "Penumbra, fp32, compiled", "Penumbra, bf16", "Penumbra, bf16, compiled"]

PEER = """
import torch
class Net(torch.nn.Conv2d):
    def load_state_dict(self, state): self.loaded = len(state)
    def convert_to_fp16(self): self.weight.data *= 2  # so that the test sees it
    def forward(self, x, t): return torch.cat([super().forward(x)] * 2, dim=1)
class Diffusion:
    def p_sample_loop(self, model, shape, model_kwargs, conf, **_):
        print("not a reply")
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
    """Lay out a folder like RePaint's code, with a network of one layer and trajectories of five NFE."""
    for name, text in (("guided_diffusion/script_util.py", PEER), ("conf_mgt/__init__.py", CONF)):
        path = tmp_path / "peer" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    (tmp_path / "peer" / "guided_diffusion" / "__init__.py").touch()
    return tmp_path / "peer"


class InProcess:
    """An EngineProcess that runs in the process of the test."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        try:
            self.name, self.server = name, worker.Server(worker.Options(**options))
        except ImportError as error:
            raise EngineUnavailable(f"{name}: {error}") from None

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        with torch.no_grad():
            return json.loads(json.dumps(getattr(self.server, do)(**arguments)))

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "tune_malloc", lambda: True)
    for module in (harness, sections):
        monkeypatch.setattr(module, "EngineProcess", InProcess)


def cells(text: str) -> list[list[str]]:
    """Return the rows of the tables in a text, without their heads."""
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


def test_speedup_compares_times_of_the_same_round() -> None:
    ours, theirs = Times((1.0, 2.0, 4.0)), Times((3.0, 4.0, 4.0))
    assert ours.speedup_over(theirs) == (2.0, 3.0)
    assert (ours.best, ours.median) == (1.0, 2.0)


def test_interleaved_takes_turns_and_drops_the_first_round() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    a, b = interleaved([lambda: measure("a"), lambda: measure("b")], 2)
    assert order == ["a", "b"] * 3
    assert (a.rounds, b.rounds) == ((3.0, 5.0), (4.0, 6.0))


def test_engine_process_runs_another_engine(checkout: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(1)}, weights)
    options = {"engine": "repaint", "precision": "fp32", "compile": False, "model": {"num_channels": 8}}
    options |= {"weights": str(weights), "device": "cpu", "threads": 1, "repaint_dir": str(checkout)}
    with EngineProcess("peer", options) as peer:
        took = peer.ask("evaluate", batch=2, side=8, calls=3)["seconds"]
        assert len(took) == 3 and sum(took) > 0
        timed = peer.ask("trajectory", batch=2, side=8, schedule={"t_T": 3})
        assert timed["nfe"] == 5 and 0 < timed["inside"] < timed["seconds"]
        peer.ask("output", batch=2, side=8, path=str(tmp_path / "full.pt"))
        with pytest.raises(EngineUnavailable, match="^peer does not run here: .*lacking"):
            peer.ask("lacking")
    assert peer.process.returncode == 0
    with EngineProcess("peer", {**options, "precision": "fp16"}) as half:
        half.ask("output", batch=2, side=8, path=str(tmp_path / "half.pt"))
    assert torch.equal(torch.load(tmp_path / "half.pt"), 2 * torch.load(tmp_path / "full.pt"))


def test_worker_reports_a_missing_engine_in_one_line() -> None:
    options = {"engine": "diffusers", "device": "cpu", "threads": 1, "model": {}}
    replies = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "diffusers", None)
        worker.serve(io.StringIO(json.dumps(options) + "\n"), replies)
    [line] = replies.getvalue().splitlines()
    assert "diffusers" in json.loads(line)["error"]


def test_write_weights_is_deterministic_and_fits_the_network(tmp_path: Path) -> None:
    for name in "ab":
        settings.write_weights(TINY, tmp_path / name, torch.float16)
    first, second = (torch.load(tmp_path / name, weights_only=True) for name in "ab")
    assert all(torch.equal(first[key], second[key]) and first[key].any() for key in first)
    build_network(TINY).load_state_dict(first)


def test_section_network_reports_errors_against_the_first_engine(
    in_process: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "has_bf16", lambda _device: True)
    out, rows = main(capsys, "--only", "network")
    assert "clone https://github.com/andreas128/RePaint" in out
    assert [row[:2] for row in rows] == [["2", name] for name in PENUMBRA]
    exact, quick, half, compiled = (float(row[-1]) for row in rows)
    assert quick == exact
    assert exact == 0 and 0 < half == compiled < 0.1


def test_section_loop_counts_the_nfe_of_the_schedule(
    in_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    _, rows = main(capsys, "--only", "loop")
    times = JumpSchedule(**sections.SCHEDULE).times(10)
    assert {row[2] for row in rows} == {str(count_nfe(times)[0])}
    assert all(0 <= float(row[-2].rstrip("%")) < 100 for row in rows)


def test_sections_linear_memory_roofline_fill_their_tables(
    in_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out, rows = main(capsys, "--only", "linear", "memory", "roofline")
    assert [row[1] for row in rows[:4]] == ["5", "10", "20", "40"]
    assert [row[1] for row in rows[8:12]] == ["256", "576", "1024", "2304"]
    assert {rows[i][3] for i in (0, 4, 8)} == {"1.00"}
    weights = sum(p.numel() for p in build_network(TINY).parameters())
    [gigabytes] = re.findall(r"([0-9.]+) GB of weights", out)
    assert float(gigabytes) == round(4 * weights / 1e9, 2)
    [*_, last] = rows
    assert float(last[4].rstrip("%")) > 0


def test_section_linear_draws_a_plot_if_matplotlib_is_installed(
    in_process: None, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections, "trajectory_seconds", lambda *_: 1.0)
    plot = tmp_path / "linear.png"
    out, _ = main(capsys, "--only", "linear", "--plot", str(plot))
    assert read_image(plot).shape[1] > 1000 and "matplotlib" not in out
    plot.unlink()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    out, rows = main(capsys, "--only", "linear", "--plot", str(plot))
    assert "The plot needs matplotlib" in out and rows and not plot.exists()


def test_section_large_measures_each_precision(
    in_process: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "has_bf16", lambda _device: True)
    out, rows = main(capsys, "--only", "large")
    assert [row[0] for row in rows] == ["Penumbra, fp32", "Penumbra, bf16"] and rows[0][3:] == [
        "1.00",
        "1.00",
    ]
    assert all(float(row[1]) > 0 for row in rows)
    [rate] = re.findall(r"product in bf16 reaches ([0-9]+) GFLOP/s", out)
    assert int(rate) > 0


def test_section_large_grows_the_batch_on_a_gpu(
    in_process: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {1: 1.0, 4: 2.0, 16: 8.0}  # for each: 1, 1/2, 1/2
    monkeypatch.setattr(settings.Bench, "on_gpu", True)
    monkeypatch.setattr(device, "has_bf16", lambda _device: True)
    monkeypatch.setattr(sections, "evaluation", lambda _of, batch, _side, calls=0: lambda: seconds[batch])
    out, rows = main(capsys, "--only", "large")
    assert [row[0] for row in rows] == [*PENUMBRA, "1", "4", "16"]
    nfe, _ = count_nfe(JumpSchedule(250, jump_length=10, jump_n_sample=10).times(250))
    assert [float(row[-1]) for row in rows[4:]] == [nfe, nfe / 2, nfe / 2]
    assert f"{nfe} evaluations by the paper's schedule" in out


def test_grow_batch_ends_where_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluation(_of: object, batch: int, _side: int) -> Any:
        if batch == 64:
            raise EngineUnavailable("Penumbra does not run here: OutOfMemoryError")
        return lambda: 1.0

    monkeypatch.setattr(sections, "evaluation", evaluation)
    warnings: list[str] = []
    engine: Any = None
    assert list(sections.grow_batch(engine, 8, warnings.append)) == [(1, 1.0), (4, 0.25), (16, 0.0625)]
    assert warnings == ["64 images at once: Penumbra does not run here: OutOfMemoryError"]


def test_section_ranks_compares_ranks_with_one_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: Any
) -> None:
    """Each run is one process of the command; the number of ranks is read from the command line."""
    monkeypatch.setattr(sections, "IMAGES", 2)
    monkeypatch.setattr(ranks, "STEPS", 2)
    monkeypatch.setattr(ranks, "interleaved", lambda measures, rounds: [Times((m(),)) for m in measures])
    calls: list[tuple[str, int]] = []

    def run(words: list[str], folder: Path, variables: Mapping[str, str]) -> str:
        started = words.index("guided_diffusion.cli")
        assert words[started - 1] == "-m"
        calls.append((words[started - 2], len(os.sched_getaffinity(0))))
        monkeypatch.chdir(folder)
        assert variables["OMP_NUM_THREADS"] == "1"
        return "" if command.main(words[started + 1 :]) == 0 else "it failed"

    monkeypatch.setattr(ranks, "run_command", run)
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


def test_section_ranks_reports_a_failed_run_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections, "IMAGES", 1)
    monkeypatch.setattr(ranks, "run_command", lambda *_: "Traceback\nNo room")
    out, rows = main(capsys, "--only", "ranks")
    assert "a run with one process does not work here: No room" in out and not rows


def test_counting_network_synchronises_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waited.append(device))
    out: Any = SimpleNamespace(is_cuda=True, device=torch.device("cuda:1"))
    assert worker.synchronise(out) is out
    worker.CountingNetwork(lambda: out, lambda: 0.0, "cuda:1")()
    assert waited == [torch.device("cuda:1"), "cuda:1", "cuda:1"]


def test_penumbra_engine_sets_tf32_for_its_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precisions: list[str] = []
    monkeypatch.setattr(memory, "tune_malloc", lambda: True)
    monkeypatch.setattr(device, "set_tf32", precisions.append)
    settings.write_weights(TINY, tmp_path / "w.pt", torch.float32)
    options = {"engine": "penumbra", "precision": "tf32", "compile": False, "model": asdict(TINY)}
    InProcess("", {**options, "weights": str(tmp_path / "w.pt"), "device": "cpu", "threads": 1})
    assert precisions == ["tf32"]


def test_server_counts_the_flops_of_the_network(in_process: None, tmp_path: Path) -> None:
    settings.write_weights(TINY, tmp_path / "w.pt", torch.float32)
    options = {"engine": "penumbra", "precision": "fp32", "compile": False, "model": asdict(TINY)}
    engine = InProcess("", {**options, "weights": str(tmp_path / "w.pt"), "device": "cpu", "threads": 1})
    engine.server.engine.call = build_network(TINY)  # torch's counter does not see packed convolutions
    assert engine.ask("flops", batch=2, side=16)["flops"] == flops_per_evaluation(TINY, (2, 3, 16, 16))


@pytest.mark.parametrize("arguments", [["--repaint", "nowhere"], ["--device", "tpu"]])
def test_main_rejects_wrong_arguments_in_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert arguments[1] in line
