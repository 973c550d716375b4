"""Files are made here byte by byte or by Pillow's writers; expected pixels never come from read_image."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from guided_diffusion.errors import ImageError
from guided_diffusion.images import formats
from guided_diffusion.images.formats import read_image
from tests.helpers.image_files import chunk, filtered_rows, png_bytes, tiff_bytes, to_8_bits, wide_values

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
SMOOTH = np.stack(np.meshgrid(np.arange(0, 256, 16), np.arange(0, 256, 8)), -1).astype(np.uint8)
SMOOTH = np.concatenate([SMOOTH, SMOOTH[..., :1]], -1)  # (32, 16, 3)


@pytest.mark.parametrize("extension", ["png", "tif", "tiff", "bmp", "PNG"])
def test_read_image_rgb_lossless(tmp_path: Path, extension: str) -> None:
    file = tmp_path / f"a.{extension}"
    Image.fromarray(COLOUR).save(file)
    np.testing.assert_array_equal(read_image(file), COLOUR)


def test_read_image_webp_lossless_and_its_first_frame(tmp_path: Path) -> None:
    other = Image.fromarray(255 - COLOUR)
    Image.fromarray(COLOUR).save(tmp_path / "a.webp", lossless=True)
    Image.fromarray(COLOUR).save(tmp_path / "b.webp", lossless=True, save_all=True, append_images=[other])
    np.testing.assert_array_equal(read_image(tmp_path / "a.webp"), COLOUR)
    np.testing.assert_array_equal(read_image(tmp_path / "b.webp"), COLOUR)


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_read_image_first_frame_of_other_formats(tmp_path: Path, extension: str) -> None:
    file = tmp_path / f"a.{extension}"
    frames = [Image.fromarray(255 - COLOUR), Image.fromarray(COLOUR // 2)]
    Image.fromarray(COLOUR).save(file, save_all=True, append_images=frames)
    np.testing.assert_array_equal(read_image(file), COLOUR)


def test_read_image_jpeg_rgb_and_grey(tmp_path: Path) -> None:
    Image.fromarray(SMOOTH).save(tmp_path / "a.jpg", quality=98, subsampling=0)
    Image.fromarray(SMOOTH[..., 0]).save(tmp_path / "b.JPEG", quality=98)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - SMOOTH).max() <= 4
    grey = read_image(tmp_path / "b.JPEG").astype(int)
    assert np.abs(grey - SMOOTH[..., :1]).max() <= 4
    assert (grey == grey[..., :1]).all()


def test_read_image_cmyk_jpeg(tmp_path: Path) -> None:
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[...] = (255, 0, 102, 51)  # no red left; 0.8 of green; 0.6 * 0.8 of blue
    Image.frombytes("CMYK", (16, 16), ink.tobytes()).save(tmp_path / "a.jpg", quality=98)
    image = read_image(tmp_path / "a.jpg").astype(float)
    assert np.abs(image - [0, 204, 0.6 * 204]).max() <= 3


def test_read_image_grey_alpha_and_1_bit(tmp_path: Path) -> None:
    grey, alpha = COLOUR[..., 0], COLOUR[..., 1]
    alpha[0] = 0  # fully transparent pixels keep their colour
    Image.fromarray(grey).save(tmp_path / "l.png")
    Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]).save(tmp_path / "la.png")
    Image.fromarray(np.dstack([COLOUR, alpha])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([COLOUR, alpha])).save(tmp_path / "rgba.tif")
    Image.fromarray(grey > 127).save(tmp_path / "one.png")
    Image.fromarray(grey > 127).save(tmp_path / "one.tif", compression="group4")
    three = np.repeat(grey[..., None], 3, 2)
    for name, expected in {
        "l.png": three,
        "la.png": three,
        "rgba.png": COLOUR,
        "rgba.tif": COLOUR,
        "one.png": np.where(three > 127, 255, 0),
        "one.tif": np.where(three > 127, 255, 0),
    }.items():
        image = read_image(tmp_path / name)
        assert image.dtype == np.uint8 and image.flags.c_contiguous
        np.testing.assert_array_equal(image, expected, err_msg=name)


@pytest.mark.parametrize("transparency", [None, 1, b"\x00\x80\xff"])
def test_read_image_palette(tmp_path: Path, transparency: int | bytes | None) -> None:
    colours = np.array([[255, 0, 0], [0, 200, 10], [3, 4, 5]], np.uint8)
    index = RNG.integers(0, 3, (4, 9), dtype=np.uint8)
    pil_image = Image.fromarray(index).convert("P")
    pil_image.putpalette(colours.tobytes())
    pil_image.putdata(index.ravel().tolist())
    extra = {} if transparency is None else {"transparency": transparency}
    pil_image.save(tmp_path / "p.png", **extra)
    np.testing.assert_array_equal(read_image(tmp_path / "p.png"), colours[index])


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_read_image_rounds_16_bit_png(tmp_path: Path, colour: int, channels: int) -> None:
    wide = wide_values(channels)
    (tmp_path / "a.png").write_bytes(png_bytes(5, 6, 16, colour, filtered_rows(wide)))
    colours = wide[..., :3] if channels >= 3 else np.repeat(wide[..., :1], 3, axis=2)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), to_8_bits(colours))


def test_read_image_rounds_16_bit_interlaced_png(tmp_path: Path) -> None:
    wide = wide_values(3)
    passes = [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]
    parts = [wide[top::down, left::right] for top, left, down, right in passes]
    rows = [row for part in parts if part.size for row in filtered_rows(part)]
    (tmp_path / "a.png").write_bytes(png_bytes(5, 6, 16, 2, rows, adam7=1))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), to_8_bits(wide))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("planes", [3, 4])
def test_read_image_rounds_16_bit_tiff(tmp_path: Path, order: str, deflate: bool, planes: int) -> None:
    wide = wide_values(planes)
    (tmp_path / "a.tif").write_bytes(tiff_bytes(wide, order, deflate, planes))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), to_8_bits(wide[..., :3]))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_read_image_rounds_16_bit_grey_tiff(tmp_path: Path, compression: str) -> None:
    wide = wide_values(1)[..., 0]
    Image.fromarray(wide.astype(np.uint16)).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 1], to_8_bits(wide))


# What a viewer must do for each orientation: where the stored first row and first column belong (EXIF 2.3).
ORIENTED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.transpose(a, (1, 0, 2)),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.transpose(a, (1, 0, 2)), 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", list(ORIENTED))
@pytest.mark.parametrize("extension", ["png", "tif", "webp"])
def test_read_image_exif_orientation(tmp_path: Path, orientation: int, extension: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    extra = {"lossless": True} if extension == "webp" else {}
    Image.fromarray(COLOUR).save(tmp_path / f"a.{extension}", exif=exif, **extra)
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{extension}"), ORIENTED[orientation](COLOUR))


def test_read_image_exif_orientation_of_a_jpeg_and_of_16_bits(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(SMOOTH).save(tmp_path / "a.jpg", quality=98, subsampling=0, exif=exif)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - np.rot90(SMOOTH, -1)).max() <= 4
    wide = wide_values(3)
    plain = png_bytes(5, 6, 16, 2, filtered_rows(wide))
    (tmp_path / "a.png").write_bytes(plain[:33] + chunk(b"eXIf", exif.tobytes()[6:]) + plain[33:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(to_8_bits(wide), -1))


@pytest.mark.parametrize(
    "junk", [b"II*\0\xff\xff\0\0junk", b"neither endian", b"MM\0*\0\0\0\x08\0\x01\x01\x12"]
)
def test_read_image_ignores_broken_exif(tmp_path: Path, junk: bytes) -> None:
    for extension, extra in {"png": {}, "webp": {"lossless": True}}.items():
        Image.fromarray(COLOUR).save(tmp_path / f"a.{extension}", exif=b"Exif\0\0" + junk, **extra)
        np.testing.assert_array_equal(read_image(tmp_path / f"a.{extension}"), COLOUR)


def fails(file: Path, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        read_image(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ") and "\n" not in message
    assert reason in message.removeprefix(f"{file}: ")


@pytest.mark.parametrize(
    ("extension", "options"),
    [
        ("png", {}),
        ("jpg", {}),
        ("webp", {}),
        ("webp", {"lossless": True}),
        ("tif", {}),
        ("tif", {"compression": "tiff_lzw"}),
        ("bmp", {}),
    ],
)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_read_image_refuses_truncated_files(
    tmp_path: Path, extension: str, options: dict, share: float, capfd: object
) -> None:
    file = tmp_path / f"a.{extension}"
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, **options)
    data = file.read_bytes()
    file.write_bytes(data[: max(1, int(len(data) * share))])
    fails(file, "")


def test_read_image_refuses_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    fails(tmp_path / "empty.png", "the file is empty")
    (tmp_path / "text.png").write_text("hello\nworld")
    fails(tmp_path / "text.png", "not an image")
    (tmp_path / "folder.png").mkdir()
    fails(tmp_path / "folder.png", "a folder")
    fails(tmp_path / "none.png", "no such file")
    Image.fromarray(COLOUR).save(tmp_path / "really.gif")
    fails(tmp_path / "really.gif", "not an image")
    Image.fromarray(np.ones((3, 3), np.float32)).save(tmp_path / "f.tif")
    fails(tmp_path / "f.tif", "32-bit")


@pytest.mark.parametrize("side", [11_000, 100_000])
def test_read_image_refuses_enormous_files_from_the_header(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(png_bytes(side, side, 8, 2, [b"\0" * 100]))
    fails(tmp_path / "bomb.png", "enormous")
    with open(tmp_path / "long.tif", "wb") as file:
        file.truncate(formats.MAX_BYTES + 1)  # sparse
    fails(tmp_path / "long.tif", "enormous")


def test_read_image_refuses_missing_pixels(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_bytes(3000, 3000, 1, 0, [b"\0" * 100]))
    fails(tmp_path / "a.png", "cannot be read")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "BMP"]), st.lists(st.integers(0, 10_000), max_size=8))
def test_read_image_of_damaged_bytes_raises_image_error_or_reads(
    tmp_path: Path, kind: str, places: list[int]
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(COLOUR).save(buffer, kind)
    data = bytearray(buffer.getvalue())
    for place in places:
        data[place % len(data)] ^= 1 + place % 255
    (tmp_path / "a").write_bytes(data)
    try:
        image = read_image(tmp_path / "a")
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
