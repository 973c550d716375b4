"""Pairing: names, masks, offsets, remote folders and every error."""

import sys
import types
import unicodedata
from pathlib import Path

import pytest

from guided_diffusion.errors import DatasetError
from guided_diffusion.images.pairs import Pair, find_pairs


def fill(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return str(folder)


def fails(*args: object, **more: object) -> str:
    with pytest.raises(DatasetError) as caught:
        find_pairs(*args, **more)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_find_pairs_matches_folders_by_relative_stem(tmp_path: Path) -> None:
    gts = fill(tmp_path / "gt", "b.jpg", "a.v1.png", "sub dir/ünï ☃.webp", "B.PNG", "readme.txt")
    masks = fill(tmp_path / "mask", "sub dir/ünï ☃.png", "a.v1.bmp", "B.png", "b.tif")
    pairs = find_pairs(gts, masks)
    assert [pair.name for pair in pairs] == ["B", "a.v1", "b", "sub dir/ünï ☃"]
    assert pairs[3] == Pair("sub dir/ünï ☃", f"{gts}/sub dir/ünï ☃.webp", f"{masks}/sub dir/ünï ☃.png")
    assert pairs[1] == Pair("a.v1", f"{gts}/a.v1.png", f"{masks}/a.v1.bmp")


def test_find_pairs_matches_accents_in_any_encoding(tmp_path: Path) -> None:
    composed, split = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))
    assert composed != split
    pairs = find_pairs(fill(tmp_path / "gt", composed), fill(tmp_path / "mask", split))
    assert pairs == [Pair("é", f"{tmp_path}/gt/{composed}", f"{tmp_path}/mask/{split}")]


def test_find_pairs_with_a_single_mask_file_or_none(tmp_path: Path) -> None:
    gts = fill(tmp_path / "gt", "a.png", "b.png")
    mask = fill(tmp_path / "m", "any name.png") + "/any name.png"
    assert [(p.name, p.mask) for p in find_pairs(gts, mask)] == [("a", mask), ("b", mask)]
    assert [(p.name, p.mask) for p in find_pairs(gts, None)] == [("a", None), ("b", None)]


def test_find_pairs_of_a_single_image(tmp_path: Path) -> None:
    gt = fill(tmp_path / "gt", "my.photo.jpg") + "/my.photo.jpg"
    masks = fill(tmp_path / "mask", "my.photo.png", "unrelated.png")
    assert find_pairs(gt, None) == [Pair("my.photo", gt, None)]
    assert find_pairs(gt, masks) == [Pair("my.photo", gt, f"{masks}/my.photo.png")]
    (tmp_path / "mask" / "my.photo.png").unlink()
    assert "1 of 1 images have no mask (my.photo)" in fails(gt, masks)


def test_find_pairs_refuses_a_folder_with_a_single_mask(tmp_path: Path) -> None:
    message = fails(fill(tmp_path / "gt", "a.png", "b.png"), fill(tmp_path / "mask", "a.png"))
    assert "1 of 2 images have no mask (b)" in message and "masks have no image" not in message
    assert "one mask file for all" in message


def test_find_pairs_names_up_to_three_mismatches_a_side(tmp_path: Path) -> None:
    gts = fill(tmp_path / "gt", *(f"g{i}.png" for i in range(5)), "same.png")
    masks = fill(tmp_path / "mask", "same.png", "m1.png", "sub/m2.png")
    message = fails(gts, masks)
    assert "5 of 6 images have no mask (g0, g1, g2, ...)" in message and "g3" not in message
    assert "2 of 3 masks have no image (m1, sub/m2)" in message
    assert "data.gt_path" in message and "data.mask_path" in message


def test_find_pairs_names_spare_masks(tmp_path: Path) -> None:
    message = fails(fill(tmp_path / "gt", "a.png"), fill(tmp_path / "mask", "a.png", "b.png"))
    assert "1 of 2 masks have no image (b)" in message


def test_find_pairs_refuses_two_files_of_one_name(tmp_path: Path) -> None:
    gts = fill(tmp_path / "gt", "a.png", "sub/b.png", "sub/b.jpg")
    message = fails(gts, None)
    assert "sub/b.jpg and sub/b.png" in message and "data.gt_path" in message
    message = fails(fill(tmp_path / "one", "b.png"), fill(tmp_path / "masks", "b.png", "b.bmp"))
    assert "b.bmp and b.png" in message and "data.mask_path" in message


def test_find_pairs_refuses_missing_empty_and_unset_paths(tmp_path: Path) -> None:
    gts = fill(tmp_path / "gt", "a.png")
    empty = fill(tmp_path / "empty", "notes.txt")
    gone = str(tmp_path / "gone")
    assert fails(gone, None).startswith(f"data.gt_path: {gone} does not exist")
    assert fails(gts, gone).startswith(f"data.mask_path: {gone} does not exist")
    assert "no images" in fails(empty, None) and empty in fails(empty, None)
    assert "data.mask_path: no images" in fails(gts, empty)
    assert "data.gt_path is not set" in fails(None, gts)


def test_find_pairs_offset_and_max_len(tmp_path: Path) -> None:
    gts = fill(tmp_path / "gt", *(f"{i}.png" for i in range(10)))

    def names(**more: int | None) -> list[str]:
        return [pair.name for pair in find_pairs(gts, None, **more)]  # type: ignore[arg-type]

    assert names(max_len=3) == ["0", "1", "2"]
    assert names(offset=8) == ["8", "9"]
    assert names(offset=4, max_len=2) == ["4", "5"]
    assert names(offset=9, max_len=100) == ["9"]
    for more in (
        {"offset": 10},
        {"max_len": 0},
        {"offset": -1},
        {"max_len": -2},
        {"offset": -1, "max_len": 3},
    ):
        assert "of 10 images" in fails(gts, None, **more)


def test_find_pairs_in_remote_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def local(path: str) -> Path:
        if not path.startswith("gs://"):
            raise RuntimeError("unknown\naddress")
        return tmp_path / path.removeprefix("gs://")

    fake = types.SimpleNamespace(
        exists=lambda path: local(path).exists(),
        isdir=lambda path: local(path).is_dir(),
        join=lambda *parts: "/".join(parts),
        scandir=lambda path: [
            types.SimpleNamespace(name=p.name, is_dir=p.is_dir()) for p in local(path).iterdir()
        ],
    )
    monkeypatch.setitem(sys.modules, "blobfile", fake)
    fill(tmp_path / "bucket" / "gt", "sub/a.png")
    masks = fill(tmp_path / "mask", "sub/a.png")
    assert find_pairs("gs://bucket/gt", masks) == [
        Pair("sub/a", "gs://bucket/gt/sub/a.png", f"{masks}/sub/a.png")
    ]
    assert find_pairs("gs://bucket/gt/sub/a.png", None)[0].name == "a"
    assert "gs://bucket/none does not exist" in fails("gs://bucket/none", None)
    assert "cannot be reached: unknown address" in fails("ftp://a/b", None)
