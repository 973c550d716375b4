import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guided_diffusion.inpainting.windows import Window, choose_window, cut, paste
from tests.helpers.masks import keep_around, masked_images

SIZES = st.sampled_from([(8, 4), (16, 8), (16, 16), (24, 8), (10, 4)])  # (size, multiple)


@settings(max_examples=200, deadline=None)
@given(masked_images(), SIZES)
def test_choose_window_holds_the_hole_and_fits_image_and_model(
    case: tuple[np.ndarray, np.ndarray], shape: tuple[int, int]
) -> None:
    mask, (size, multiple) = case[1], shape
    window = choose_window(~mask, size, multiple)
    height, width = mask.shape
    assert window.top >= 0 and window.top + window.height <= height and window.height >= 1
    assert window.left >= 0 and window.left + window.width <= width and window.width >= 1
    outside = mask.copy()
    outside[window.slices] = True
    assert outside.all()
    assert min(window.rows, window.cols) == size
    if size % multiple == 0:
        assert window.rows % multiple == 0 and window.cols % multiple == 0
    if window.rows == window.cols == size and window.height == window.width:
        return
    # A rectangle: it spans the short side, and its shape is the model's to within half a multiple.
    short, long = sorted((window.height, window.width))
    assert short == min(height, width)
    exact = max(size, size * long / short)
    assert abs(max(window.rows, window.cols) - exact) <= multiple / 2 or size % multiple


@settings(max_examples=150, deadline=None)
@given(masked_images(), SIZES, st.integers(0, 10**6))
def test_paste_keeps_known_bytes_and_bytes_outside(
    case: tuple[np.ndarray, np.ndarray], shape: tuple[int, int], seed: int
) -> None:
    image, mask = case
    window = choose_window(~mask, *shape)
    filled = np.random.default_rng(seed).integers(0, 256, (window.rows, window.cols, 3), dtype=np.uint8)
    result, whole = image.copy(), image.copy()
    paste(result, window, filled, ~mask[window.slices])
    np.testing.assert_array_equal(result[mask], image[mask])
    paste(whole, window, filled, np.ones_like(mask[window.slices]))
    elsewhere = np.ones(mask.shape, dtype=bool)
    elsewhere[window.slices] = False
    np.testing.assert_array_equal(whole[elsewhere], image[elsewhere])
    np.testing.assert_array_equal(whole[~mask], result[~mask])


@settings(max_examples=150, deadline=None)
@given(masked_images(), SIZES)
def test_cut_leaks_nothing_out_of_the_hole(
    case: tuple[np.ndarray, np.ndarray], shape: tuple[int, int]
) -> None:
    image, mask = case
    window = choose_window(~mask, *shape)
    black, white = (np.where(mask[..., None], image, np.uint8(v)) for v in (0, 255))
    (small, known), (other, _) = cut(black, mask, window), cut(white, mask, window)
    assert small.shape == (window.rows, window.cols, 3) and small.dtype == np.uint8
    assert known.shape == (window.rows, window.cols) and known.dtype == np.bool_
    np.testing.assert_array_equal(small[known], other[known])
    assert (small[~known] == 0).all() and (other[~known] == 255).all()


@settings(max_examples=100, deadline=None)
@given(masked_images(), SIZES, st.integers(0, 255))
def test_cut_keeps_a_flat_surround_flat(
    case: tuple[np.ndarray, np.ndarray], shape: tuple[int, int], level: int
) -> None:
    image, mask = case
    flat = np.where(mask[..., None], np.uint8(level), image)
    small, known = cut(flat, mask, choose_window(~mask, *shape))
    assert (small[known] == level).all()


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (keep_around(64, 64, 3, 60, 5, 6), Window(0, 0, 64, 64, 64, 64)),  # the model's own size: whole
        (keep_around(300, 200, 100, 110, 90, 100), Window(73, 63, 64, 64, 64, 64)),  # small hole: no scaling
        (keep_around(300, 200, 0, 10, 190, 200), Window(0, 136, 64, 64, 64, 64)),  # shifted inside
        (keep_around(300, 200, 100, 150, 80, 100), Window(75, 40, 100, 100, 64, 64)),  # twice the hole
        (keep_around(300, 200, 20, 180, 10, 60), Window(0, 0, 200, 200, 64, 64)),  # at most the short side
        (keep_around(300, 200, 20, 220, 10, 60), Window(20, 0, 200, 200, 64, 64)),  # just fits a square
        (
            keep_around(300, 200, 20, 270, 10, 60),
            Window(0, 0, 300, 200, 96, 64),
        ),  # beyond the short side
        (
            keep_around(100, 1000, 0, 5, 400, 520),
            Window(0, 340, 100, 240, 64, 152),
        ),  # 153.6, rounded to 8
        (np.ones((100, 150), bool), Window(0, 0, 100, 150, 64, 96)),  # all known: as if all were unknown
        (np.zeros((100, 150), bool), Window(0, 0, 100, 150, 64, 96)),
        (np.zeros((20, 30), bool), Window(0, 0, 20, 30, 64, 96)),  # smaller than the model: enlarged
        (keep_around(40, 50, 10, 12, 10, 12), Window(0, 0, 40, 40, 64, 64)),
    ],
)
def test_choose_window_by_hand(mask: np.ndarray, expected: Window) -> None:
    assert choose_window(~mask, 64, 8) == expected


def test_cut_and_paste_are_exact_without_resizing() -> None:
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 256, (90, 80, 3), dtype=np.uint8), keep_around(90, 80, 30, 50, 20, 40)
    window = choose_window(~mask, 64, 8)
    small, known = cut(image, mask, window)
    np.testing.assert_array_equal(small, image[window.slices])
    np.testing.assert_array_equal(known, mask[window.slices])
    filled, result = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), image.copy()
    paste(result, window, small, ~mask[window.slices])
    np.testing.assert_array_equal(result, image)
    paste(result, window, filled, ~mask[window.slices])
    np.testing.assert_array_equal(result[~mask], filled[~known])
    small[:] = 0  # a copy, not the image itself
    assert image.any()


def test_cut_averages_known_pixels_by_hand() -> None:
    # Left half 40, right half 80, one unknown pixel of 255; at half size, well away from edges.
    image = np.full((32, 32, 3), 40, np.uint8)
    image[:, 16:] = 80
    mask = keep_around(32, 32, 9, 10, 9, 10)
    image[~mask] = 255
    small, known = cut(image, mask, Window(0, 0, 32, 32, 16, 16))
    assert (small[:, :7][known[:, :7]] == 40).all() and (small[:, 9:] == 80).all()
    assert not known[4, 4] and (small[4, 4] == 255).all() and known.sum() == 255


def test_cut_and_paste_preserve_a_smooth_image() -> None:
    y, x = np.mgrid[0:120, 0:120]
    image = np.stack([x + 20, y + 60, (x + y) // 2], -1).astype(np.uint8)
    mask = keep_around(120, 120, 30, 90, 30, 90)
    window = choose_window(~mask, 64, 8)
    assert window.height == 120
    small, _ = cut(image, mask, window)
    result = image.copy()
    paste(result, window, small, ~mask[window.slices])
    assert np.abs(result.astype(int) - image).max() <= 2


def test_paste_rejects_another_shape() -> None:
    image, mask = np.zeros((80, 80, 3), np.uint8), keep_around(80, 80, 1, 2, 1, 2)
    with pytest.raises(ValueError, match="shape"):
        paste(image, choose_window(~mask, 64, 8), image, ~mask)


@settings(max_examples=100, deadline=None)
@given(masked_images(), st.integers(-20, 20), st.integers(-20, 20))
def test_cut_mirrors_the_image_beyond_its_frame(
    case: tuple[np.ndarray, np.ndarray], down: int, right: int
) -> None:
    image, mask = case
    window = Window(-down - 20, -right - 20, 120, 120, 120, 120)
    around = (down + 20, 120), (right + 20, 120)
    seen, known = cut(image, mask, window)
    np.testing.assert_array_equal(seen, np.pad(image, (*around, (0, 0)), "symmetric")[:120, :120])
    np.testing.assert_array_equal(known, np.pad(mask, around, "symmetric")[:120, :120])
    result = np.zeros_like(image)
    paste(result, window, seen, ~mask[window.slices])
    np.testing.assert_array_equal(result, image * ~mask[..., None])
