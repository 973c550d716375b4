"""Reference numbers made with the published implementations, and weights that need no storing.

`golden/*.npz` and `golden/*.json` hold numbers only. Outputs of networks whose weights would be too heavy
to keep were computed from `formula_state`, which gives every parameter a fixed pseudo-random value from its
name.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guided_diffusion import build
from guided_diffusion.config.schema import ModelConfig
from guided_diffusion.unet import UNetModel

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def numbers(name: str) -> dict[str, np.ndarray]:
    """The arrays of one stored file."""
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def tensors(name: str) -> dict[str, Tensor]:
    """The same as tensors; stored half precision (exact there) and bytes come back as float32."""
    arrays = numbers(name).items()
    return {
        k: torch.from_numpy(v.astype(np.float32) if v.dtype in (np.float16, np.uint8) else v)
        for k, v in arrays
    }


def facts(name: str) -> Any:
    """The contents of a stored JSON file."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def uniform(label: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in [-1, 1), fixed by the label: the Mersenne twister's stream never changes."""
    return 2 * np.random.RandomState(zlib.crc32(label.encode())).random_sample(shape) - 1


def formula_parameter(name: str, shape: tuple[int, ...]) -> Tensor:
    """One parameter, so scaled that activations stay of the order of one."""
    values = uniform(name, shape)
    if name.endswith("bias"):
        values *= 0.2
    elif len(shape) == 1:  # the factor of a normalisation
        values = 1 + 0.3 * values
    elif name.startswith(("label_emb", "positional_embedding")):
        values *= 0.5
    else:
        values *= (3 / np.prod(shape[1:])) ** 0.5  # variance 1 / fan-in
    return torch.from_numpy(values.astype(np.float32))


def formula_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the names and shapes of the given one."""
    return {name: formula_parameter(name, tuple(value.shape)) for name, value in state.items()}


def formula_image(count: int, size: int) -> Tensor:
    """Images (count, 3, size, size) in [-1, 1)."""
    return torch.from_numpy(uniform("picture", (count, 3, size, size)).astype(np.float32))


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of the sorted lines 'name shape', e.g. 'out.2.bias (6,)'."""
    lines = sorted(f"{name} {tuple(value.shape)}" for name, value in state.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


TINY = ModelConfig(
    image_size=32,
    num_channels=32,
    num_res_blocks=1,
    channel_mult="1,2",
    attention_resolutions="16",
    num_heads=2,
    num_head_channels=-1,
)


def tiny_network() -> UNetModel:
    """The small network with random weights on which the published sampler was run."""
    network = build.build_network(TINY)
    state = {k.removeprefix("state/"): v for k, v in tensors("repaint").items() if k.startswith("state/")}
    network.load_state_dict(state)
    return network.eval()
