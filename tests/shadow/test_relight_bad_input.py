"""Shadow removal with odd masks and images: a result, or a line that says why there is none."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from guided_diffusion.shadow import fit as fitting
from guided_diffusion.shadow import relight as relighting
from tests.helpers.relighting import LITTLE, SIZE, relight_checked, restless, scene


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a smaller working size and fewer rounds: failures show at any."""
    monkeypatch.setattr(relighting, "SIDE", 64)
    monkeypatch.setattr(fitting, "_ROUNDS", 6)


ROWS, COLUMNS = np.indices((64, 64))
FRAME = (np.minimum(ROWS, COLUMNS) < 2) | (np.maximum(ROWS, COLUMNS) > 61)
MASKS = {
    "nothing": np.zeros((64, 64), bool),
    "everything": np.ones((64, 64), bool),
    "the frame": FRAME,
    "all but the frame": ~FRAME,
    "one pixel": (ROWS == 30) & (COLUMNS == 30),
    "a corner pixel": (ROWS == 0) & (COLUMNS == 0),
    "single pixels": (ROWS % 7 == 0) & (COLUMNS % 7 == 0),
    "checkerboard": (ROWS + COLUMNS) % 2 == 0,
    "coarse checkerboard": (ROWS // 8 + COLUMNS // 8) % 2 == 0,
    "lines": ROWS % 2 == 0,
    "up to the frame": COLUMNS < 52,
    "five parts": (ROWS % 30 < 14) & (COLUMNS % 24 < 11),
}
IMAGES = {
    "grey": LITTLE.shadow.mean(axis=2, keepdims=True).repeat(3, 2).astype(np.uint8),
    "black shadow": np.where(LITTLE.mask[..., None], 0, LITTLE.shadow).astype(np.uint8),
    "white shadow": np.where(LITTLE.mask[..., None], 255, LITTLE.shadow).astype(np.uint8),
    "black beside it": np.where(LITTLE.mask[..., None], LITTLE.shadow, 0).astype(np.uint8),
    "white beside it": np.where(LITTLE.mask[..., None], LITTLE.shadow, 255).astype(np.uint8),
    "white": np.full((64, 64, 3), 255, np.uint8),
    "black": np.zeros((64, 64, 3), np.uint8),
    "even": np.full((64, 64, 3), 120, np.uint8),
    "noise": np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8),
    "red alone": LITTLE.shadow * np.array([1, 0, 0], np.uint8),
    "deep": LITTLE.shadow.astype(np.uint16) * 257,
    "deep and dim": LITTLE.shadow.astype(np.uint16),
}


@pytest.mark.parametrize("mask", MASKS)
def test_relight_with_odd_masks_gives_a_result_or_a_reason(quick: None, mask: str) -> None:
    relit = relight_checked(LITTLE.shadow, MASKS[mask])
    if mask in ("nothing", "everything", "one pixel", "a corner pixel", "checkerboard", "lines"):
        assert relit.note.endswith("left as it was")
        assert np.array_equal(relit.image, LITTLE.shadow) and not relit.matte.any()


@pytest.mark.parametrize("image", IMAGES)
def test_relight_of_odd_images_gives_a_result_or_a_reason(quick: None, image: str) -> None:
    relit = relight_checked(IMAGES[image], LITTLE.mask)
    if image in ("white shadow", "black beside it", "white", "black", "even", "deep and dim"):
        assert np.array_equal(relit.image, IMAGES[image])
    if image == "grey":
        assert not np.ptp(relit.image, axis=2).any() and (relit.image > IMAGES["grey"]).any()
        relit = relight_checked(IMAGES["grey"], LITTLE.mask, restless(), prior="diffusion", refine=True)
        assert not np.ptp(relit.image, axis=2).any()
    if image == "black shadow":
        assert "too dark to hold texture" in relit.note and relit.black.mean() > 0.8 * LITTLE.mask.mean()
    assert not (relit.black & ~LITTLE.mask).any()


@pytest.mark.parametrize("fit", ["ring", "gain"])
def test_relight_by_ring_fits_survives_odd_masks_and_images(quick: None, fit: str) -> None:
    for mask in MASKS.values():
        relight_checked(LITTLE.shadow, mask, fit=fit)
    for image in IMAGES.values():
        relight_checked(image, LITTLE.mask, fit=fit)


def test_relight_leaves_an_image_without_shadow_alone() -> None:
    disc = np.hypot(np.arange(SIZE[0])[:, None] - 36, np.arange(SIZE[1]) - 48) < 20
    for index in (1, 3):
        relit = relight_checked(scene(index).free, disc)
        assert np.array_equal(relit.image, scene(index).free) and "no shadow" in relit.note


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (1, 2), (1, 40), (40, 1), (3, 5)], ids=str)
def test_relight_of_tiny_images_gives_a_result_or_a_reason(quick: None, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for shadow in (np.arange(size[0] * size[1]).reshape(size) % 5 < 2, np.ones(size, bool)):
        relight_checked(image, shadow)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 24), st.integers(1, 24)),
    st.integers(0, 10**6),
    st.floats(0, 1),
    st.sampled_from(["palette", "palette", "ring", "gain"]),
    st.sampled_from([0.0, 0.03, 0.5, 5.0]),
    st.sampled_from(["none", "diffusion"]),
    st.booleans(),
)
@example((2, 24), 0, 0.5, "palette", 0.0, "diffusion", False)
def test_relight_survives_random_images_and_masks(
    size: tuple[int, int], seed: int, share: float, how: str, dilate: float, prior: str, refine: bool
) -> None:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(1, 6)  # coarse or fine
    coarse = rng.random((size[0] // blocks + 1, size[1] // blocks + 1))
    shadow = (coarse < share).repeat(blocks, 0).repeat(blocks, 1)[: size[0], : size[1]]
    image = rng.integers(0, 256, (*size, 3)) * rng.choice([1.0, 0.3, 0.0], (*size, 1))
    image = np.where(shadow[..., None], image * rng.random(), image).astype(np.uint8)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error")
        patch.setattr(relighting, "SIDE", 48)
        patch.setattr(fitting, "_ROUNDS", 4)
        relight_checked(image, shadow, restless(), fit=how, dilate=dilate, prior=prior, refine=refine)
