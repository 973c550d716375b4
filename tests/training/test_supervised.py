"""Training runs of the networks that tell something of images: what both of them promise."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from guided_diffusion.checkpoints import load
from guided_diffusion.evaluation.feature_network import SceneClassifier
from guided_diffusion.shadow.detector import Detector
from guided_diffusion.train import main
from guided_diffusion.training import run_cost
from guided_diffusion.training.classifier_trainer import ClassifierTrainer
from guided_diffusion.training.config import TrainConfig
from guided_diffusion.training.detector_trainer import DetectorTrainer
from guided_diffusion.training.supervised import LabelledTrainer
from tests.evaluation import test_feature_network as classification
from tests.helpers.training import losses
from tests.training import test_detection as detection


@dataclass(frozen=True)
class Task:
    trainer: type[LabelledTrainer]
    network: Callable[[], nn.Module]
    config: Callable[..., TrainConfig]
    conf: Callable[..., Path]
    batch: Callable[[int], Tensor]
    columns: tuple[str, str]

    def start(self, folder: Path, **keys: Any) -> LabelledTrainer:
        return self.trainer(self.config(folder, **keys), torch.device("cpu"))


TASKS = {
    "detect": Task(
        *(DetectorTrainer, Detector, detection.config, detection.conf, detection.triplets),
        columns=("entropy", "dice"),
    ),
    "classify": Task(
        *(
            ClassifierTrainer,
            SceneClassifier,
            classification.config,
            classification.conf,
            classification.batch,
        ),
        columns=("entropy", "error"),
    ),
}
tasks = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


@tasks
def test_microbatches_give_the_same_gradients(tmp_path: Path, task: Task) -> None:
    gradients = []
    for microbatch in (0, 3):
        run = task.start(tmp_path, microbatch=microbatch)
        run._learn(run.network, task.batch(4))
        gradients.append([p.grad for p in run.network.parameters() if p.grad is not None])
    size = math.sqrt(sum(float(g.square().sum()) for g in gradients[0]))
    assert size > 0
    assert all(float((a - b).norm()) < 1e-5 * size for a, b in zip(*gradients, strict=True))


@tasks
def test_it_learns(tmp_path: Path, task: Task) -> None:
    run = task.start(tmp_path, lr=3e-3)
    data, entropies = task.batch(4), []
    for _ in range(25):
        run.step = 0  # the same lessons each time
        run.train_step(run.network, data)
        entropies.append(run.report()["entropy"])
    assert entropies[-1] < 0.5 * entropies[0]


@tasks
def test_slices_make_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task) -> None:
    monkeypatch.setattr(run_cost, "_RATE_SECONDS", 0.0)
    whole, slices = tmp_path / "whole", tmp_path / "slices"
    assert main(["--conf_path", str(task.conf(whole)), "--device", "cpu"]) == 0
    for _ in range(3):
        assert main(["--conf_path", str(task.conf(slices)), "--device", "cpu", "--minutes", "0"]) == 0
    for name in ("tiny.pt", "samples/000003.png"):
        assert (whole / "out" / name).read_bytes() == (slices / "out" / name).read_bytes(), name
    told = json.loads((slices / "out" / "figures.json").read_text())["slices"]
    assert [row["last_step"] for row in told] == [1, 2, 3]
    assert all(row["flops_per_second"] > 0 for row in told)
    assert losses(whole) == losses(slices)
    assert list(losses(whole)[0])[2:6] == ["loss", *task.columns, "grad_norm"]
    load(task.network(), str(whole / "out" / "tiny.pt"), 32)
