"""loss.csv: the losses of a training run."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from guided_diffusion.images.files import write_bytes
from guided_diffusion.training.run_cost import OLD_NAMES


def columns(loss_names: Sequence[str]) -> list[str]:
    """Column names of loss.csv for a loss with these terms."""
    return ["step", "images", "loss", *loss_names, "grad_norm", "lr", "seconds", "images_per_second"]


class LossLog:
    """One row per report. Opened at a restored step, it drops the rows after it: they will come again.

    Attributes:
        images: images seen up to the last row, over all ranks.
        seconds: seconds of training up to the last row, including earlier runs of the command.
    """

    def __init__(self, path: Path, step: int, loss_names: Sequence[str]) -> None:
        self.path, self.columns = path, columns(loss_names)
        rows = _read_rows(path, step)
        self.images = int(rows[-1]["images"]) if rows else 0
        self.seconds = float(rows[-1]["seconds"]) if rows else 0.0
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        write_bytes(path, text.getvalue().encode())

    def add(self, step: int, images: int, seconds: float, means: Mapping[str, float]) -> float:
        """Append a row; return images per second since the row before.

        Args:
            images: images since the row before, over all ranks.
            seconds: seconds of training in all.
            means: mean losses since the row before, gradient norm and learning rate.
        """
        rate = images / max(seconds - self.seconds, 1e-9)
        self.images, self.seconds = self.images + images, seconds
        measured = {**means, "seconds": seconds, "images_per_second": rate}
        row = {key: f"{value:.8g}" for key, value in measured.items()}
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow({"step": step, "images": self.images, **row})
        return rate


def _read_rows(path: Path, last_step: int) -> list[dict[str, str]]:
    """Rows up to `last_step` with the column names of today, whichever version wrote them."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    complete = [line for line in lines if line.endswith("\n")]  # a power cut may have cut off the last
    rows = [
        {OLD_NAMES.get(name, name): value for name, value in row.items()} for row in csv.DictReader(complete)
    ]
    return [row for row in rows if int(row["step"]) <= last_step]
