"""The log folder of a run: pictures, run.json, overview.png; what is finished, and how it is kept whole.

A picture is finished when the file in `srs` (inpainted) carries the key of its config, picture, mask and
weights. That file is written last and atomically, so a run that was killed goes on where it stopped, and
whatever is finished is in run.json.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from guided_diffusion.files import join_path, path_kind, write_bytes
from guided_diffusion.images import contact_sheet, read_picture, read_text, resize, write_picture

KEY = "penumbra"  # name of the PNG text chunk that holds a picture's key
OVERVIEW_ROWS = 24
OVERVIEW_CELL = 256


@dataclass(frozen=True)
class Result:
    """What became of one picture. Pictures are uint8 (H, W, 3) at the input's own size.

    name: relative POSIX name without extension; key: fingerprint of everything that decides its pixels;
    filled: the result; gt: the input, None when generated; keep: bool (H, W), True = known, None without a
    mask;
    reused: it was there already, and `filled` was not computed again (None); note: for the log; error: why
    it failed.
    """

    name: str
    key: str = ""
    filled: np.ndarray | None = None
    gt: np.ndarray | None = None
    keep: np.ndarray | None = None
    evaluations: int = 0
    seconds: float = 0.0
    reused: bool = False
    note: str = ""
    error: str = ""

    @property
    def masked(self) -> np.ndarray | None:
        """The input with its hole in black, None without an input or a mask."""
        return None if self.gt is None or self.keep is None else self.gt * self.keep[..., None]


@dataclass(frozen=True)
class Progress:
    """One evaluation of the network is done: step `step` of `steps` for the pictures `names`."""

    names: tuple[str, ...]
    step: int
    steps: int


def describe_run(
    fingerprint: str,
    config: Mapping[str, Any],
    device: torch.device,
    precision: str,
    command: str,
    version: str,
) -> dict[str, Any]:
    """The head of run.json: everything needed to know how the pictures came to be; `version` is our own."""
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


class LogFolder:
    """Where a run writes.

    root: of run.json and overview.png; folders: srs, lrs, gts, gt_keep_masks, local or remote; head: as
    `describe_run` gives it. Methods raise OSError when the place cannot be written.
    """

    def __init__(self, root: str, folders: Mapping[str, str], head: Mapping[str, Any]) -> None:
        self.root, self.folders, self.head = root, folders, head
        self.pictures: dict[str, dict[str, Any]] = self._earlier()
        self.shown: dict[str, list[str]] = {}  # name -> folders that hold its pictures

    def _earlier(self) -> dict[str, dict[str, Any]]:
        """What earlier runs of the same config said of the pictures they finished."""
        try:
            told = json.loads(Path(self.root, "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(told, dict) or told.get("fingerprint") != self.head["fingerprint"]:
            return {}
        return {name: picture for name, picture in told["pictures"].items() if "error" not in picture}

    def _path(self, folder: str, name: str) -> str:
        return join_path(self.folders[folder], f"{name}.png")

    def has(self, name: str, key: str) -> bool:
        """True if this picture was finished with this key."""
        return read_text(self._path("srs", name)).get(KEY) == key

    def save(self, result: Result) -> None:
        """Write a result's pictures; the finished one last, when run.json tells of it already."""
        if result.error:
            self.pictures[result.name] = {"evaluations": 0, "seconds": 0.0, "error": result.error}
            return
        sides = {"lrs": result.masked, "gts": result.gt, "gt_keep_masks": result.keep}
        given = {folder: picture for folder, picture in sides.items() if picture is not None}
        for folder, picture in given.items():
            path = self._path(folder, result.name)
            if not (result.reused and path_kind(path) == "file"):
                write_picture(path, picture)
        if result.reused:
            self.pictures.setdefault(result.name, {"note": "finished in an earlier run"})
        else:
            told = {"evaluations": result.evaluations, "seconds": round(result.seconds, 3)}
            self.pictures[result.name] = {**told, **({"note": result.note} if result.note else {})}
            self._write_run()
            assert result.filled is not None
            write_picture(self._path("srs", result.name), result.filled, {KEY: result.key})
        self.shown[result.name] = [*given, "srs"]

    def _write_run(self) -> None:
        total = sum(picture.get("evaluations", 0) for picture in self.pictures.values())
        told = {**self.head, "evaluations": total, "pictures": dict(sorted(self.pictures.items()))}
        write_bytes(os.path.join(self.root, "run.json"), (json.dumps(told, indent=1) + "\n").encode())

    def finish(self, names: Sequence[str]) -> str | None:
        """Complete run.json and write overview.png: masked | filled | original of the first pictures of
        `names` that did not fail. Returns the overview's path, None if all failed."""
        self._write_run()
        chosen = [name for name in names if name in self.shown][:OVERVIEW_ROWS]
        if not chosen:
            return None
        columns = {"lrs": "masked", "srs": "filled", "gts": "original"}
        present = [folder for folder in columns if any(folder in self.shown[name] for name in chosen)]
        blank = np.full((1, 1, 3), 255, np.uint8)
        rows = [
            [self._small(folder, name) if folder in self.shown[name] else blank for folder in present]
            for name in chosen
        ]
        titles = [columns[folder] for folder in present]
        path = os.path.join(self.root, "overview.png")
        write_picture(path, contact_sheet(rows, titles, [printable(name) for name in chosen], OVERVIEW_CELL))
        return path

    def _small(self, folder: str, name: str) -> np.ndarray:
        picture = read_picture(self._path(folder, name))
        shrink = OVERVIEW_CELL / max(picture.shape[:2])
        if shrink >= 1:
            return picture
        return resize(
            picture, (max(1, round(picture.shape[0] * shrink)), max(1, round(picture.shape[1] * shrink)))
        )


def printable(text: str) -> str:
    """One line that any terminal or font can be given: file names may hold line breaks and stray bytes."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())
