"""Sixteen bits a channel, in and out: read against files made by hand, written against Pillow's decoder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.images.formats import eight_bits, read_deep, read_image, read_text, write_image
from tests.helpers.image_files import filtered_rows, png_bytes, tiff_bytes, to_8_bits, wide_values

DEEP = np.random.default_rng(1).integers(0, 65536, (9, 13, 3)).astype(np.uint16)


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_read_deep_of_a_16_bit_png_is_exact(tmp_path: Path, colour: int, channels: int) -> None:
    wide = wide_values(channels)
    (tmp_path / "a.png").write_bytes(png_bytes(5, 6, 16, colour, filtered_rows(wide)))
    colours = wide[..., :3] if channels >= 3 else np.repeat(wide[..., :1], 3, axis=2)
    image = read_deep(tmp_path / "a.png")
    assert image.dtype == np.uint16 and image.flags.c_contiguous
    np.testing.assert_array_equal(image, colours)


@pytest.mark.parametrize("order", ["<", ">"])
def test_read_deep_of_a_16_bit_tiff_is_exact(tmp_path: Path, order: str) -> None:
    wide = wide_values(3)
    (tmp_path / "a.tif").write_bytes(tiff_bytes(wide, order, deflate=False))
    np.testing.assert_array_equal(read_deep(tmp_path / "a.tif"), wide)
    grey = wide[..., 0].astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey.tif")
    np.testing.assert_array_equal(read_deep(tmp_path / "grey.tif"), np.repeat(grey[..., None], 3, axis=2))


def test_read_deep_keeps_8_bits(tmp_path: Path) -> None:
    shallow = (DEEP >> 8).astype(np.uint8)
    write_image(tmp_path / "a.png", shallow)
    assert read_deep(tmp_path / "a.png").dtype == np.uint8
    np.testing.assert_array_equal(read_deep(tmp_path / "a.png"), shallow)
    np.testing.assert_array_equal(eight_bits(shallow), shallow)


@pytest.mark.parametrize("array", [DEEP, DEEP[:1, :1], DEEP[::-1, ::2], DEEP[:, :1]])
def test_write_image_of_16_bits_is_read_back(tmp_path: Path, array: np.ndarray) -> None:
    write_image(tmp_path / "a.png", array, {"penumbra": "f00d", "name": "snow ☃"})
    np.testing.assert_array_equal(read_deep(tmp_path / "a.png"), array)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), to_8_bits(array))
    assert read_text(tmp_path / "a.png") == {"penumbra": "f00d", "name": "snow ☃"}
    with Image.open(tmp_path / "a.png") as pil_image:  # Pillow shows the high byte
        np.testing.assert_array_equal(np.asarray(pil_image), array >> 8)


def test_write_image_of_16_bits_compresses_smooth_images(tmp_path: Path) -> None:
    ramp = np.arange(200, dtype=np.uint16)[:, None, None] * 300 + np.zeros((1, 200, 3), np.uint16)
    write_image(tmp_path / "a.png", ramp)
    assert (tmp_path / "a.png").stat().st_size < ramp.nbytes / 50


def test_write_image_refuses_16_bit_grey(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot write uint16 \(9, 13\)"):
        write_image(tmp_path / "a.png", DEEP[..., 0])
