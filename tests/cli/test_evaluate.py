"""`python -m guided_diffusion.evaluate` on folders laid out as the sets are, with scores known beforehand."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided_diffusion import evaluate
from guided_diffusion.evaluation.shadow_metrics import bootstrap_by_scene
from tests.conftest import Outcome, image

MASK = np.hypot(*(np.indices((32, 40)) - 16.0)) < 10  # True = shadow


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def free_of(seed: int) -> np.ndarray:
    return (60 + image(seed, 32, 40) // 2).astype(np.uint8)


def darkened(free: np.ndarray, by: int, where: np.ndarray = MASK) -> np.ndarray:
    return (free - by * where[..., None]).astype(np.uint8)


@pytest.fixture
def triplets(tmp_path: Path) -> Path:
    """Three images of two scenes in shadow, mask, free, the last with a smaller shadow.

    Predictions are 5, 10 and 20 levels too dark inside, and 1, 2 and 4 outside.
    """
    for seed, (name, by) in enumerate((("100-1", 5), ("100-2", 10), ("101-1", 20))):
        free, mask = free_of(seed), MASK & (np.arange(40) < (40 if seed < 2 else 14))
        save(tmp_path / "free" / f"{name}.png", free)
        save(tmp_path / "shadow" / f"{name}.png", darkened(free, 50, mask))
        save(tmp_path / "mask" / f"{name}.png", mask)
        save(tmp_path / "pred" / f"{name}.png", darkened(free - by // 5, by - by // 5, mask))
    return tmp_path


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    def call(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        code = evaluate.main(list(map(str, arguments)))
        told = capsys.readouterr()
        return Outcome(code, told.out, told.err)

    return call


def folders(root: Path, *roles: str) -> list[str]:
    return [word for role in roles for word in (f"--{role}", str(root / role))]


def read_csv(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    with path.open() as file:
        return {(row["role"], row["name"]): row for row in csv.DictReader(file)}


def refused(outcome: Outcome) -> str:
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1
    return outcome.err


# whole runs


def test_a_whole_run(triplets: Path, call: Callable[..., Outcome]) -> None:
    table_file = triplets / "out" / "scores.csv"
    told = call(*folders(triplets, "pred", "free", "mask", "shadow"), "--csv", table_file)
    assert (told.code, told.err) == (0, "")
    rows = read_csv(table_file)
    assert set(rows) == {(role, name) for role in ("pred", "shadow") for name in ("100-1", "100-2", "101-1")}
    assert [row["scene"] for row in rows.values()][:3] == ["100", "100", "101"]
    lab = [float(rows["pred", name]["lab_s"]) for name in ("100-1", "100-2", "101-1")]
    assert 0 < lab[0] < lab[1] < lab[2] < float(rows["shadow", "100-1"]["lab_s"])
    assert float(rows["shadow", "101-1"]["texture"]) == 1
    low, high = bootstrap_by_scene(lab, ["100", "100", "101"])
    assert f"| LAB, shadow (S) | {np.mean(lab):.2f} [{low:.2f}, {high:.2f}] | " in told.out
    weights = [float(rows["pred", name]["pixels_s"]) for name in ("100-1", "100-2", "101-1")]
    assert f"| LAB, S, over pixels (PP) | {np.average(lab, weights=weights):.2f} [" in told.out
    lab_ns = [float(rows["pred", name]["lab_ns"]) for name in ("100-1", "100-2", "101-1")]
    pooled = np.average(lab_ns, weights=256**2 - np.array(weights))
    assert f"| LAB, NS, over pixels (PP) | {pooled:.2f} [" in told.out
    beyond = [
        float(rows["pred", n]["lab_ns"]) - float(rows["shadow", n]["lab_ns"]) for _, n in list(rows)[:3]
    ]
    assert f"| LAB, NS, beyond identity | {np.mean(beyond):.2f} [" in told.out
    assert "3 images of 2 scenes at 256x256, LAB for D65." in told.out
    lines = told.out.splitlines()
    assert lines[1].split()[:2] == ["100-1", f"{lab[0]:.2f}"]


def test_without_inputs_nothing_is_said_of_them(triplets: Path, call: Callable[..., Outcome]) -> None:
    told = call(*folders(triplets, "pred", "free", "mask"), "--csv", triplets / "scores.csv")
    assert told.code == 0
    assert "identity" not in told.out and "texture correlation" not in told.out
    assert "texture" not in read_csv(triplets / "scores.csv")["pred", "100-1"]


def test_against_another_prediction(triplets: Path, call: Callable[..., Outcome]) -> None:
    (triplets / "pred").rename(triplets / "against")
    for path in sorted((triplets / "free").iterdir()):
        save(triplets / "pred" / path.name, darkened(np.array(Image.open(path)), 2))
        save(triplets / "mask" / path.name, np.multiply.outer(MASK, [255, 0, 0]).astype(np.uint8))  # red
    told = call(*folders(triplets, "pred", "free", "mask", "against"), "--csv", triplets / "scores.csv")
    rows = read_csv(triplets / "scores.csv")
    ours, theirs = (
        [float(rows[role, name]["lab_s"]) for name in ("100-1", "100-2", "101-1")]
        for role in ("pred", "against")
    )
    mean = np.mean(ours) - np.mean(theirs)
    line = next(line for line in told.out.splitlines() if line.startswith("- LAB, shadow (S)"))
    assert f"{mean:.2f} [" in line and f"({mean / np.mean(theirs):+.1%}); excludes 0" in line
    assert "| measure | prediction | against |" in told.out


def test_predictions_of_another_size_and_the_other_white(
    triplets: Path, call: Callable[..., Outcome]
) -> None:
    arguments = [*folders(triplets, "pred", "free", "mask"), "--csv", triplets / "scores.csv"]
    call(*arguments)
    before = read_csv(triplets / "scores.csv")
    for path in (triplets / "pred").iterdir():
        save(path, np.array(Image.open(path).resize((80, 64), Image.Resampling.NEAREST)))
    assert call(*arguments, "--lab", "d50").code == 0
    after = read_csv(triplets / "scores.csv")
    for key, row in before.items():
        assert float(after[key]["psnr_all"]) > 25
        assert float(after[key]["lab_s"]) != float(row["lab_s"])


def test_a_broken_picture_is_named_and_the_rest_goes_on(triplets: Path, call: Callable[..., Outcome]) -> None:
    (triplets / "pred" / "100-2.png").write_bytes(b"no image")
    told = call(*folders(triplets, "pred", "free", "mask"))
    assert told.code == 1
    assert "2 images of 2 scenes" in told.out
    assert told.err.startswith("warning: 100-2 is left out: ") and told.err.count("\n") == 1


def test_what_has_no_counterpart_is_named(triplets: Path, call: Callable[..., Outcome]) -> None:
    (triplets / "mask" / "100-1.png").unlink()
    told = call(*folders(triplets, "pred", "free", "mask"))
    assert told.code == 1 and "1 image (100-1) left out: none of that name in --mask" in told.err
    (triplets / "pred" / "100-1.png").unlink()
    told = call(*folders(triplets, "pred", "free", "mask"))
    assert told.code == 0 and "1 image (100-1) left out: none of that name in --pred" in told.err


def test_odd_masks_are_told(triplets: Path, call: Callable[..., Outcome]) -> None:
    save(
        triplets / "mask" / "100-1.png",
        np.where(MASK, 255, 3).astype(np.uint8) + np.eye(32, 40, dtype=np.uint8),
    )
    save(triplets / "mask" / "100-2.png", np.zeros((32, 40), np.uint8))
    told = call(*folders(triplets, "pred", "free", "mask"))
    assert told.code == 0
    assert "1 image (100-1) with greys in the mask" in told.err
    assert "1 image (100-2) without shadow in the mask" in told.err
    assert told.out.splitlines()[2].split()[0] == "100-2"
    for path in (triplets / "mask").iterdir():
        save(path, ~MASK)
    told = call(*folders(triplets, "pred", "free", "mask", "shadow"))
    assert told.code == 0 and "masks must be 255 in the shadow" in told.err


def test_one_scene_has_no_interval(triplets: Path, call: Callable[..., Outcome]) -> None:
    for path in triplets.glob("*/101-1.png"):
        path.unlink()
    told = call(*folders(triplets, "pred", "free", "mask"))
    assert "One scene: no intervals." in told.out and "[" not in told.out


# refusals


def test_bad_input_is_one_line_with_the_remedy(triplets: Path, call: Callable[..., Outcome]) -> None:
    good = folders(triplets, "pred", "free", "mask")
    assert "--free: is not set; give --free DIR" in refused(call(*good[:2], *good[4:]))
    assert "nowhere does not exist; mend" in refused(call("--pred", triplets / "nowhere", *good[2:]))
    (triplets / "empty").mkdir()
    assert "no images" in refused(call("--pred", triplets / "empty", *good[2:]))
    save(triplets / "other" / "x.png", MASK)
    line = refused(call("--pred", triplets / "other", *good[2:]))
    assert "(x there, 100-1 here); files must have the same name" in line
    assert "--scenes" in refused(call(*good, "--scenes", triplets / "none.csv"))
    assert "--dataset" in refused(call("--pred", triplets / "pred", "--dataset", triplets / "mask"))
    (triplets / "free" / "100-1.jpg").write_bytes(b"")
    assert "share one name" in refused(call(*good))


def test_nothing_that_can_be_read(triplets: Path, call: Callable[..., Outcome]) -> None:
    for path in (triplets / "pred").iterdir():
        path.write_bytes(b"")
    told = call(*folders(triplets, "pred", "free", "mask"))
    assert (told.code, told.out) == (2, "")
    assert told.err.splitlines()[-1].startswith("error: none of 3 images")


def test_a_csv_that_cannot_be_written(triplets: Path, call: Callable[..., Outcome]) -> None:
    (triplets / "file").write_text("")
    told = call(*folders(triplets, "pred", "free", "mask"), "--csv", triplets / "file" / "scores.csv")
    assert told.code == 2 and "| LAB, shadow (S) |" in told.out
    assert told.err.startswith("error: --csv ") and told.err.endswith("; choose another place\n")


def test_a_set_without_masks_asks_for_them(triplets: Path, call: Callable[..., Outcome]) -> None:
    (triplets / "mask").rename(triplets / "elsewhere")
    arguments = ["--pred", triplets / "pred", "--dataset", triplets]
    assert "--mask: --dataset" in refused(call(*arguments))
    told = call(*arguments, "--mask", triplets / "elsewhere")
    assert told.code == 0 and "| measure | prediction | identity |" in told.out
