"""Masks: reading, resizing, growing, bounding and drawing."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from guided_diffusion.errors import ImageError
from guided_diffusion.images.masks import (
    MASK_KINDS,
    MAX_UNKNOWN,
    bounding_box,
    dilate,
    keep_beyond,
    make_mask,
    read_mask,
    resize_mask,
    to_hole,
    to_keep,
    to_shadow,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_read_mask_thresholds_at_128_in_every_grey_mode(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = np.arange(256).reshape(16, 16) > 127
    image = Image.fromarray(grey)
    image.save(tmp_path / "l.png")
    image.convert("RGB").save(tmp_path / "rgb.bmp")
    image.convert("P").save(tmp_path / "p.png")
    Image.merge("LA", [image, Image.fromarray(255 - grey)]).save(tmp_path / "la.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "wide.png")
    Image.fromarray(expected).save(tmp_path / "one.tif")
    for file in tmp_path.iterdir():
        mask = read_mask(file)
        assert mask.dtype == np.bool_, file.name
        np.testing.assert_array_equal(mask, expected, err_msg=file.name)


def test_read_mask_uses_pillow_s_luminance(tmp_path: Path) -> None:
    colour = rng().integers(0, 256, (60, 50, 4), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "a.png")
    luminance = np.asarray(Image.fromarray(colour[..., :3]).convert("L"))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), luminance >= 128)


def test_read_mask_of_a_broken_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(b"x")
    with pytest.raises(ImageError, match="m.png: not an image"):
        read_mask(tmp_path / "m.png")


@given(st.tuples(*[st.integers(1, 40)] * 4), st.integers(0, 99))
def test_resize_mask_takes_the_value_at_the_centre(shape: tuple[int, ...], seed: int) -> None:
    height, width, rows, cols = shape
    mask = rng(seed).random((height, width)) < 0.5
    small = resize_mask(mask, (rows, cols))
    assert small.dtype == np.bool_ and small.shape == (rows, cols)
    for r in range(0, rows, 7):
        for c in range(0, cols, 7):
            # 1e-9: a centre on an edge belongs to the pixel that begins there
            y, x = int((r + 0.5) * height / rows + 1e-9), int((c + 0.5) * width / cols + 1e-9)
            assert small[r, c] == mask[y, x]


def test_resize_mask_by_whole_factors() -> None:
    mask = rng().random((5, 6)) < 0.5
    large = resize_mask(mask, (15, 12))
    np.testing.assert_array_equal(large, mask.repeat(3, 0).repeat(2, 1))
    np.testing.assert_array_equal(resize_mask(large, (5, 6)), mask)
    np.testing.assert_array_equal(resize_mask(mask, (5, 6)), mask)


def test_resize_mask_keeps_a_512_line_mask_binary() -> None:
    # Bicubic without threshold made a uniform 128 of this one (facts: RePaint's resize).
    small = resize_mask(make_mask("ev2li", (512, 512), rng()), (256, 256))
    assert small.dtype == np.bool_ and small.mean() in (0.0, 1.0)


def test_make_mask_fixed_kinds() -> None:
    size = (256, 256)
    half, expand, lines, pixels = (make_mask(k, size, rng()) for k in ("half", "expand", "ev2li", "nn2"))
    assert half[:, :128].all() and not half[:, 128:].any()
    assert expand[96:160, 96:160].all() and expand.sum() == 64 * 64
    assert lines[0::2].all() and not lines[1::2].any()
    assert pixels[0::2, 0::2].all() and pixels.sum() == 128 * 128


def test_make_mask_fixed_kinds_at_other_shapes() -> None:
    assert make_mask("half", (3, 5), rng()).sum() == 3 * 2
    assert make_mask("expand", (40, 80), rng()).sum() == 10 * 20
    assert make_mask("expand", (1, 1), rng()).all()
    assert make_mask("nn2", (3, 3), rng()).sum() == 4


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["thick", "thin"]), st.integers(8, 70), st.integers(8, 70), st.integers(0, 2**32 - 1))
def test_make_mask_random_kinds_leave_known_and_unknown(
    kind: str, height: int, width: int, seed: int
) -> None:
    mask = make_mask(kind, (height, width), rng(seed))
    assert mask.shape == (height, width) and mask.dtype == np.bool_
    assert 0 < (~mask).mean() <= MAX_UNKNOWN
    np.testing.assert_array_equal(mask, make_mask(kind, (height, width), rng(seed)))


def test_make_mask_random_kinds_at_the_smallest_size() -> None:
    for kind in ("thick", "thin"):
        for seed in range(300):
            assert 0 < make_mask(kind, (8, 8), rng(seed)).mean() < 1


def widest_unknown_square(mask: np.ndarray) -> int:
    """Side of the largest all-unknown square, by the textbook recurrence."""
    side = (~mask).astype(int)
    for y in range(1, mask.shape[0]):
        for x in range(1, mask.shape[1]):
            if side[y, x]:
                side[y, x] = 1 + min(side[y - 1, x], side[y, x - 1], side[y - 1, x - 1])
    return int(side.max())


def test_make_mask_thick_is_thicker_than_thin() -> None:
    thick, thin = ([make_mask(kind, (64, 64), rng(s)) for s in range(12)] for kind in ("thick", "thin"))
    assert np.median([widest_unknown_square(m) for m in thick]) >= 8
    assert np.median([widest_unknown_square(m) for m in thin]) <= 5
    assert len({m.tobytes() for m in thick}) == 12


def test_make_mask_refuses_a_wrong_kind_or_size() -> None:
    with pytest.raises(ValueError, match="'tick' is unknown; choose one of thick, thin, half"):
        make_mask("tick", (64, 64), rng())
    with pytest.raises(ValueError, match="7x64"):
        make_mask("thin", (7, 64), rng())
    assert set(MASK_KINDS) == {"thick", "thin", "half", "expand", "ev2li", "nn2"}


@pytest.mark.parametrize("size", [(17, 23), (1, 9), (9, 1), (1, 1)])
@pytest.mark.parametrize("radius", [0, 1, 2, 5, 40])
def test_dilate_marks_all_pixels_within_the_radius(size: tuple[int, int], radius: int) -> None:
    mask = np.random.default_rng(radius).random(size) < 0.04
    rows, columns = np.indices(size)
    grown = np.zeros(size, dtype=bool)
    for row, column in np.argwhere(mask):
        grown |= (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    assert np.array_equal(dilate(mask, radius), grown)


def test_dilate_by_a_fraction_of_a_pixel_counts_whole_distances() -> None:
    mask = np.zeros((9, 9), dtype=bool)
    mask[4, 4] = True
    assert [int(dilate(mask, radius).sum()) for radius in (0.5, 1.0, 1.4, 1.5, 2.9999999)] == [1, 5, 5, 9, 25]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 99))
def test_bounding_box_holds_all_true_pixels_and_no_more(height: int, width: int, seed: int) -> None:
    mask = rng(seed).random((height, width)) < 0.05
    top, bottom, left, right = bounding_box(mask)
    box = mask[top:bottom, left:right]
    assert box.sum() == mask.sum()
    if mask.any():
        assert box[0].any() and box[-1].any() and box[:, 0].any() and box[:, -1].any()
    else:
        assert (top, bottom, left, right) == (0, height, 0, width)


def test_conversions_agree_on_every_pixel() -> None:
    stored = np.zeros((9, 9), dtype=bool)
    stored[4, 4] = True
    keep = to_keep(stored, "shadow")
    assert not keep[4, 4] and keep.sum() == 80 and np.array_equal(to_keep(stored, "keep"), stored)
    assert np.array_equal(to_hole(keep), stored) and np.array_equal(to_shadow(keep), stored)
    assert np.array_equal(keep_beyond(to_shadow(keep), 1), ~dilate(stored, 1))
    assert keep_beyond(to_shadow(keep), 1).sum() == 81 - 5
