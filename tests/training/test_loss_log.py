import csv
from pathlib import Path

import pytest

from guided_diffusion.training.loss_log import LossLog, columns

PARTS = ("simple", "bound")
MEANS = {"loss": 0.5, "simple": 0.4, "bound": 0.1, "grad_norm": 2.0, "lr": 1e-4}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def filled(path: Path, steps: range) -> LossLog:
    log = LossLog(path, 0, PARTS)
    for step in steps:
        log.add(step, 80, 2.0 * step, MEANS)
    return log


def test_rows_add_up(tmp_path: Path) -> None:
    log = LossLog(tmp_path / "run" / "loss.csv", 0, PARTS)
    assert log.add(10, 160, 4.0, MEANS) == 40.0
    assert log.add(20, 160, 6.0, MEANS) == 80.0
    first, second = rows(log.path)
    assert list(first) == columns(PARTS)
    assert first == {
        **{"step": "10", "images": "160", "loss": "0.5", "simple": "0.4", "bound": "0.1"},
        **{"grad_norm": "2", "lr": "0.0001", "seconds": "4", "pictures_per_second": "40"},
    }
    assert (second["images"], second["pictures_per_second"]) == ("320", "80")


def test_reopened_at_a_step_it_forgets_what_came_after(tmp_path: Path) -> None:
    path = tmp_path / "loss.csv"
    filled(path, range(1, 6))
    before = path.read_bytes()
    log = LossLog(path, 3, PARTS)
    assert [row["step"] for row in rows(path)] == ["1", "2", "3"]
    assert (log.images, log.seconds) == (240, 6.0)
    log.add(4, 80, 8.0, MEANS)
    log.add(5, 80, 10.0, MEANS)
    assert path.read_bytes() == before


@pytest.mark.parametrize("cut", [1, 2, 3, 20])
def test_a_row_cut_off_is_dropped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "loss.csv"
    filled(path, range(1, 4))
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    LossLog(path, 10, PARTS)
    kept = rows(path)
    assert [row["step"] for row in kept] == (["1", "2", "3"] if cut == 1 else ["1", "2"])
    assert all(None not in row.values() for row in kept)


def test_large_counts_stay_whole(tmp_path: Path) -> None:
    log = LossLog(tmp_path / "loss.csv", 0, PARTS)
    log.add(1, 123_456_789_012, 1.0, MEANS)
    assert LossLog(log.path, 1, PARTS).images == 123_456_789_012
