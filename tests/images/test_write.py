"""Writing, text chunks and resizing."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from guided_diffusion.images.formats import read_image, read_text, resize, write_image

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
SMOOTH = np.stack(np.meshgrid(np.arange(0, 256, 16), np.arange(0, 256, 8)), -1).astype(np.uint8)
SMOOTH = np.concatenate([SMOOTH, SMOOTH[..., :1]], -1)  # (32, 16, 3)


@pytest.mark.parametrize("array", [COLOUR, COLOUR[..., 0], COLOUR[..., 0] > 127, COLOUR[:, ::-1]])
def test_write_image_then_read(tmp_path: Path, array: np.ndarray) -> None:
    file = tmp_path / "new folder" / "snow ☃.v1.png"
    write_image(file, array)
    levels = np.where(array, 255, 0) if array.dtype == bool else array
    expected = np.repeat(levels[..., None], 3, 2) if array.ndim == 2 else levels
    np.testing.assert_array_equal(np.asarray(Image.open(file).convert("RGB")), expected)
    assert os.listdir(file.parent) == [file.name]


@pytest.mark.parametrize("array", [COLOUR.astype(np.float32), COLOUR[..., :2], COLOUR[0, 0]])
def test_write_image_refuses_other_arrays(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="cannot write"):
        write_image(tmp_path / "a.png", array)
    assert os.listdir(tmp_path) == []


def test_read_text_returns_what_was_written(tmp_path: Path) -> None:
    text = {"fingerprint": "abc123", "name": "Straße ☃", "long": "x" * 5000}
    write_image(tmp_path / "a.png", COLOUR, text)
    assert read_text(tmp_path / "a.png") == text
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), COLOUR)
    write_image(tmp_path / "a.png", COLOUR)
    assert read_text(tmp_path / "a.png") == {}


def test_read_text_written_by_others(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("key", "välue", "de", "Schlüssel")
    Image.fromarray(COLOUR).save(tmp_path / "a.png", pnginfo=info)
    assert read_text(tmp_path / "a.png") == {"key": "välue"}


def test_read_text_of_broken_files_is_empty(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", RNG.integers(0, 256, (50, 50, 3), dtype=np.uint8), {"k": "v"})
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:3000])
    (tmp_path / "b.png").write_text("nothing")
    Image.fromarray(COLOUR).save(tmp_path / "c.jpg", comment=b"k")
    for name in ("a.png", "b.png", "c.jpg", "missing.png"):
        assert read_text(tmp_path / name) == {}


def test_resize_to_the_same_size_copies() -> None:
    result = resize(COLOUR, (5, 7))
    np.testing.assert_array_equal(result, COLOUR)
    assert not np.shares_memory(result, COLOUR)


@pytest.mark.parametrize("kernel", ["lanczos", "hamming", "bilinear"])
@pytest.mark.parametrize("size", [(3, 4), (16, 9), (1, 1), (40, 50)])
def test_resize_keeps_constants_and_types(kernel: str, size: tuple[int, int]) -> None:
    for flat in (np.full((8, 9, 3), 37, np.uint8), np.full((8, 9, 2), 0.37, np.float32)):
        result = resize(flat, size, kernel)
        assert result.shape == (*size, flat.shape[2]) and result.dtype == flat.dtype
        np.testing.assert_allclose(result, flat[0, 0, 0], rtol=1e-5)
    assert resize(np.zeros((8, 9), np.float32), size, kernel).shape == size


def test_resize_antialiases() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.abs(resize(stripes, (8, 8)).astype(int)[:, 1:-1] - 100).max() <= 4
    ramp = np.tile(np.arange(64, dtype=np.float32)[None, :, None], (64, 1, 1))
    blocks = ramp.reshape(8, 8, 8, 8, 1).mean((1, 3))
    np.testing.assert_allclose(resize(ramp, (8, 8))[:, 2:-2], blocks[:, 2:-2], atol=0.1)


def test_resize_without_negative_weights_stays_within_range() -> None:
    spike = np.zeros((16, 16), np.float32)
    spike[5:9, 6] = 1
    for size in ((5, 5), (40, 33)):
        for kernel in ("hamming", "bilinear"):
            result = resize(spike, size, kernel)
            assert result.min() >= 0 and result.max() <= 1 + 1e-6
        assert resize(spike, size).min() < 0
