"""The command's plan: --dry_run and its estimate of the time."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from guided_diffusion.engine import Engine, load_config
from guided_diffusion.runners import plan
from guided_diffusion.runtime.seeds import ImageSeed
from tests.helpers.project import NFE, Cli, Project


def test_dry_run_prints_plan_and_writes_nothing(project: Project, cli: Cli) -> None:
    outcome = cli("--conf_path", project(), "--dry_run")
    assert (outcome.code, outcome.err) == (0, "")
    assert re.search(rf"^{NFE} NFE per image, about \d+(\.\d)? s on cpu; ", outcome.out, flags=re.MULTILINE)
    assert re.search(r"3 images take about [0-9.]+ s\n", outcome.out)
    windows = f"holes that no single 16x16 window serves take {NFE} NFE each (windows: holes)"
    assert windows in outcome.out
    assert "(windows:" not in cli("--conf_path", project(windows="whole"), "--dry_run").out
    assert [line.strip() for line in outcome.out.splitlines() if line.startswith("  ")] == ["p0", "p1", "p2"]
    assert not Path("log").exists()


def test_dry_run_lists_every_missing_file(project: Project, cli: Cli) -> None:
    paths = {"gt_path": "no/gts", "mask_path": "no/masks"}
    settings = {"model_path": "no/model.pt", "classifier_path": "no/classifier.pt", "data": paths}
    outcome = cli("--conf_path", project(**settings), "--dry_run")
    assert (outcome.code, outcome.err) == (0, "")
    missing = re.findall(r"^missing: (\S+) \(", outcome.out, flags=re.MULTILINE)
    assert missing == ["no/gts", "no/masks", "no/model.pt", "no/classifier.pt"]
    assert not Path("log").exists()


def test_dry_run_warns_of_images_without_mask(project: Project, cli: Cli) -> None:
    conf = project()
    Path("masks/p1.png").unlink()
    outcome = cli("--conf_path", conf, "--dry_run")
    assert outcome.code == 0
    assert "1 of 3 images have no mask (p1)" in outcome.err


class Clock:
    """A clock that a test sets; in place of time.perf_counter."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_time_estimate_times_the_work_of_one_evaluation(
    command: Any, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that goes by floating-point operations the estimate is what the run then takes."""
    engine = Engine(load_config(project(), ["image_size=64", "attention_resolutions=32"]))
    with FlopCounterMode(display=False) as counter:
        monkeypatch.setattr(plan, "time", SimpleNamespace(perf_counter=counter.get_total_flops))
        estimate = plan.seconds_per_nfe(engine)
    denoise = engine.models.denoiser([ImageSeed(0, "p")])
    with FlopCounterMode(display=False) as counter:
        denoise(torch.randn(1, 3, 64, 64), 3)
    actual = counter.get_total_flops()
    assert actual > 1e6 and estimate == pytest.approx(actual, rel=0.01)


def test_time_estimate_ignores_slow_calls(
    command: Any, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, durations = Clock(), iter([90.0, 2.0, 3.0, 2.5, 40.0, 2.0])

    def network(x: torch.Tensor, _t: torch.Tensor) -> torch.Tensor:
        clock.now += next(durations)
        return x

    monkeypatch.setattr(plan, "time", clock)
    monkeypatch.setattr(plan, "prepare_for_inference", lambda *_: network)
    assert plan.seconds_per_nfe(Engine(load_config(project()))) == 2.5
    assert next(durations, None) is None


def test_time_estimate_of_large_network_builds_none(
    command: Any, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "matrix_rate", lambda *_: 1e12)
    monkeypatch.setattr(plan, "build_network", lambda *_: pytest.fail("built"))
    paper = {"image_size": 256, "num_channels": 256, "num_res_blocks": 2, "num_head_channels": 64}
    conf = project(**paper, channel_mult="", attention_resolutions="32,16,8")
    seconds = plan.seconds_per_nfe(Engine(load_config(conf)))
    assert seconds * plan.NETWORK_SHARE == pytest.approx(2.24, rel=0.01)  # 2240 GFLOP, counted elsewhere
