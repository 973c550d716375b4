"""Folders of shadow images in their published layout, and scenes derived from names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from guided_diffusion.errors import DatasetError
from guided_diffusion.evaluation.shadow_datasets import dataset_folders, match_images, read_scenes, scene_of


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
            {"shadow": "test/test_A", "mask": "test/test_B", "shadow_free": "test/test_C"},
        ),
        (  # ISTD+
            ("train/train_B/1-1.png", "train/train_C/1-1.png", "train/train_C_fixed_official/1-1.png"),
            "train",
            {"mask": "train/train_B", "shadow_free": "train/train_C_fixed_official"},
        ),
        (("test_B/1-1.png", "test_C/1-1.png"), "test", {"mask": "test_B", "shadow_free": "test_C"}),
        (  # SRD as downloaded
            ("SRD_Test/shadow/IMG_1.jpg", "SRD_Test/shadow_free/IMG_1_free.jpg"),
            "test",
            {"shadow": "SRD_Test/shadow", "shadow_free": "SRD_Test/shadow_free"},
        ),
        (
            ("mask/a.png", "shadow/a.png", "free/a.png"),
            "test",
            {"mask": "mask", "shadow": "shadow", "shadow_free": "free"},
        ),
    ],
)
def test_dataset_folders_finds_published_layouts(
    tmp_path: Path, files: Sequence[str], split: str, expected: dict[str, str]
) -> None:
    lay_out(tmp_path, *files)
    folders = dataset_folders(str(tmp_path), split)
    assert folders == {role: str(tmp_path / folder) for role, folder in expected.items()}


def test_match_images_ignores_srd_suffixes(tmp_path: Path) -> None:
    lay_out(
        tmp_path,
        *("pred/IMG_1.png", "pred/IMG_2.png", "pred/IMG_3_free.png"),
        *("shadow_free/IMG_1_free.jpg", "shadow_free/IMG_2_no_shadow.jpg"),
        *("shadow_free/IMG_3_free.jpg", "shadow_free/IMG_4_free.jpg"),
        *("mask/IMG_1.jpg", "mask/IMG_2.jpg", "mask/IMG_3_mask.png"),
    )
    items, lacking = match_images({role: str(tmp_path / role) for role in ("pred", "shadow_free", "mask")})
    assert {item.name: {Path(path).name for path in item.files.values()} for item in items} == {
        "IMG_1": {"IMG_1.png", "IMG_1_free.jpg", "IMG_1.jpg"},
        "IMG_2": {"IMG_2.png", "IMG_2_no_shadow.jpg", "IMG_2.jpg"},
        "IMG_3_free": {"IMG_3_free.png", "IMG_3_free.jpg", "IMG_3_mask.png"},
    }
    assert lacking == {"pred": ["IMG_4_free"]}


def test_match_images_prefers_exact_names(tmp_path: Path) -> None:
    lay_out(tmp_path, "pred/a.png", "shadow_free/a.png", "shadow_free/a_free.png")
    items, _ = match_images({role: str(tmp_path / role) for role in ("pred", "shadow_free")})
    assert Path(items[0].files["shadow_free"]).name == "a.png"


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
def test_scene_of_derives_scene_from_name(name: str, scene: str) -> None:
    assert scene_of(name) == scene


def test_read_scenes_reads_csv_and_names_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    path.write_text("\ufeffname,width,scene\na.png,3,one\nb,3,one\nv1.5,3,two\n", encoding="utf-8")
    assert read_scenes(str(path), ["b", "a", "v1.5"]) == ["one", "one", "two"]
    with pytest.raises(DatasetError, match=r"no scene for 1 of 2 images \(c\); add rows"):
        read_scenes(str(path), ["a", "c"])
    for content in ("", "name,place\na,b\n"):
        path.write_text(content)
        with pytest.raises(DatasetError, match="lacks the columns name and scene"):
            read_scenes(str(path), ["a"])
    path.write_bytes(b"name,scene\n\xff\xfe,b\n")
    with pytest.raises(DatasetError, match="cannot be read as CSV"):
        read_scenes(str(path), ["a"])
