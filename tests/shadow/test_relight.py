"""Shadow removal, image to image: procedural scenes with ground truth, every size and depth."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch

from guided_diffusion.config.shadow import RelightConfig
from guided_diffusion.images.colour import srgb_to_lab, to_linear, to_srgb
from guided_diffusion.images.masks import dilate, edge_distance
from guided_diffusion.shadow import relight as relighting
from guided_diffusion.shadow.field import ShadowField
from guided_diffusion.shadow.relight import RelitImage, relight
from tests.helpers.relighting import LITTLE, SIZE, relight_checked, restless, scene


@lru_cache
def result(index: int) -> RelitImage:
    return relight_checked(scene(index).shadow, scene(index).mask)


# against the ground truth


def lab_off(image: np.ndarray, truth: np.ndarray, at: np.ndarray) -> float:
    """Mean of |dL| + |da| + |db| over the pixels `at`."""
    return float(np.abs(srgb_to_lab(image) - srgb_to_lab(truth)).sum(axis=2)[at].mean())


def test_relight_removes_shadows_of_procedural_scenes() -> None:
    dark_error, relit = [], []
    for index in range(4):
        truth = scene(index)
        regions = (truth.mask, ~truth.mask, edge_distance(truth.mask, 3) <= 3)
        dark_error.append([lab_off(truth.shadow, truth.free, region) for region in regions])
        relit.append([lab_off(result(index).image, truth.free, region) for region in regions])
        assert relit[-1][0] < 0.6 * dark_error[-1][0]
    for (before, after), share in zip(np.mean([dark_error, relit], axis=1).T, (0.35, 1.05, 0.6), strict=True):
        assert after < share * before


def test_relight_finds_matte_and_transmission() -> None:
    for index in (1, 3):
        truth, relit = scene(index), result(index)
        share = 1 - truth.matte[..., None] * (1 - truth.transmission)
        assert np.abs(relit.matte - truth.matte).mean() < 0.05
        assert (
            np.abs(relit.transmission - share)[truth.mask].mean() < 0.2 * np.abs(1 - share)[truth.mask].mean()
        )


@pytest.mark.parametrize("fit", ["ring", "gain"])
def test_relight_by_the_simpler_fits_removes_a_shadow(fit: str) -> None:
    truth = scene(1)
    relit = lab_off(relight_checked(truth.shadow, truth.mask, fit=fit).image, truth.free, truth.mask)
    assert relit < 0.6 * lab_off(truth.shadow, truth.free, truth.mask)


def test_relight_divides_by_the_transmission() -> None:
    # Free is the image over the field, in linear light, but for clipping and rounding.
    def linear(image: np.ndarray) -> np.ndarray:
        x = image / 255
        return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)

    truth, relit = scene(1), result(1)
    bright = np.minimum(linear(truth.shadow) / relit.transmission, 1)
    encoded = np.where(bright <= 0.0031308, 12.92 * bright, 1.055 * bright ** (1 / 2.4) - 0.055)
    assert np.abs(255 * encoded - relit.image).max() < 0.51


def test_relight_counts_the_nfe_that_change_the_result() -> None:
    costs, images = [], []
    for prior, refine in (("none", False), ("diffusion", False), ("none", True), ("diffusion", True)):
        relit = relight_checked(LITTLE.shadow, LITTLE.mask, restless(), prior=prior, refine=refine)
        costs.append(relit.nfe)
        images.append(relit.image.tobytes())
    assert costs == [0, 40, 2, 42]  # the process has 10 steps, a fifth of which are 2
    assert len(set(images)) == 4


def test_find_black_ignores_thin_lines() -> None:
    image, shadow = np.full((60, 60, 3), 60, np.uint8), np.zeros((60, 60), bool)
    shadow[:, :50] = True
    image[10:14] = image[20:50, 4:40] = image[:, 52:] = 5

    def black(image: np.ndarray, shadow: np.ndarray) -> np.ndarray:
        return relighting.find_black(torch.from_numpy(image / 255).permute(2, 0, 1), shadow)

    expected = np.zeros_like(shadow)
    expected[19:51, 3:41] = True
    relit = black(image, shadow)
    assert np.array_equal(relit | expected, expected)  # the corners are rounded
    assert relit.sum() >= expected.sum() - 4 * 5
    large = np.full((1024, 1024, 3), 60, np.uint8)  # where a thin line is a dozen pixels wide
    large[100:112] = large[300:800, 100:900] = 5
    relit = black(large, np.ones((1024, 1024), bool))
    assert not relit[:250].any() and relit[320:780, 120:880].all()
    large[340:] = 60
    assert not black(large, np.ones((1024, 1024), bool)).any()  # little of the shadow


@pytest.mark.slow
def test_relight_removes_a_second_shadow_from_the_first_result() -> None:
    """The fields multiply; what is refined is the input, once."""
    rest, asked = LITTLE.mask & (np.arange(LITTLE.mask.shape[1]) < 24), []

    def find_second(image: np.ndarray, shadow: np.ndarray) -> np.ndarray:
        asked.append((image, shadow))
        return rest

    dark = LITTLE.shadow.copy()
    dark[rest] = np.rint(0.55 * dark[rest])
    options = RelightConfig(prior="diffusion", refine=True)
    plain = RelightConfig(prior="diffusion")
    once = relight(dark, LITTLE.mask, plain, restless())
    twice = relight(dark, LITTLE.mask, plain, restless(), find_second)
    assert np.array_equal(asked[0][0], once.image) and np.array_equal(asked[0][1], LITTLE.mask)
    assert (twice.transmission[rest] < once.transmission[rest]).mean() > 0.8 and (
        twice.matte >= once.matte
    ).all()
    away = ~dilate(rest, plain.reach(*rest.shape))
    assert np.array_equal(twice.transmission[away], once.transmission[away])
    before, after = (lab_off(relit.image, LITTLE.free, rest) for relit in (once, twice))
    assert after < before
    fine = relight(dark, LITTLE.mask, options, restless(), find_second)
    assert (once.nfe, twice.nfe, fine.nfe) == (40, 80, 82)
    assert np.array_equal(fine.transmission, twice.transmission) and not np.array_equal(
        fine.image, twice.image
    )
    nothing = relight(dark, LITTLE.mask, plain, restless(), lambda image, shadow: np.zeros_like(shadow))
    assert np.array_equal(nothing.image, once.image) and nothing.nfe == 40


# the same image in another form


def test_relight_is_deterministic() -> None:
    again = relight_checked(scene(0).shadow, scene(0).mask)
    assert np.array_equal(again.image, result(0).image)
    assert np.array_equal(again.matte, result(0).matte) and np.array_equal(
        again.transmission, result(0).transmission
    )


def test_relight_of_16_bits_equals_that_of_8() -> None:
    deep = relight_checked(scene(0).shadow.astype(np.uint16) * 257, scene(0).mask)
    assert deep.image.dtype == np.uint16
    assert np.abs(deep.image / 257 - result(0).image).max() < 0.51
    assert np.allclose(deep.transmission, result(0).transmission, atol=1e-6)


def test_relight_of_an_image_twice_as_large_finds_the_same_light() -> None:
    image, mask = (plane.repeat(2, axis=0).repeat(2, axis=1) for plane in (scene(1).shadow, scene(1).mask))
    field = relight_checked(image, mask).transmission.reshape(SIZE[0], 2, SIZE[1], 2, 3).mean(axis=(1, 3))
    assert np.abs(field - result(1).transmission).mean() < 0.02
    assert np.abs(field - result(1).transmission)[scene(1).mask].mean() < 0.03


def test_relight_of_a_mirrored_image_is_mirrored() -> None:
    mirrored = relight_checked(scene(1).shadow[:, ::-1].copy(), scene(1).mask[:, ::-1].copy())
    assert np.abs(mirrored.transmission[:, ::-1] - result(1).transmission).mean() < 0.02


@pytest.mark.parametrize("size", [(61, 97), (16, 16), (40, 1200), (1200, 40)], ids=str)
def test_relight_accepts_any_size(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    monkeypatch.setattr(relighting, "SIDE", 128)
    rows, columns = np.indices(size)
    rng = np.random.default_rng(0)
    free = np.clip(rng.normal(170, 6, (*size, 1)) + [0, -15, -40], 0, 255)
    shadow = (np.abs(rows / size[0] - 0.5) < 0.25) & (np.abs(columns / size[1] - 0.5) < 0.25)
    dark = np.where(shadow[..., None], 0.55 * free, free).round().astype(np.uint8)
    relit = relight_checked(dark, shadow)
    assert relit.note == ""
    assert np.abs(relit.image - free)[shadow].mean() < 0.3 * np.abs(dark - free)[shadow].mean()


def test_divide_by_strips_equals_the_whole() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (150, 40, 3), dtype=np.uint8)
    matte, offset = (torch.from_numpy(rng.random(size)).float() for size in ((150, 40), (3, 150, 40)))
    field = ShadowField(offset, torch.tensor([-0.2, 0.1, 0.0]), torch.zeros(3))
    srgb = torch.from_numpy(image / 255).float().permute(2, 0, 1)
    free, through = relighting._divide(image, srgb, field, matte)
    whole = field.transmission(to_linear(srgb), matte)
    assert np.allclose(through, whole.permute(1, 2, 0), atol=1e-6)
    expected = 255 * to_srgb(to_linear(srgb) / whole).permute(1, 2, 0).numpy()
    assert np.abs(free - expected).max() < 0.501


# a shadow in a far larger image


def test_relight_of_a_small_shadow_uses_its_surroundings() -> None:
    truth = scene(1)
    edges = [(2 * side, 5 * side) for side in SIZE]
    image = np.pad(truth.free, [*edges, (0, 0)], mode="reflect")
    shadow = np.pad(truth.mask, edges)
    place = tuple(slice(2 * side, 3 * side) for side in SIZE)
    image[place] = truth.shadow
    relit = relight_checked(image, shadow)
    before = lab_off(image[place], truth.free, truth.mask)
    assert lab_off(relit.image[place], truth.free, truth.mask) < 0.35 * before
    reach = RelightConfig().reach(*shadow.shape)
    window = relighting.find_surroundings(shadow, reach)
    small = shadow[window]
    assert small.size < shadow.size / 2
    near = relight_checked(image[window], small, dilate=reach / min(small.shape))
    for whole, part in (
        (relit.image, near.image),
        (relit.matte, near.matte),
        (relit.transmission, near.transmission),
    ):
        assert np.array_equal(whole[window], part)
