"""`python -m guided_diffusion.evaluate` on folders laid out like the datasets, with known scores."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided_diffusion import evaluate
from guided_diffusion.evaluation.bootstrap import bootstrap_by_scene
from tests.helpers.project import Cli, Outcome, image

MASK = np.hypot(*(np.indices((32, 40)) - 16.0)) < 10  # True = shadow


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def shadow_free_of(seed: int) -> np.ndarray:
    return (60 + image(seed, 32, 40) // 2).astype(np.uint8)


def darkened(free: np.ndarray, by: int, where: np.ndarray = MASK) -> np.ndarray:
    return (free - by * where[..., None]).astype(np.uint8)


@pytest.fixture
def triplets(tmp_path: Path) -> Path:
    """Write three images of two scenes to shadow, mask, shadow_free; the last has a smaller shadow.

    Predictions are 5, 10 and 20 levels too dark inside, and 1, 2 and 4 outside.
    """
    for seed, (name, by) in enumerate((("100-1", 5), ("100-2", 10), ("101-1", 20))):
        free, mask = shadow_free_of(seed), MASK & (np.arange(40) < (40 if seed < 2 else 14))
        save(tmp_path / "shadow_free" / f"{name}.png", free)
        save(tmp_path / "shadow" / f"{name}.png", darkened(free, 50, mask))
        save(tmp_path / "mask" / f"{name}.png", mask)
        save(tmp_path / "pred" / f"{name}.png", darkened(free - by // 5, by - by // 5, mask))
    return tmp_path


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        code = evaluate.main(list(map(str, arguments)))
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

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


def test_evaluate_whole_run(triplets: Path, call: Cli) -> None:
    table_file = triplets / "out" / "scores.csv"
    outcome = call(*folders(triplets, "pred", "shadow_free", "mask", "shadow"), "--csv", table_file)
    assert (outcome.code, outcome.err) == (0, "")
    rows = read_csv(table_file)
    assert set(rows) == {(role, name) for role in ("pred", "shadow") for name in ("100-1", "100-2", "101-1")}
    assert [row["scene"] for row in rows.values()][:3] == ["100", "100", "101"]
    lab = [float(rows["pred", name]["lab_s"]) for name in ("100-1", "100-2", "101-1")]
    assert 0 < lab[0] < lab[1] < lab[2] < float(rows["shadow", "100-1"]["lab_s"])
    assert float(rows["shadow", "101-1"]["texture"]) == 1
    low, high = bootstrap_by_scene(lab, ["100", "100", "101"])
    assert f"| LAB, shadow (S) | {np.mean(lab):.2f} [{low:.2f}, {high:.2f}] | " in outcome.out
    weights = [float(rows["pred", name]["pixels_s"]) for name in ("100-1", "100-2", "101-1")]
    assert f"| LAB, S, over pixels (PP) | {np.average(lab, weights=weights):.2f} [" in outcome.out
    lab_ns = [float(rows["pred", name]["lab_ns"]) for name in ("100-1", "100-2", "101-1")]
    pooled = np.average(lab_ns, weights=256**2 - np.array(weights))
    assert f"| LAB, NS, over pixels (PP) | {pooled:.2f} [" in outcome.out
    beyond = [
        float(rows["pred", n]["lab_ns"]) - float(rows["shadow", n]["lab_ns"]) for _, n in list(rows)[:3]
    ]
    assert f"| LAB, NS, beyond identity | {np.mean(beyond):.2f} [" in outcome.out
    assert "3 images of 2 scenes at 256x256, LAB for D65." in outcome.out
    lines = outcome.out.splitlines()
    assert lines[1].split()[:2] == ["100-1", f"{lab[0]:.2f}"]


def test_evaluate_accepts_the_old_spelling_of_shadow_free(triplets: Path, call: Cli) -> None:
    roles = folders(triplets, "pred", "mask")
    old = call(*roles, "--free", triplets / "shadow_free")
    new = call(*roles, "--shadow_free", triplets / "shadow_free")
    assert (old.code, old.out) == (0, new.out)


def test_evaluate_without_inputs_omits_their_scores(triplets: Path, call: Cli) -> None:
    outcome = call(*folders(triplets, "pred", "shadow_free", "mask"), "--csv", triplets / "scores.csv")
    assert outcome.code == 0
    assert "identity" not in outcome.out and "texture correlation" not in outcome.out
    assert "texture" not in read_csv(triplets / "scores.csv")["pred", "100-1"]


def test_evaluate_compares_with_another_prediction(triplets: Path, call: Cli) -> None:
    (triplets / "pred").rename(triplets / "against")
    for path in sorted((triplets / "shadow_free").iterdir()):
        save(triplets / "pred" / path.name, darkened(np.array(Image.open(path)), 2))
        save(triplets / "mask" / path.name, np.multiply.outer(MASK, [255, 0, 0]).astype(np.uint8))  # red
    outcome = call(
        *folders(triplets, "pred", "shadow_free", "mask", "against"), "--csv", triplets / "scores.csv"
    )
    rows = read_csv(triplets / "scores.csv")
    ours, theirs = (
        [float(rows[role, name]["lab_s"]) for name in ("100-1", "100-2", "101-1")]
        for role in ("pred", "against")
    )
    mean = np.mean(ours) - np.mean(theirs)
    line = next(line for line in outcome.out.splitlines() if line.startswith("- LAB, shadow (S)"))
    assert f"{mean:.2f} [" in line and f"({mean / np.mean(theirs):+.1%}); excludes 0" in line
    assert "| measure | prediction | against |" in outcome.out


def test_evaluate_accepts_another_size_and_white(triplets: Path, call: Cli) -> None:
    arguments = [*folders(triplets, "pred", "shadow_free", "mask"), "--csv", triplets / "scores.csv"]
    call(*arguments)
    before = read_csv(triplets / "scores.csv")
    for path in (triplets / "pred").iterdir():
        save(path, np.array(Image.open(path).resize((80, 64), Image.Resampling.NEAREST)))
    assert call(*arguments, "--lab", "d50").code == 0
    after = read_csv(triplets / "scores.csv")
    for key, row in before.items():
        assert float(after[key]["psnr_all"]) > 25
        assert float(after[key]["lab_s"]) != float(row["lab_s"])


def test_evaluate_names_a_broken_image_and_continues(triplets: Path, call: Cli) -> None:
    (triplets / "pred" / "100-2.png").write_bytes(b"no image")
    outcome = call(*folders(triplets, "pred", "shadow_free", "mask"))
    assert outcome.code == 1
    assert "2 images of 2 scenes" in outcome.out
    assert outcome.err.startswith("warning: 100-2 is left out: ") and outcome.err.count("\n") == 1


def test_evaluate_names_images_without_counterpart(triplets: Path, call: Cli) -> None:
    (triplets / "mask" / "100-1.png").unlink()
    outcome = call(*folders(triplets, "pred", "shadow_free", "mask"))
    assert outcome.code == 1 and "1 image (100-1) left out: none of that name in --mask" in outcome.err
    (triplets / "pred" / "100-1.png").unlink()
    outcome = call(*folders(triplets, "pred", "shadow_free", "mask"))
    assert outcome.code == 0 and "1 image (100-1) left out: none of that name in --pred" in outcome.err


def test_evaluate_warns_of_suspicious_masks(triplets: Path, call: Cli) -> None:
    save(
        triplets / "mask" / "100-1.png",
        np.where(MASK, 255, 3).astype(np.uint8) + np.eye(32, 40, dtype=np.uint8),
    )
    save(triplets / "mask" / "100-2.png", np.zeros((32, 40), np.uint8))
    outcome = call(*folders(triplets, "pred", "shadow_free", "mask"))
    assert outcome.code == 0
    assert "1 image (100-1) with greys in the mask" in outcome.err
    assert "1 image (100-2) without shadow in the mask" in outcome.err
    assert outcome.out.splitlines()[2].split()[0] == "100-2"
    for path in (triplets / "mask").iterdir():
        save(path, ~MASK)
    outcome = call(*folders(triplets, "pred", "shadow_free", "mask", "shadow"))
    assert outcome.code == 0 and "masks must be 255 in the shadow" in outcome.err


def test_evaluate_gives_no_interval_for_a_single_scene(triplets: Path, call: Cli) -> None:
    for path in triplets.glob("*/101-1.png"):
        path.unlink()
    outcome = call(*folders(triplets, "pred", "shadow_free", "mask"))
    assert "One scene: no intervals." in outcome.out and "[" not in outcome.out


# refusals


def test_evaluate_explains_bad_input_in_a_line(triplets: Path, call: Cli) -> None:
    good = folders(triplets, "pred", "shadow_free", "mask")
    assert "--shadow_free: is not set; give --shadow_free DIR" in refused(call(*good[:2], *good[4:]))
    assert "nowhere does not exist" in refused(call("--pred", triplets / "nowhere", *good[2:]))
    (triplets / "empty").mkdir()
    assert "no images" in refused(call("--pred", triplets / "empty", *good[2:]))
    save(triplets / "other" / "x.png", MASK)
    line = refused(call("--pred", triplets / "other", *good[2:]))
    assert "(x there, 100-1 here); files must have the same name" in line
    assert "--scenes" in refused(call(*good, "--scenes", triplets / "none.csv"))
    assert "--dataset" in refused(call("--pred", triplets / "pred", "--dataset", triplets / "mask"))
    (triplets / "shadow_free" / "100-1.jpg").write_bytes(b"")
    assert "share one name" in refused(call(*good))


def test_evaluate_fails_if_nothing_can_be_read(triplets: Path, call: Cli) -> None:
    for path in (triplets / "pred").iterdir():
        path.write_bytes(b"")
    outcome = call(*folders(triplets, "pred", "shadow_free", "mask"))
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.splitlines()[-1].startswith("error: none of 3 images")


def test_evaluate_explains_an_unwritable_csv(triplets: Path, call: Cli) -> None:
    (triplets / "file").write_text("")
    outcome = call(
        *folders(triplets, "pred", "shadow_free", "mask"), "--csv", triplets / "file" / "scores.csv"
    )
    assert outcome.code == 2 and "| LAB, shadow (S) |" in outcome.out
    assert outcome.err.startswith("error: --csv ") and outcome.err.endswith("; choose another path\n")


def test_evaluate_asks_for_masks_that_a_dataset_lacks(triplets: Path, call: Cli) -> None:
    (triplets / "mask").rename(triplets / "elsewhere")
    arguments = ["--pred", triplets / "pred", "--dataset", triplets]
    assert "--mask: --dataset" in refused(call(*arguments))
    outcome = call(*arguments, "--mask", triplets / "elsewhere")
    assert outcome.code == 0 and "| measure | prediction | identity |" in outcome.out
