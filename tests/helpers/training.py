"""A training run so small that a step takes milliseconds."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from guided_diffusion.training.config import TrainConfig, load_train
from guided_diffusion.training.trainer import Trainer
from tests.conftest import MODEL

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


LABELLED = {  # of a run that is not a prior's, less its task and image_size
    **{"name": "tiny", "batch_size": 4, "workers": 0, "iterations": 3, "save_interval": 3, "log_interval": 1},
    **{"lr": 1e-3, "bf16": False},
}


def write_yaml(folder: Path, base: Mapping[str, object] = TINY, **keys: object) -> Path:
    """The YAML of a tiny run whose results go to folder/out."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "train.yml"
    path.write_text(yaml.safe_dump({**base, "out": str(folder / "out"), **keys}))
    return path


def tiny(folder: Path, **keys: object) -> TrainConfig:
    return load_train(write_yaml(folder, **keys))


def trainer(folder: Path, **keys: object) -> Trainer:
    return Trainer(tiny(folder, **keys), torch.device("cpu"))


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def waken(network: nn.Module) -> None:
    """No weight zero, so that gradients reach all of them."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def state(folder: Path) -> dict:
    return torch.load(folder / "out" / "state.pt", weights_only=True)


def losses(folder: Path) -> list[dict[str, str]]:
    """The rows of loss.csv, without what the clock put in."""
    with (folder / "out" / "loss.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if "second" not in k} for row in rows]


def assert_figures(folder: Path) -> None:
    """The JSON says what the state says, and the figures fit together."""
    told, rows = json.loads((folder / "out" / "figures.json").read_text()), state(folder)["slices"]
    assert told["slices"] == rows and told["images"] == 12
    assert told["seconds"] == pytest.approx(sum(row["seconds"] for row in rows))
    for row in rows:
        steps = row["last_step"] - row["first_step"]
        assert row["images"] == 2 * steps
        assert row["pictures_per_second"] == pytest.approx(row["images"] / row["seconds"])
        assert row["flops_per_second"] == pytest.approx(row["flops_per_step"] * steps / row["seconds"])
        assert row["share"] == pytest.approx(row["flops_per_second"] / row["matrix_flops_per_second"])
        assert row["precision"] == "fp32" and "CPU" in row["device"]


def assert_same_run(one: Path, other: Path) -> None:
    """Bit-equal state, weights and samples; the same losses, each step once."""
    first, second = state(one), state(other)
    assert first["step"] == second["step"] and first["counted"] == second["counted"]
    for part in ("network", "ema", "t_sampler"):
        assert first[part].keys() == second[part].keys()
        assert all(torch.equal(first[part][key], second[part][key]) for key in first[part]), part
    for key, moments in first["optimizer"]["state"].items():
        assert torch.equal(moments["exp_avg"], second["optimizer"]["state"][key]["exp_avg"])
    assert (one / "out" / "tiny.pt").read_bytes() == (other / "out" / "tiny.pt").read_bytes()
    grids = [{p.name: p.read_bytes() for p in (f / "out" / "samples").iterdir()} for f in (one, other)]
    assert grids[0] == grids[1]
    assert losses(one) == losses(other)
