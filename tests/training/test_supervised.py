"""Training of the shadow detector and the scene classifier: promises that they share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from guided_diffusion.checkpoints import load
from guided_diffusion.evaluation.feature_network import SceneClassifier
from guided_diffusion.shadow.detector import Detector
from guided_diffusion.train import main
from guided_diffusion.training import run_cost
from guided_diffusion.training.classifier_trainer import ClassifierTrainer
from guided_diffusion.training.detector_trainer import DetectorTrainer
from guided_diffusion.training.supervised import SupervisedTrainer
from tests.helpers.training import (
    CLASSIFY,
    CODEC,
    CPU,
    DETECT,
    labelled_planes,
    read_losses,
    shadow_triplets,
    tiny_config,
    write_yaml,
)


@dataclass(frozen=True)
class Task:
    trainer: type[SupervisedTrainer]
    network: Callable[[], nn.Module]
    keys: Mapping[str, object]
    batch: Callable[[int], Tensor]
    columns: tuple[str, str]

    def start(self, folder: Path, **keys: Any) -> SupervisedTrainer:
        return self.trainer(tiny_config(folder, self.keys, **keys), CPU, CODEC)

    def conf(self, folder: Path) -> Path:
        return write_yaml(folder, self.keys)


TASKS = {
    "detect": Task(DetectorTrainer, Detector, DETECT, shadow_triplets, ("entropy", "dice")),
    "classify": Task(ClassifierTrainer, SceneClassifier, CLASSIFY, labelled_planes, ("entropy", "error")),
}
tasks = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


@tasks
def test_compute_gradients_is_the_same_in_microbatches(tmp_path: Path, task: Task) -> None:
    gradients = []
    for microbatch in (0, 3):
        run = task.start(tmp_path, microbatch=microbatch)
        run.compute_gradients(run.network, task.batch(4))
        gradients.append([p.grad for p in run.network.parameters() if p.grad is not None])
    size = math.sqrt(sum(float(g.square().sum()) for g in gradients[0]))
    assert size > 0
    assert all(float((a - b).norm()) < 1e-5 * size for a, b in zip(*gradients, strict=True))


@tasks
def test_train_step_lowers_entropy(tmp_path: Path, task: Task) -> None:
    run = task.start(tmp_path, lr=3e-3)
    data, entropies = task.batch(4), []
    for _ in range(25):
        run.step = 0  # the same training batch each time
        run.train_step(run.network, data)
        entropies.append(run.report()["entropy"])
    assert entropies[-1] < 0.5 * entropies[0]


@tasks
def test_train_in_sessions_equals_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task
) -> None:
    monkeypatch.setattr(run_cost, "_RATE_SECONDS", 0.0)
    whole, sessions = tmp_path / "whole", tmp_path / "sessions"
    assert main(["--conf_path", str(task.conf(whole)), "--device", "cpu"]) == 0
    for _ in range(3):
        assert main(["--conf_path", str(task.conf(sessions)), "--device", "cpu", "--minutes", "0"]) == 0
    for name in ("tiny.pt", "samples/000003.png"):
        assert (whole / "out" / name).read_bytes() == (sessions / "out" / name).read_bytes(), name
    rows = json.loads((sessions / "out" / "cost.json").read_text())["slices"]
    assert [row["last_step"] for row in rows] == [1, 2, 3]
    assert all(row["flops_per_second"] > 0 for row in rows)
    assert read_losses(whole) == read_losses(sessions)
    assert list(read_losses(whole)[0])[2:6] == ["loss", *task.columns, "grad_norm"]
    load(task.network(), str(whole / "out" / "tiny.pt"), 32)
