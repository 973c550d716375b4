"""Paths, listings and writes, local and through a blobfile over a local folder."""

import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.errors import ImageError
from guided_diffusion.images.files import join_path, path_kind
from guided_diffusion.images.formats import list_images, read_image, read_text, write_image
from tests.helpers.remote import fake_blobfile

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
SMOOTH = np.stack(np.meshgrid(np.arange(0, 256, 16), np.arange(0, 256, 8)), -1).astype(np.uint8)
SMOOTH = np.concatenate([SMOOTH, SMOOTH[..., :1]], -1)  # (32, 16, 3)


def test_write_image_at_the_longest_name(tmp_path: Path) -> None:
    file = tmp_path / ("n" * 251 + ".png")
    write_image(file, COLOUR)
    np.testing.assert_array_equal(read_image(file), COLOUR)
    assert os.listdir(tmp_path) == [file.name]


def test_write_image_cut_short_leaves_the_old_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.png"
    write_image(file, COLOUR)

    def out_of_space(descriptor: int) -> None:
        assert [name for name in os.listdir(tmp_path) if name.endswith(".png")] == ["a.png"]
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", out_of_space)
        with pytest.raises(OSError, match="no space"):
            write_image(file, 255 - COLOUR)
    assert os.listdir(tmp_path) == ["a.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(file)), COLOUR)


def test_write_image_clears_what_a_kill_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.png"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda part, target: None)  # killed right before the rename
        patch.setattr(Path, "glob", lambda self, pattern: [])
        write_image(file, COLOUR)
    assert len(os.listdir(tmp_path)) == 1 and list_images(tmp_path) == []
    write_image(tmp_path / "b.png", COLOUR)
    assert len(os.listdir(tmp_path)) == 2
    write_image(file, COLOUR)
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.png"]


def test_list_images_below_a_folder(tmp_path: Path) -> None:
    names = ["b.png", "a.v2.JPG", "sub dir/ünï.webp", "sub dir/deep/x.TIFF", "c.bmp", "d.jpeg"]
    for name in [*names, ".hidden.png", ".git/e.png", "notes.txt", "png", "f.gif"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list_images(str(tmp_path / "sub dir")) == ["deep/x.TIFF", "ünï.webp"]
    (tmp_path / "sub dir" / "ring").symlink_to(tmp_path)
    assert list_images(tmp_path) == sorted(names)


def test_list_images_follows_linked_folders(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a.png").touch()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "near").symlink_to(tmp_path / "far")
    assert list_images(tmp_path / "root") == ["near/a.png"]


def test_path_kind_and_join_path(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert [path_kind(tmp_path / n) for n in ("", "a.png", "b")] == ["folder", "file", "missing"]
    assert join_path(tmp_path, "x/y.png") == str(tmp_path / "x" / "y.png")


def test_remote_paths_go_through_blobfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "blobfile", fake_blobfile(tmp_path))
    (tmp_path / "bucket" / "sub").mkdir(parents=True)
    (tmp_path / "bucket" / ".hidden.png").touch()
    write_image("gs://bucket/sub/a.png", COLOUR, {"k": "v"})
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "bucket/sub/a.png")), COLOUR)
    np.testing.assert_array_equal(read_image("gs://bucket/sub/a.png"), COLOUR)
    assert read_text("gs://bucket/sub/a.png") == {"k": "v"}
    assert list_images("gs://bucket") == ["sub/a.png"]
    assert join_path("gs://bucket/", "sub/a.png") == "gs://bucket/sub/a.png"
    with pytest.raises(ImageError, match="gs://bucket/b.png: no such file"):
        read_image("gs://bucket/b.png")


def test_path_kind_raises_one_line_where_it_cannot_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    def isdir(path: str) -> bool:
        raise RuntimeError("unknown\naddress")

    monkeypatch.setitem(sys.modules, "blobfile", types.SimpleNamespace(isdir=isdir))
    with pytest.raises(OSError, match="^unknown address$"):
        path_kind("ftp://a/b")


def test_blobfile_has_what_remote_paths_need() -> None:
    import blobfile

    for name in vars(fake_blobfile(Path())):
        assert callable(getattr(blobfile, name))
