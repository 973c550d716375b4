"""The CSV of losses of a training run."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from guided_diffusion.images.files import write_bytes


def columns(parts: Sequence[str]) -> list[str]:
    """Of the CSV of a loss of these parts."""
    return ["step", "images", "loss", *parts, "grad_norm", "lr", "seconds", "pictures_per_second"]


class LossLog:
    """One row per report. Opened at a restored step, it forgets the rows after it: they will come again.

    parts: of the loss. images: seen so far, over all ranks. seconds: of training up to the last row,
    earlier runs included.
    """

    def __init__(self, path: Path, step: int, parts: Sequence[str]) -> None:
        self.path, self.columns = path, columns(parts)
        rows = _rows_until(path, step)
        self.images = int(rows[-1]["images"]) if rows else 0
        self.seconds = float(rows[-1]["seconds"]) if rows else 0.0
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        write_bytes(path, text.getvalue().encode())

    def add(self, step: int, images: int, seconds: float, means: Mapping[str, float]) -> float:
        """Append the means of the losses since the last row; returns images per second since then.

        images: since the last row, over all ranks; seconds: of training in all.
        """
        rate = images / max(seconds - self.seconds, 1e-9)
        self.images, self.seconds = self.images + images, seconds
        measured = {**means, "seconds": seconds, "pictures_per_second": rate}
        row = {key: f"{value:.8g}" for key, value in measured.items()}
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow({"step": step, "images": self.images, **row})
        return rate


def _rows_until(path: Path, step: int) -> list[dict[str, str]]:
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]  # the last may have been cut off by a power cut
    return [row for row in csv.DictReader(whole) if int(row["step"]) <= step]
