"""What a run yields: results and progress; and what is said of a whole run."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL
import torch


@dataclass(frozen=True)
class Lifted:
    """An image without its shadow, at the input's own size; no arrays when an earlier run finished it.

    key: as the Result's; free: uint8 or uint16 (H, W, 3), as deep as the input; matte: float32 (H, W) in
    [0, 1], 1 = full shadow; field: float32 (H, W, 3) in (0, 1], the share of linear light that the shadow
    lets through, 1 = lit; black: bool (H, W), where it holds no texture to lift.
    """

    key: str
    free: np.ndarray | None = None
    matte: np.ndarray | None = None
    field: np.ndarray | None = None
    black: np.ndarray | None = None
    nfe: int = 0
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Result:
    """What became of one image. Images are uint8 (H, W, 3) at the input's own size.

    name: relative POSIX name without extension; key: fingerprint of everything that decides the pixels of
    `filled`, '' when it is not asked for; filled: the result, None also when an earlier run finished it;
    gt: the input, None when generated; keep: bool (H, W), True = known, None without a mask;
    evaluations, seconds, note: of filling it; lifted: the second result, of method relight;
    error: why the image failed.
    """

    name: str
    key: str = ""
    filled: np.ndarray | None = None
    gt: np.ndarray | None = None
    keep: np.ndarray | None = None
    nfe: int = 0
    seconds: float = 0.0
    note: str = ""
    error: str = ""
    lifted: Lifted | None = None

    @property
    def masked(self) -> np.ndarray | None:
        """The input with its hole in black, None without an input or a mask."""
        return None if self.gt is None or self.keep is None else self.gt * self.keep[..., None]

    @property
    def parts(self) -> dict[str, Result | Lifted]:
        """What was asked for: each output -> who tells of its key, cost and note."""
        asked: dict[str, Result | Lifted] = {"inpainted": self} if self.key else {}
        return asked if self.lifted is None else {**asked, "shadow_free": self.lifted}

    @property
    def made(self) -> dict[str, np.ndarray]:
        """What this run computed: each output's image."""
        free = None if self.lifted is None else self.lifted.free
        both = {"inpainted": self.filled, "shadow_free": free}
        return {output: image for output, image in both.items() if image is not None}

    @property
    def reused(self) -> bool:
        """Nothing failed and nothing was computed: earlier runs finished all that was asked for."""
        return not self.error and not self.made

    @property
    def nbytes(self) -> int:
        """Of its arrays."""
        arrays = [*vars(self).values(), *(vars(self.lifted).values() if self.lifted else ())]
        return sum(each.nbytes for each in arrays if isinstance(each, np.ndarray))

    @property
    def notes(self) -> str:
        """What is to be said of it, each thing once."""
        return "; ".join(dict.fromkeys(part.note for part in self.parts.values() if part.note))


@dataclass(frozen=True)
class Progress:
    """One evaluation of the network is done: step `step` of `steps` for the images `names`.

    window, windows: of the first image, up to which of how many windows this is; the steps are of these.
    """

    names: tuple[str, ...]
    step: int
    steps: int
    window: int = 1
    windows: int = 1


def describe_run(
    fingerprint: str,
    config: Mapping[str, Any],
    device: torch.device,
    precision: str,
    command: str,
    version: str,
) -> dict[str, Any]:
    """The head of run.json: everything needed to know how the images came to be; `version` is our own."""
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


def printable(text: str) -> str:
    """One line that any terminal or font can be given: file names may hold line breaks and stray bytes."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())
