"""loss.csv: what is written, and what is read back on resume."""

import csv
from pathlib import Path

import pytest

from guided_diffusion.training.loss_log import LossLog, columns

LOSS_NAMES = ("simple", "bound")
MEANS = {"loss": 0.5, "simple": 0.4, "bound": 0.1, "grad_norm": 2.0, "lr": 1e-4}


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_log(path: Path, steps: range) -> LossLog:
    log = LossLog(path, 0, LOSS_NAMES)
    for step in steps:
        log.add(step, 80, 2.0 * step, MEANS)
    return log


def test_loss_log_adds_up_rows(tmp_path: Path) -> None:
    log = LossLog(tmp_path / "run" / "loss.csv", 0, LOSS_NAMES)
    assert log.add(10, 160, 4.0, MEANS) == 40.0
    assert log.add(20, 160, 6.0, MEANS) == 80.0
    first, second = read_rows(log.path)
    assert list(first) == columns(LOSS_NAMES)
    assert first == {
        **{"step": "10", "images": "160", "loss": "0.5", "simple": "0.4", "bound": "0.1"},
        **{"grad_norm": "2", "lr": "0.0001", "seconds": "4", "images_per_second": "40"},
    }
    assert (second["images"], second["images_per_second"]) == ("320", "80")


def test_loss_log_reopened_at_step_drops_later_rows(tmp_path: Path) -> None:
    path = tmp_path / "loss.csv"
    write_log(path, range(1, 6))
    before = path.read_bytes()
    log = LossLog(path, 3, LOSS_NAMES)
    assert [row["step"] for row in read_rows(path)] == ["1", "2", "3"]
    assert (log.images, log.seconds) == (240, 6.0)
    log.add(4, 80, 8.0, MEANS)
    log.add(5, 80, 10.0, MEANS)
    assert path.read_bytes() == before


def test_loss_log_reads_columns_of_earlier_versions(tmp_path: Path) -> None:
    path = tmp_path / "loss.csv"
    write_log(path, range(1, 6))
    whole = path.read_text()
    path.write_text(whole.replace("images", "pictures").split("\n4,")[0] + "\n")
    log = LossLog(path, 3, LOSS_NAMES)
    assert (log.images, log.seconds) == (240, 6.0)
    log.add(4, 80, 8.0, MEANS)
    log.add(5, 80, 10.0, MEANS)
    assert path.read_text() == whole


@pytest.mark.parametrize("missing", [1, 2, 3, 20])
def test_loss_log_drops_incomplete_last_row(tmp_path: Path, missing: int) -> None:
    path = tmp_path / "loss.csv"
    write_log(path, range(1, 4))
    whole = path.read_bytes()
    path.write_bytes(whole[:-missing])
    LossLog(path, 10, LOSS_NAMES)
    remaining = read_rows(path)
    assert [row["step"] for row in remaining] == (["1", "2", "3"] if missing == 1 else ["1", "2"])
    assert all(None not in row.values() for row in remaining)


def test_loss_log_keeps_large_counts_exact(tmp_path: Path) -> None:
    log = LossLog(tmp_path / "loss.csv", 0, LOSS_NAMES)
    log.add(1, 123_456_789_012, 1.0, MEANS)
    assert LossLog(log.path, 1, LOSS_NAMES).images == 123_456_789_012
