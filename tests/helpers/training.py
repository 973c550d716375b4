"""Training runs so small that a step takes milliseconds."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from guided_diffusion.codec import PixelCodec
from guided_diffusion.scenes.render import render_free, scene_rng
from guided_diffusion.train import main
from guided_diffusion.training.config import TrainConfig, load_train
from guided_diffusion.training.datasets import LabelledStream, TripletStream
from guided_diffusion.training.prior_trainer import PriorTrainer
from tests.helpers.project import MODEL

CPU = torch.device("cpu")
CODEC = PixelCodec()
TINY = {
    **MODEL,
    "name": "tiny",
    "diffusion_steps": 4,
    "noise_schedule": "cosine",
    "batch_size": 2,
    "workers": 0,
    "iterations": 6,
    "save_interval": 2,
    "log_interval": 2,
    "lr": 1e-3,
    "bf16": False,
}
SUPERVISED = {  # run of a task other than prior, without its task and image_size
    "name": "tiny",
    "batch_size": 4,
    "workers": 0,
    "iterations": 3,
    "save_interval": 3,
    "log_interval": 1,
    "lr": 1e-3,
    "bf16": False,
}
DETECT = {**SUPERVISED, "task": "detect", "image_size": 32}
CLASSIFY = {**SUPERVISED, "task": "classify", "image_size": 16}


def write_yaml(folder: Path, base: Mapping[str, object] = TINY, **keys: object) -> Path:
    """Write the YAML of a tiny run whose results go to folder/out."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "train.yml"
    path.write_text(yaml.safe_dump({**base, "out": str(folder / "out"), **keys}))
    return path


def tiny_config(folder: Path, base: Mapping[str, object] = TINY, **keys: Any) -> TrainConfig:
    """The config of a tiny run; `base` is TINY, DETECT or CLASSIFY."""
    return load_train(write_yaml(folder, base, **keys))


def tiny_trainer(folder: Path, **keys: Any) -> PriorTrainer:
    """The trainer of a tiny prior."""
    return PriorTrainer(tiny_config(folder, **keys), CPU, CODEC)


def random_images(count: int, seed: int = 0) -> Tensor:
    """Noise in place of images, (count, 3, 16, 16) in [-1, 1]."""
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def encoded_scene(index: int, size: int, seed: int) -> Tensor:
    """Scene `index` of `seed`, float32 (3, size, size) in [-1, 1]."""
    return CODEC.encode([render_free(scene_rng(seed, index), size)])[0]


def shadow_triplets(count: int, size: int = 32) -> Tensor:
    """Batch of the shadow detector, uint8 (count, 7, size, size)."""
    stream = TripletStream(size, seed=5)
    return torch.stack([stream[i] for i in range(count)])


def labelled_planes(count: int, size: int = 16) -> Tensor:
    """Batch of the scene classifier, uint8 (count, 4, size, size)."""
    stream = LabelledStream(size, seed=5)
    return torch.stack([stream[i] for i in range(count)])


def perturb_weights(network: nn.Module) -> None:
    """Make no weight zero, so that gradients reach all of them."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def read_state(folder: Path) -> dict[str, Any]:
    """Content of state.pt."""
    return torch.load(folder / "out" / "state.pt", weights_only=True)


def read_losses(folder: Path) -> list[dict[str, str]]:
    """Rows of loss.csv without the columns that depend on the clock."""
    with (folder / "out" / "loss.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if "second" not in k} for row in rows]


def assert_cost(folder: Path) -> None:
    """cost.json agrees with the state, and its numbers with each other."""
    cost, rows = json.loads((folder / "out" / "cost.json").read_text()), read_state(folder)["slices"]
    assert cost["slices"] == rows and cost["images"] == 12
    assert cost["seconds"] == pytest.approx(sum(row["seconds"] for row in rows))
    for row in rows:
        steps = row["last_step"] - row["first_step"]
        assert row["images"] == 2 * steps
        assert row["images_per_second"] == pytest.approx(row["images"] / row["seconds"])
        assert row["flops_per_second"] == pytest.approx(row["flops_per_step"] * steps / row["seconds"])
        assert row["share"] == pytest.approx(row["flops_per_second"] / row["matrix_flops_per_second"])
        assert row["precision"] == "fp32" and "CPU" in row["device"]


def assert_same_run(first: Path, second: Path) -> None:
    """Bit-equal state, weights and samples; the same losses, each step once."""
    states = read_state(first), read_state(second)
    assert states[0]["step"] == states[1]["step"] and states[0]["counted"] == states[1]["counted"]
    for part in ("network", "ema", "t_sampler"):
        assert states[0][part].keys() == states[1][part].keys()
        assert all(torch.equal(states[0][part][key], states[1][part][key]) for key in states[0][part]), part
    for key, moments in states[0]["optimizer"]["state"].items():
        assert torch.equal(moments["exp_avg"], states[1]["optimizer"]["state"][key]["exp_avg"])
    assert (first / "out" / "tiny.pt").read_bytes() == (second / "out" / "tiny.pt").read_bytes()
    grids = [{p.name: p.read_bytes() for p in (f / "out" / "samples").iterdir()} for f in (first, second)]
    assert grids[0] == grids[1]
    assert read_losses(first) == read_losses(second)


def run_train(folder: Path, *more: str, **keys: object) -> int:
    """Run the training command on a small YAML in the folder; returns its exit status."""
    return main(["--conf_path", str(write_yaml(folder, TINY, **keys)), *more])
