"""`python -m guided_diffusion.evaluate` on folders laid out as the sets are, with scores known beforehand."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided_diffusion import evaluate
from guided_diffusion.datasets import DatasetError
from guided_diffusion.region_metrics import bootstrap_by_scene
from guided_diffusion.region_table import Judged, Row, differences, estimate, mean_of, table
from guided_diffusion.shadow_sets import dataset_folders, match, read_scenes, scene_of
from tests.conftest import Outcome, picture

MASK = np.hypot(*(np.indices((32, 40)) - 16.0)) < 10  # True = shadow


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def free_of(seed: int) -> np.ndarray:
    return (60 + picture(seed, 32, 40) // 2).astype(np.uint8)


def darkened(free: np.ndarray, by: int, where: np.ndarray = MASK) -> np.ndarray:
    return (free - by * where[..., None]).astype(np.uint8)


@pytest.fixture
def triplets(tmp_path: Path) -> Path:
    """Three pictures of two scenes in shadow, mask, free, the last with a smaller shadow.

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
    assert "3 pictures of 2 scenes at 256x256, LAB for D65." in told.out
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
    (triplets / "pred" / "100-2.png").write_bytes(b"no picture")
    told = call(*folders(triplets, "pred", "free", "mask"))
    assert told.code == 1
    assert "2 pictures of 2 scenes" in told.out
    assert told.err.startswith("warning: 100-2 is left out: ") and told.err.count("\n") == 1


def test_what_has_no_counterpart_is_named(triplets: Path, call: Callable[..., Outcome]) -> None:
    (triplets / "mask" / "100-1.png").unlink()
    told = call(*folders(triplets, "pred", "free", "mask"))
    assert told.code == 1 and "1 picture (100-1) left out: none of that name in --mask" in told.err
    (triplets / "pred" / "100-1.png").unlink()
    told = call(*folders(triplets, "pred", "free", "mask"))
    assert told.code == 0 and "1 picture (100-1) left out: none of that name in --pred" in told.err


def test_odd_masks_are_told(triplets: Path, call: Callable[..., Outcome]) -> None:
    save(
        triplets / "mask" / "100-1.png",
        np.where(MASK, 255, 3).astype(np.uint8) + np.eye(32, 40, dtype=np.uint8),
    )
    save(triplets / "mask" / "100-2.png", np.zeros((32, 40), np.uint8))
    told = call(*folders(triplets, "pred", "free", "mask"))
    assert told.code == 0
    assert "1 picture (100-1) with greys in the mask" in told.err
    assert "1 picture (100-2) without shadow in the mask" in told.err
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
    assert "no pictures" in refused(call("--pred", triplets / "empty", *good[2:]))
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
    assert told.err.splitlines()[-1].startswith("error: none of 3 pictures")


def test_a_csv_that_cannot_be_written(triplets: Path, call: Callable[..., Outcome]) -> None:
    (triplets / "file").write_text("")
    told = call(*folders(triplets, "pred", "free", "mask"), "--csv", triplets / "file" / "scores.csv")
    assert told.code == 2 and "| LAB, shadow (S) |" in told.out
    assert told.err.startswith("error: --csv ") and told.err.endswith("; choose another place\n")


# layouts


def lay_out(root: Path, *files: str) -> None:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("files", "split", "expected"),
    [
        (  # ISTD
            ("test/test_A/1-1.png", "test/test_B/1-1.png", "test/test_C/1-1.png", "train/train_C/2-1.png"),
            "test",
            {"shadow": "test/test_A", "mask": "test/test_B", "free": "test/test_C"},
        ),
        (  # ISTD+
            ("train/train_B/1-1.png", "train/train_C/1-1.png", "train/train_C_fixed_official/1-1.png"),
            "train",
            {"mask": "train/train_B", "free": "train/train_C_fixed_official"},
        ),
        (("test_B/1-1.png", "test_C/1-1.png"), "test", {"mask": "test_B", "free": "test_C"}),
        (  # SRD as downloaded
            ("SRD_Test/shadow/IMG_1.jpg", "SRD_Test/shadow_free/IMG_1_free.jpg"),
            "test",
            {"shadow": "SRD_Test/shadow", "free": "SRD_Test/shadow_free"},
        ),
        (
            ("mask/a.png", "shadow/a.png", "free/a.png"),
            "test",
            {"mask": "mask", "shadow": "shadow", "free": "free"},
        ),
    ],
)
def test_sets_are_read_as_they_come(
    tmp_path: Path, files: Sequence[str], split: str, expected: dict[str, str]
) -> None:
    lay_out(tmp_path, *files)
    found = dataset_folders(str(tmp_path), split)
    assert found == {role: str(tmp_path / folder) for role, folder in expected.items()}


def test_a_set_without_masks_asks_for_them(triplets: Path, call: Callable[..., Outcome]) -> None:
    (triplets / "mask").rename(triplets / "elsewhere")
    arguments = ["--pred", triplets / "pred", "--dataset", triplets]
    assert "--mask: --dataset" in refused(call(*arguments))
    told = call(*arguments, "--mask", triplets / "elsewhere")
    assert told.code == 0 and "| measure | prediction | identity |" in told.out


def test_srd_names_match(tmp_path: Path) -> None:
    lay_out(
        tmp_path,
        *("pred/IMG_1.png", "pred/IMG_2.png", "pred/IMG_3_free.png"),
        *("free/IMG_1_free.jpg", "free/IMG_2_no_shadow.jpg", "free/IMG_3_free.jpg", "free/IMG_4_free.jpg"),
        *("mask/IMG_1.jpg", "mask/IMG_2.jpg", "mask/IMG_3_mask.png"),
    )
    items, lacking = match({role: str(tmp_path / role) for role in ("pred", "free", "mask")})
    assert {item.name: {Path(path).name for path in item.files.values()} for item in items} == {
        "IMG_1": {"IMG_1.png", "IMG_1_free.jpg", "IMG_1.jpg"},
        "IMG_2": {"IMG_2.png", "IMG_2_no_shadow.jpg", "IMG_2.jpg"},
        "IMG_3_free": {"IMG_3_free.png", "IMG_3_free.jpg", "IMG_3_mask.png"},
    }
    assert lacking == {"pred": ["IMG_4_free"]}


def test_a_name_itself_goes_before_one_with_a_suffix(tmp_path: Path) -> None:
    lay_out(tmp_path, "pred/a.png", "free/a.png", "free/a_free.png")
    items, _ = match({role: str(tmp_path / role) for role in ("pred", "free")})
    assert Path(items[0].files["free"]).name == "a.png"


# scenes


@pytest.mark.parametrize(
    ("name", "scene"),
    [
        ("100-1", "100"),
        ("uiuc_p1_2", "uiuc_p1"),
        ("IMG_6456", "IMG_6456"),
        ("IMG_6456_free", "IMG_6456_free"),
        ("day2/100-12", "day2/100"),
        ("day2/a-12", "day2/a-12"),
        ("7", "7"),
    ],
)
def test_scenes_that_names_tell(name: str, scene: str) -> None:
    assert scene_of(name) == scene


def test_scenes_from_a_manifest(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    path.write_text("\ufeffname,width,scene\na.png,3,one\nb,3,one\nv1.5,3,two\n", encoding="utf-8")
    assert read_scenes(str(path), ["b", "a", "v1.5"]) == ["one", "one", "two"]
    with pytest.raises(DatasetError, match=r"no scene for 1 of 2 pictures \(c\); add rows"):
        read_scenes(str(path), ["a", "c"])
    for content in ("", "name,place\na,b\n"):
        path.write_text(content)
        with pytest.raises(DatasetError, match="lacks the columns name and scene"):
            read_scenes(str(path), ["a"])
    path.write_bytes(b"name,scene\n\xff\xfe,b\n")
    with pytest.raises(DatasetError, match="cannot be read as CSV"):
        read_scenes(str(path), ["a"])


# the table


def judged(*told: tuple[str, dict[str, float], dict[str, float]]) -> list[Judged]:
    return [
        Judged(f"{scene}-{i}", scene, {"pred": ours, "against": theirs})
        for i, (scene, ours, theirs) in enumerate(told)
    ]


def test_means_leave_out_what_is_undefined() -> None:
    assert estimate([1.0, math.nan, 3.0], ["a", "b", "c"])[0] == 2
    assert all(map(math.isnan, estimate([math.nan], ["a"])))
    mean = mean_of(
        judged(("1", {"lab_s": 1, "pixels_s": 30}, {}), ("2", {"lab_s": math.nan, "pixels_s": 0}, {})),
        "pred",
        Row("", "lab_s", pixels="pixels_s"),
    )
    assert mean[0] == 1


def test_differences_are_paired_and_scenes_are_drawn_whole() -> None:
    keys = ("lab_s", "lab_s_true", "lab_band", "psnr_s_true")
    told = judged(
        ("1", dict.fromkeys(keys, 10.0), dict.fromkeys(keys, 11.0)),
        ("1", dict.fromkeys(keys, 50.0), dict.fromkeys(keys, 51.0)),
        ("2", dict.fromkeys(keys, 3.0), dict.fromkeys(keys, 2.0)),
        ("2", dict.fromkeys(keys, math.inf), dict.fromkeys(keys, math.inf)),
        ("2", dict.fromkeys(keys, math.nan), dict.fromkeys(keys, math.nan)),
    )
    line = differences(told)[0]
    assert line.startswith("- LAB, shadow (S), prediction less the other: -0.25 [-1.00, 0.50]")
    assert line.endswith("; includes 0")
    assert differences(judged(("1", dict.fromkeys(keys, math.nan), dict.fromkeys(keys, 1.0)))) == []


def test_the_table_leaves_out_what_nothing_is_known_of() -> None:
    scores = {"lab_s": 1.25, "pixels_s": 4.0, "pixels_ns": 4.0, "texture": math.nan}
    lines = table([Judged("a", "a", {"pred": scores})])
    assert lines == [
        "| measure | prediction |",
        "| --- | --- |",
        "| LAB, shadow (S) | 1.25 |",
        "| LAB, S, over pixels (PP) | 1.25 |",
    ]
