"""A tiny model and a folder of images, on which whole runs take a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from guided_diffusion import cli
from guided_diffusion.build import build_network
from guided_diffusion.config.schema import ModelConfig
from guided_diffusion.errors import ConfigError
from guided_diffusion.images.masks import dilate
from guided_diffusion.shadow import remover
from guided_diffusion.shadow.relight import Prior, RelitImage

MODEL: dict[str, Any] = {
    "image_size": 16,
    "num_channels": 32,
    "channel_mult": "1,1",
    "num_res_blocks": 1,
    "attention_resolutions": "8",
    "num_head_channels": 16,
}
SCHEDULE = {"timestep_respacing": "6", "schedule_jump_params": {"jump_length": 2, "jump_n_sample": 2}}
ROOT = Path(__file__).resolve().parent.parent
NFE = 6 + 2 * len(range(0, 6 - 2, 2))


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


def image(seed: int, height: int = 16, width: int = 16) -> np.ndarray:
    """A smooth random image, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))


def keep_mask(height: int = 16, width: int = 16) -> np.ndarray:
    """Known but for a box in the middle, bool (height, width)."""
    keep = np.ones((height, width), dtype=bool)
    keep[height // 4 : height // 2, width // 4 : 3 * width // 4] = False
    return keep


@pytest.fixture
def project(tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
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


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit code and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def command() -> Any:
    return cli


@pytest.fixture(name="cli")
def run_command(command: Any, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Call it with the arguments of `python test.py`; it runs in this process."""

    def call(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        code = command.main(list(map(str, arguments)))
        told = capsys.readouterr()
        return Outcome(code, told.out, told.err)

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


def refusal(call: Callable[..., object], *args: object) -> str:
    """The one line of the ConfigError that the call must raise."""
    with pytest.raises(ConfigError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# keep_mask() with its hole one pixel larger, as task remove_shadow has it: 0.012 of 16 pixels is less than one.
RELIT_KEEP = keep_mask()
for shift in ((0, 1), (0, -1), (1, 0), (-1, 0)):
    RELIT_KEEP = RELIT_KEEP & np.roll(keep_mask(), shift, (0, 1))


class Negative:
    """In place of `relight`: the negative of what the shadow reaches, mixed with noise if there is a prior;
    remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __call__(
        self, image: np.ndarray, shadow: np.ndarray, settings: Any, prior: Prior | None, find: Any
    ) -> RelitImage:
        self.calls.append((image, shadow, settings, prior, find))
        free, nfe = np.iinfo(image.dtype).max - image // 2, 0
        if prior is not None:
            noise = torch.randint(0, 50, shadow.shape, generator=prior.generator).numpy()[..., None]
            free = free - noise.astype(image.dtype)
            nfe = len([prior.denoise(torch.zeros(1, 3, 16, 16), t) for t in range(3)])
        free = np.where(dilate(shadow, settings.reach(*shadow.shape))[..., None], free, image)
        matte = shadow.astype(np.float32) * np.float32(0.4)
        black = shadow & (image.max(axis=2) == 0)
        return RelitImage(free, matte, np.full(image.shape, 0.2, np.float32), black, "", nfe)


@pytest.fixture
def negative(monkeypatch: pytest.MonkeyPatch) -> Negative:
    stand_in = Negative()
    monkeypatch.setattr(remover, "relight", stand_in)
    return stand_in


@pytest.fixture
def shaded(project: Callable[..., Path], negative: Negative) -> Callable[..., Path]:
    """As `project`, with task remove_shadow and the stand-in."""
    return lambda *counts, **settings: project(*counts, **{"task": "remove_shadow", **settings})
