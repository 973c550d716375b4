"""Files of a run in log/run/ below the current folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RUN = Path("log/run")
INPAINTED, SHADOW_FREE = RUN / "inpainted", RUN / "shadow_free"


def run_json() -> dict[str, Any]:
    """Read run.json."""
    return json.loads((RUN / "run.json").read_text())


def pixels(path: Path | str) -> np.ndarray:
    """Read a file as Pillow does."""
    with Image.open(path) as pil_image:
        return np.array(pil_image)


def rgb(path: Path | str) -> np.ndarray:
    """Read a file, uint8 (H, W, 3)."""
    with Image.open(path) as pil_image:
        return np.array(pil_image.convert("RGB"))


def stamps(folder: Path) -> dict[str, int]:
    """Map the names in a folder to the times at which they were written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def digests(folder: Path, *, but: Sequence[str] = ()) -> dict[str, str]:
    """Map relative names to the SHA-256 of every file below a folder, hidden ones too."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in but]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def overview() -> np.ndarray:
    """Read overview.png, uint8 (H, W, 3)."""
    return rgb(RUN / "overview.png")


def spot(sheet: np.ndarray, small: np.ndarray) -> tuple[int, int] | None:
    """Find a 16-pixel image, enlarged 16 times, on a contact sheet of 256-pixel cells: (top, column)."""
    large = small.repeat(16, axis=0).repeat(16, axis=1)
    gap = 256 // 14
    for column in range(sheet.shape[1] // (256 + gap)):
        strip = sheet[:, gap + column * (256 + gap) :][:, :256]
        for top in range(sheet.shape[0] - 255):
            if np.array_equal(strip[top], large[0]) and np.array_equal(strip[top : top + 256], large):
                return top, column
    return None


def columns(sheet: np.ndarray) -> int:
    """Count the columns of a contact sheet of 256-pixel cells."""
    return sheet.shape[1] // (256 + 256 // 14)
