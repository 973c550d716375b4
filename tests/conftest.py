"""Fixtures: a tiny model and a folder of images, on which whole runs take a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from guided_diffusion import cli
from guided_diffusion.build import build_network
from guided_diffusion.config.schema import ModelConfig
from guided_diffusion.shadow import remover
from tests.helpers.negative import Negative
from tests.helpers.project import MODEL, SCHEDULE, Cli, Outcome, Project, image, keep_mask


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the tiny model, none of them zero, so that the image matters."""
    torch.manual_seed(0)
    network = build_network(ModelConfig(**MODEL))
    state = {key: value + 0.05 * torch.randn_like(value) for key, value in network.state_dict().items()}
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(state, path)
    return path


@pytest.fixture
def project(tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Call it to lay out gts, masks and a YAML in a temporary current folder; returns the YAML's path."""
    monkeypatch.chdir(tmp_path)

    def build(count: int = 3, **settings: object) -> Path:
        for folder in ("gts", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
        for i in range(count):
            Image.fromarray(image(i)).save(tmp_path / "gts" / f"p{i}.png")
            Image.fromarray(keep_mask()).save(tmp_path / "masks" / f"p{i}.png")
        data = {"gt_path": "gts", "mask_path": "masks"}
        content = {
            "name": "run",
            "model_path": str(tiny_weights),
            "data": data,
            **MODEL,
            **SCHEDULE,
            **settings,
        }
        conf = tmp_path / "conf.yml"
        conf.write_text(yaml.safe_dump(content))
        return conf

    return build


@pytest.fixture(scope="session")
def command() -> Any:
    return cli


@pytest.fixture(name="cli")
def run_command(command: Any, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Call it with the arguments of `python test.py`; it runs in this process."""

    def call(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        code = command.main(list(map(str, arguments)))
        printed = capsys.readouterr()
        return Outcome(code, printed.out, printed.err)

    return call


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, object], Path]:
    """Call it with a file name and text, or a mapping to be written as YAML; returns the file's path."""

    def write(name: str, content: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


@pytest.fixture
def negative(monkeypatch: pytest.MonkeyPatch) -> Negative:
    stand_in = Negative()
    monkeypatch.setattr(remover, "relight", stand_in)
    return stand_in


@pytest.fixture
def shadow_project(project: Project, negative: Negative) -> Project:
    """Lay out a project with task remove_shadow and the stand-in for `relight`."""
    return lambda *counts, **settings: project(*counts, **{"task": "remove_shadow", **settings})
