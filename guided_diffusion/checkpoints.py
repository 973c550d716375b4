"""Weights files: read strictly, with errors that name the config keys to change; and shipped networks.

The state dicts are those of guided-diffusion, improved-diffusion and RePaint: `.pt` (weights only, no code is
run) or `.safetensors` (extra `safetensors`); at local paths, or at remote ones through blobfile.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from guided_diffusion.errors import CheckpointError
from guided_diffusion.images.files import file_stat, is_remote, path_kind, read_bytes

State = Mapping[str, Tensor]
Network = TypeVar("Network", bound=nn.Module)
WEIGHTS = Path(__file__).with_name("weights")  # files that come with this package
DOWNLOAD = Path(__file__).parents[1] / "download.sh"  # in a checkout; an installed package has none


def shipped(name: str) -> Path:
    """Return the path of a weights file that comes with this package; it may be missing."""
    return WEIGHTS / name


def shipped_path(path: str) -> str:
    """Return the path of the weights: `path`, or the shipped file of that name where nothing is at `path`."""
    candidate = shipped(PurePath(path).name)
    if is_remote(path) or not candidate.is_file() or Path(path).is_file():
        return path
    return str(candidate)


def digest(path: str) -> str:
    """Return the SHA-256 (hex) of a local file's bytes, or of a remote file's name, size and time.

    Raises:
        CheckpointError: The file is not there or cannot be read.
    """
    path = shipped_path(path)
    _require(path)
    try:
        if is_remote(path):
            return hashlib.sha256(repr((path, *file_stat(path))).encode()).hexdigest()
        sha = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                sha.update(block)
    except Exception as error:  # OSError, and remotely whatever blobfile raises
        raise CheckpointError(f"checkpoint {path} cannot be read ({_reason(error)})") from error
    return sha.hexdigest()


PUBLISHED = {
    "celeba256_250000.pt": "faces",
    "places256_300000.pt": "places2",
    "256x256_diffusion.pt": "imagenet",
    "256x256_classifier.pt": "imagenet",
}
"""Name of a published file -> argument of download.sh that fetches it."""
PUBLISHERS = {
    "faces": "https://github.com/andreas128/RePaint",
    "places2": "https://github.com/andreas128/RePaint",
    "imagenet": "https://github.com/openai/guided-diffusion",
}
"""Argument of download.sh -> page that links the files; for installed packages, which lack the script."""


def remedy(path: str) -> str:
    """Return what to do when there is no checkpoint at `path`."""
    word = PUBLISHED.get(PurePath(path).name)
    if not word:
        return "mend model_path or classifier_path in the YAML"
    fetch = f"with `bash download.sh {word}`" if DOWNLOAD.is_file() else f"from {PUBLISHERS[word]}"
    return f"fetch it {fetch}, or mend model_path or classifier_path in the YAML"


def _require(path: str) -> None:
    try:
        kind = path_kind(path)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be reached ({_reason(error)})") from error
    if kind != "file":
        raise CheckpointError(f"checkpoint {path} is not there; {remedy(path)}")


def read_state(path: str) -> State:
    """Return name -> tensor on the CPU. Raises CheckpointError, which says what is wrong with the file."""
    path = shipped_path(path)
    _require(path)
    try:
        state = _read_safetensors(path) if path.endswith(".safetensors") else _read_pt(path)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file raises anything in the parsers of torch and safetensors
        raise CheckpointError(
            f"checkpoint {path} cannot be read ({_reason(error)}); download it again"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        keys = ", ".join(list(map(str, state))[:4]) if isinstance(state, Mapping) else type(state).__name__
        raise CheckpointError(f"checkpoint {path} is not a plain state dict of tensors (it holds {keys})")
    return state


def _reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's text is a page long and suggests unsafe loading
        return "it is no weights file, or one that holds code"
    return str(error).strip().split("\n")[0][:160] or type(error).__name__


def _read_pt(path: str) -> Any:
    if is_remote(path):
        return torch.load(io.BytesIO(read_bytes(path)), map_location="cpu", weights_only=True)
    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"  # only the zip format can be mapped instead of copied
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def _read_safetensors(path: str) -> State:
    try:
        from safetensors import torch as safetensors
    except ImportError:
        raise CheckpointError(f"{path} needs the extra: pip install 'penumbra[safetensors]'") from None
    if is_remote(path):
        return safetensors.load(read_bytes(path))
    return safetensors.load_file(path)


def load(network: nn.Module, path: str, image_size: int, as_stored: bool = False) -> nn.Module:
    """Load weights into a network, strictly; return it on the CPU, in eval mode, without gradients.

    Args:
        network: It may be on the meta device.
        path: Weights file.
        image_size: Side of the images, in pixels; for the config keys that an error suggests.
        as_stored: Keep the types of the file and map the weights from it where possible, instead of
            converting them to float32.

    Raises:
        CheckpointError: Keys or shapes differ; it lists them, and the config keys that would fit.
    """
    state = read_state(path)
    if problem := _differences(network.state_dict(), state):
        fit = infer_config(state, image_size)
        hint = ", ".join(f"{key}: {value!r}" for key, value in fit.items())
        remedy = (
            f"these config keys would fit it: {hint}"
            if fit
            else "is it another kind of network, or a classifier?"
        )
        raise CheckpointError(f"checkpoint {path} does not fit the configured network: {problem}; {remedy}")
    network.load_state_dict(state, strict=True, assign=True)
    network.eval().requires_grad_(False)
    return network if as_stored else network.float()


def _differences(expected: State, state: State) -> str:
    """Return one phrase on missing, unexpected and misshapen keys; empty if all fit."""
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in state and expected[key].shape != state[key].shape
    ]
    kinds = {
        "missing keys": [key for key in expected if key not in state],
        "unexpected keys": [key for key in state if key not in expected],
        "other shapes": shapes,
    }
    return "; ".join(f"{len(v)} {k} ({', '.join(v[:3])}{' …' * (len(v) > 3)})" for k, v in kinds.items() if v)


def infer_config(state: State, image_size: int) -> dict[str, Any]:
    """Return the YAML keys that fit a U-Net's state dict; {} for other networks.

    The number of heads cannot be seen in it.

    Args:
        state: Name -> tensor.
        image_size: Side, in pixels, that attention_resolutions refers to.
    """
    if "time_embed.0.weight" not in state or "output_blocks.0.0.in_layers.0.weight" not in state:
        return {}
    channels = state["time_embed.0.weight"].shape[1]
    up = re.compile(r"output_blocks\.\d+\.[12]\.(in_layers\.0|conv)\.weight")
    levels = 1 + sum(up.fullmatch(key) is not None for key in state)  # one up-sampling between two levels
    blocks = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("input_blocks."))
    per_level = blocks // levels - 1
    firsts = [f"input_blocks.{1 + level * (per_level + 1)}" for level in range(levels)]
    needed = [f"{first}.0.out_layers.3.weight" for first in firsts]
    needed += [f"{firsts[0]}.0.emb_layers.1.weight", "input_blocks.0.0.weight", "out.2.weight"]
    if not all(key in state for key in needed):
        return {}
    widths = [state[f"{first}.0.out_layers.3.weight"].shape[0] for first in firsts]
    attended = [level for level, first in enumerate(firsts) if f"{first}.1.qkv.weight" in state]
    embedded = state[f"{firsts[0]}.0.emb_layers.1.weight"].shape[0]
    return {
        "num_channels": channels,
        "num_res_blocks": per_level,
        "channel_mult": ",".join(f"{width / channels:g}" for width in widths),
        "attention_resolutions": ",".join(str(image_size // 2**level) for level in attended),
        "resblock_updown": not any(key.endswith(".op.weight") for key in state),
        "use_scale_shift_norm": embedded == 2 * widths[0],
        "class_cond": "label_emb.weight" in state,
        "learn_sigma": state["out.2.weight"].shape[0] == 2 * state["input_blocks.0.0.weight"].shape[1],
    }


@dataclass(frozen=True)
class ShippedNetwork(Generic[Network]):
    """A small network whose weights come with this package. It is loaded once, when it is first needed."""

    path: Path
    """Weights file, from `shipped`."""
    build: Callable[[], Network]
    """Returns the network with any weights."""
    image_size: int
    """Side, in pixels, of the images it was trained on."""
    purpose: str
    """Use of the network; the subject of the error that says it is missing."""
    remedy: str
    """Advice for a user without the file; the end of that error."""

    def require(self) -> None:
        """Raise CheckpointError, with the remedy, if the weights file is missing."""
        if not self.path.exists():
            raise CheckpointError(
                f"{self.purpose} needs {self.path}, which is not there; reinstall penumbra, {self.remedy}"
            )

    def digest(self) -> str:
        """Return the SHA-256 of the weights file. Raises CheckpointError if it is missing."""
        self.require()
        return digest(str(self.path))

    def network(self) -> Network:
        """Return the network in eval mode, on the CPU. Raises CheckpointError if the file is missing."""
        self.require()
        return _load_shipped(str(self.path), self.build, self.image_size)


@cache
def _load_shipped(path: str, build: Callable[[], Network], image_size: int) -> Network:
    network = build()
    load(network, path, image_size)
    return network
