"""Settings of a benchmark: the networks, the engines, and weights that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from guided_diffusion import build
from guided_diffusion.config.schema import ModelConfig
from guided_diffusion.runtime.device import choose_precision

REFERENCE = ModelConfig(
    image_size=64,
    num_channels=32,
    num_res_blocks=1,
    channel_mult="1,2,2,4",
    attention_resolutions="16,8",
    num_head_channels=32,
)
"""A network of 3.8 M weights and 2.8 GFLOP an evaluation that RePaint's code can run too."""

LARGE = ModelConfig()
"""RePaint's CelebA-HQ network: 256x256, 552.8 M weights."""

REPAINT, PENUMBRA, DIFFUSERS = "RePaint's code", "Penumbra", "diffusers"  # labels in tables


@dataclass(frozen=True)
class Bench:
    """Settings that the sections share."""

    model: ModelConfig
    """Network of most sections."""
    large: ModelConfig
    """Network of the sections `large` and `memory`."""
    folder: Path
    """Temporary folder for weights and outputs."""
    repaint: str | None
    """Checkout of RePaint's code; None leaves it out."""
    device: str
    """cpu, cuda or cuda:N."""
    threads: int
    """CPU threads of each process."""
    rounds: int
    """Rounds that count."""
    batches: Sequence[int]
    """Numbers of images at once."""
    warn: Callable[[str], None]
    """Gets one line on everything that is left out."""
    plot: str | None = None
    """Image file for the plot of the section `linear`; None draws none."""

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    @property
    def precision(self) -> str:
        """Precision that Penumbra chooses on this device."""
        return choose_precision("auto", torch.device(self.device))

    def options(
        self, engine: str, precision: str = "fp32", compile: bool = False, large: bool = False
    ) -> dict[str, Any]:
        """Return the fields of `worker.Options`, with the same weights for all engines."""
        model = self.large if large else self.model
        path = self.folder / ("large.pt" if large else "weights.pt")
        if not path.exists():
            write_weights(model, path, torch.float16 if large else torch.float32)
        shared = {"device": self.device, "threads": self.threads, "repaint_dir": self.repaint}
        chosen = {"engine": engine, "precision": precision, "compile": compile}
        return {**shared, **chosen, "model": asdict(model), "weights": str(path)}

    def engines(self, *others: str, large: bool = False) -> dict[str, dict[str, Any]]:
        """Return label -> options of the other engines, then of Penumbra from exact to fastest."""
        chosen = {}
        if REPAINT in others and self.repaint:
            chosen[REPAINT] = self.options("repaint", large=large)
            if self.on_gpu:
                chosen[f"{REPAINT}, fp16"] = self.options("repaint", "fp16", large=large)
        elif REPAINT in others:
            self.warn(
                "RePaint's code is left out: clone https://github.com/andreas128/RePaint, give --repaint DIR"
            )
        if DIFFUSERS in others:
            chosen[DIFFUSERS] = self.options("diffusers")
        compiles = [False] if large and not self.on_gpu else [False, True]  # no gain there
        for precision in dict.fromkeys(["fp32", self.precision]):
            for compile in compiles:
                name = f"{PENUMBRA}, {precision}" + ", compiled" * compile
                chosen[name] = self.options("penumbra", precision, compile, large)
        return chosen


def write_weights(model: ModelConfig, path: Path, dtype: torch.dtype) -> None:
    """Write random weights of a network; no layer is zero."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in build.build_network(model).state_dict().items()}
    generator, state = torch.Generator().manual_seed(0), {}
    for key, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            state[key] = (values * shape[1:].numel() ** -0.5).to(dtype)
        else:
            state[key] = (values * 0.05 + key.endswith("weight")).to(dtype)
    torch.save(state, path)
