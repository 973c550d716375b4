"""The log folder of a run: pictures, run.json, overview.png; what is finished, and how it is kept whole.

A picture is finished when the file in `srs` (inpainted) carries the key of its config, picture, mask and
weights. That file is written last and atomically, so a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from guided_diffusion.files import join_path, write_bytes
from guided_diffusion.images import contact_sheet, read_picture, read_text, write_picture

KEY = "penumbra"  # name of the PNG text chunk that holds a picture's key
OVERVIEW_ROWS = 24


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


class LogFolder:
    """Where a run writes. folders: srs, lrs, gts, gt_keep_masks; root: run.json and overview.png."""

    def __init__(self, root: str, folders: Mapping[str, str], fingerprint: str) -> None:
        self.root, self.folders, self.fingerprint = root, folders, fingerprint
        self.pictures: dict[str, dict[str, Any]] = self._earlier()

    def _earlier(self) -> dict[str, dict[str, Any]]:
        """What an earlier run of the same config said of its pictures."""
        try:
            told = json.loads(Path(self.root, "run.json").read_text())
        except (OSError, ValueError):
            return {}
        return told.get("pictures", {}) if told.get("fingerprint") == self.fingerprint else {}

    def _path(self, folder: str, name: str) -> str:
        return join_path(self.folders[folder], f"{name}.png")

    def has(self, name: str, key: str) -> bool:
        """True if this picture was finished with this key."""
        return read_text(self._path("srs", name)).get(KEY) == key

    def save(self, result: Result) -> None:
        """Write a result's pictures, the finished one last, and note it for run.json."""
        told: dict[str, Any] = {"evaluations": result.evaluations, "seconds": round(result.seconds, 3)}
        if result.reused:
            told = self.pictures.get(result.name, {"evaluations": 0, "seconds": 0.0})
        elif result.filled is not None:
            side = {"gts": result.gt, "lrs": result.masked, "gt_keep_masks": result.keep}
            for folder, picture in side.items():
                if picture is not None:
                    write_picture(self._path(folder, result.name), picture)
            write_picture(self._path("srs", result.name), result.filled, {KEY: result.key})
        extra = {"note": result.note, "error": result.error}
        self.pictures[result.name] = {**told, **{key: text for key, text in extra.items() if text}}

    def write_run(
        self, config: Mapping[str, Any], device: torch.device, precision: str, command: str
    ) -> None:
        """run.json: everything needed to know how these pictures came to be."""
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
        told = {
            "fingerprint": self.fingerprint,
            "seed": config.get("seed"),
            "command": command,
            "device": f"{device} ({name})",
            "precision": precision,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
            "evaluations": sum(picture.get("evaluations", 0) for picture in self.pictures.values()),
            "config": config,
            "pictures": dict(sorted(self.pictures.items())),
        }
        write_bytes(os.path.join(self.root, "run.json"), (json.dumps(told, indent=1) + "\n").encode())

    def write_overview(self, names: list[str]) -> str | None:
        """overview.png: masked | filled | original of the first finished pictures. Returns its path."""
        columns = {"masked": "lrs", "filled": "srs", "original": "gts"}
        rows: list[dict[str, np.ndarray]] = []
        labels: list[str] = []
        for name in names:
            if len(rows) < OVERVIEW_ROWS and os.path.exists(self._path("srs", name)):
                there = {title: self._path(folder, name) for title, folder in columns.items()}
                rows.append({t: read_picture(p) for t, p in there.items() if os.path.exists(p)})
                labels.append(name)
        if not rows:
            return None
        titles = [title for title in columns if any(title in row for row in rows)]
        blank = np.full((1, 1, 3), 255, np.uint8)
        sheet = contact_sheet([[row.get(t, blank) for t in titles] for row in rows], titles, labels, 256)
        path = os.path.join(self.root, "overview.png")
        write_picture(path, sheet)
        return path
