"""Records of a run: one Result per image, Progress in between, and the folders that hold their images."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL
import torch

from guided_diffusion.errors import ImageError


@dataclass(frozen=True)
class Folder:
    """One folder of the log folder."""

    name: str
    """Below log/<name>/."""
    paths_key: str = ""
    """Key of the YAML group `paths` that moves it elsewhere; '': it cannot be moved."""
    title: str = ""
    """Column title in the overview; '': not shown there."""


@dataclass(frozen=True)
class OutputSpec:
    """One kind of image that a task makes, and where it is written."""

    name: str
    """Key in `Result.outputs` and value of the YAML key `outputs`."""
    folder: Folder
    companions: Mapping[str, Folder] = field(default_factory=dict)
    """Name in `Output.extras` -> folder of what is written beside the image: arrays in [0, 1]."""
    windowed: bool = False
    """Its NFE are those of one crop window; an image may need several."""


GT = Folder("gt", "gts", "input")
MASKED = Folder("gt_masked", "lrs", "masked")
KEEP_MASK = Folder("gt_keep_mask", "gt_keep_masks")
INPUT_FOLDERS = (GT, MASKED, KEEP_MASK)


@dataclass(frozen=True)
class Output:
    """One image that a task made."""

    key: str
    """Fingerprint of everything that decides its pixels."""
    image: np.ndarray | None = None
    """uint8 or uint16 (H, W, 3), at the input's own size; None: an earlier run finished it."""
    nfe: int = 0
    """Network function evaluations that it took."""
    seconds: float = 0.0
    """Time that it took."""
    note: str = ""
    """One line for the user, or ''."""
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Further arrays (H, W) or (H, W, 3), by name."""


@dataclass(frozen=True)
class Result:
    """The outcome for one image."""

    name: str
    """Relative POSIX name without extension."""
    gt: np.ndarray | None = None
    """The input, uint8 (H, W, 3); None when generated."""
    keep: np.ndarray | None = None
    """bool (H, W), True = known; None without a mask."""
    outputs: Mapping[str, Output] = field(default_factory=dict)
    """Name of each output asked for -> what became of it."""
    error: str = ""
    """Why the image failed, or ''."""

    @property
    def masked(self) -> np.ndarray | None:
        """The input with its hole in black, None without an input or a mask."""
        return None if self.gt is None or self.keep is None else self.gt * self.keep[..., None]

    @property
    def computed(self) -> dict[str, Output]:
        """The outputs that this run computed."""
        return {name: output for name, output in self.outputs.items() if output.image is not None}

    @property
    def reused(self) -> bool:
        """True if nothing failed and nothing was computed: earlier runs finished all that was asked for."""
        return not self.error and not self.computed

    @property
    def nbytes(self) -> int:
        """Memory that its arrays take."""
        arrays = [self.gt, self.keep]
        for output in self.outputs.values():
            arrays += [output.image, *output.extras.values()]
        return sum(array.nbytes for array in arrays if array is not None)

    @property
    def notes(self) -> str:
        """The notes of all outputs, each once."""
        return "; ".join(dict.fromkeys(output.note for output in self.outputs.values() if output.note))


@dataclass(frozen=True)
class Progress:
    """One network function evaluation is done."""

    names: tuple[str, ...]
    """The images that are being sampled."""
    step: int
    """Evaluations done, 1..steps."""
    steps: int
    """Evaluations of this window."""
    window: int = 1
    """Number of the window, of the first image."""
    windows: int = 1
    """Number of windows of the first image."""


def only_result(events: Iterable[Result | Progress]) -> Result:
    """Run one image to its end and return its result. Raises ImageError if it failed."""
    (result,) = (event for event in events if isinstance(event, Result))
    if result.error:
        raise ImageError(result.error)
    return result


def describe_run(
    fingerprint: str,
    config: Mapping[str, Any],
    device: torch.device,
    precision: str,
    command: str,
    version: str,
) -> dict[str, Any]:
    """The head of run.json: everything needed to reproduce the images; `version` is this package's."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "fingerprint": fingerprint,
        "seed": config.get("seed"),
        "command": command,
        "device": f"{device} ({name})",
        "threads": torch.get_num_threads(),
        "precision": precision,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
            "penumbra": version,
        },
        "config": config,
    }


def one_line(text: str) -> str:
    """Make text printable on any terminal, in one line: file names may hold line breaks and stray bytes."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())
