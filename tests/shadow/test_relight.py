"""Relight, image to image: procedural scenes with known truth, every size and depth, and bad input."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch

from guided_diffusion.config.shadow import RelightConfig
from guided_diffusion.denoiser import Prediction
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.images.colour import srgb_to_lab, to_linear, to_srgb
from guided_diffusion.images.masks import dilate, edge_distance
from guided_diffusion.scenes.render import Scene, render, scene_rng
from guided_diffusion.shadow import relight as relighting
from guided_diffusion.shadow.field import ShadowField
from guided_diffusion.shadow.relight import Prior, RelitImage, relight

SIZE = (72, 96)
LITTLE = render(scene_rng(1000, 0), 64)


class Restless:
    """In place of a diffusion model: a denoiser that makes everything greener and less even."""

    def __call__(self, x_t: torch.Tensor, t: int) -> Prediction:
        x0 = (x_t + torch.tensor([-0.3, 0.5, -0.3])[:, None, None]).clamp(-1, 1)
        return Prediction(x0, x_t - x0, torch.zeros_like(x0))


def restless() -> Prior:
    process = GaussianDiffusion(np.linspace(1e-4, 0.02, 10))
    return Prior(Restless(), process, 32, 8, torch.Generator().manual_seed(0))


def lifted(image: np.ndarray, shadow: np.ndarray, model: Prior | None = None, **keys: object) -> RelitImage:
    """The result, after looking whether it is one: no NaN, in range, as deep and large as the image."""
    before = image.copy()
    found = relight(image, shadow, RelightConfig(**keys), model)  # type: ignore[arg-type]
    assert np.array_equal(image, before)
    assert found.free.shape == image.shape and found.free.dtype == image.dtype
    assert found.matte.shape == shadow.shape and found.field.shape == image.shape
    assert found.matte.dtype == found.field.dtype == np.float32
    assert np.isfinite(found.field).all() and (found.field > 0).all() and (found.field <= 1).all()
    assert np.isfinite(found.matte).all() and (found.matte >= 0).all() and (found.matte <= 1).all()
    assert "\n" not in found.note and len(found.note) < 120
    still = found.matte == 0
    assert np.array_equal(found.free[still], image[still]) and (found.field[still] == 1).all()
    beyond = ~dilate(shadow, RelightConfig(**keys).reach(*shadow.shape))  # type: ignore[arg-type]
    assert not found.matte[beyond].any()
    return found


@lru_cache
def scene(index: int) -> Scene:
    return render(scene_rng(1000, index), SIZE)


@lru_cache
def result(index: int) -> RelitImage:
    return lifted(scene(index).shadow, scene(index).mask)


# against the truth


def lab_off(image: np.ndarray, truth: np.ndarray, at: np.ndarray) -> float:
    """Mean of |dL| + |da| + |db| over the pixels `at`."""
    return float(np.abs(srgb_to_lab(image) - srgb_to_lab(truth)).sum(axis=2)[at].mean())


def test_shadows_of_procedural_scenes_are_lifted() -> None:
    given_, relit = [], []
    for index in range(4):
        truth = scene(index)
        regions = (truth.mask, ~truth.mask, edge_distance(truth.mask, 3) <= 3)
        given_.append([lab_off(truth.shadow, truth.free, region) for region in regions])
        relit.append([lab_off(result(index).free, truth.free, region) for region in regions])
        assert relit[-1][0] < 0.6 * given_[-1][0]
    for (before, after), share in zip(np.mean([given_, relit], axis=1).T, (0.35, 1.05, 0.6), strict=True):
        assert after < share * before


def test_matte_and_field_are_the_scene_s() -> None:
    for index in (1, 3):
        truth, found = scene(index), result(index)
        share = 1 - truth.matte[..., None] * (1 - truth.transmission)
        assert np.abs(found.matte - truth.matte).mean() < 0.05
        assert np.abs(found.field - share)[truth.mask].mean() < 0.2 * np.abs(1 - share)[truth.mask].mean()


@pytest.mark.parametrize("fit", ["ring", "gain"])
def test_the_simpler_fits_lift_a_shadow_too(fit: str) -> None:
    truth = scene(1)
    relit = lab_off(lifted(truth.shadow, truth.mask, fit=fit).free, truth.free, truth.mask)
    assert relit < 0.6 * lab_off(truth.shadow, truth.free, truth.mask)


def test_light_that_was_divided_out_is_the_field_s() -> None:
    # Free is the image over the field, in linear light, but for clipping and rounding.
    def linear(image: np.ndarray) -> np.ndarray:
        x = image / 255
        return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)

    truth, found = scene(1), result(1)
    bright = np.minimum(linear(truth.shadow) / found.field, 1)
    encoded = np.where(bright <= 0.0031308, 12.92 * bright, 1.055 * bright ** (1 / 2.4) - 0.055)
    assert np.abs(255 * encoded - found.free).max() < 0.51


def test_what_is_asked_of_the_model_is_told_and_changes_the_result() -> None:
    costs, images = [], []
    for prior, refine in (("none", False), ("diffusion", False), ("none", True), ("diffusion", True)):
        found = lifted(LITTLE.shadow, LITTLE.mask, restless(), prior=prior, refine=refine)
        costs.append(found.nfe)
        images.append(found.free.tobytes())
    assert costs == [0, 40, 2, 42]  # the process has 10 steps, a fifth of which are 2
    assert len(set(images)) == 4


def test_thin_black_lines_are_no_darkness() -> None:
    image, shadow = np.full((60, 60, 3), 60, np.uint8), np.zeros((60, 60), bool)
    shadow[:, :50] = True
    image[10:14] = image[20:50, 4:40] = image[:, 52:] = 5

    def black(image: np.ndarray, shadow: np.ndarray) -> np.ndarray:
        return relighting.find_black(torch.from_numpy(image / 255).permute(2, 0, 1), shadow)

    expected = np.zeros_like(shadow)
    expected[19:51, 3:41] = True
    found = black(image, shadow)
    assert np.array_equal(found | expected, expected)  # the corners are rounded
    assert found.sum() >= expected.sum() - 4 * 5
    large = np.full((1024, 1024, 3), 60, np.uint8)  # where a thin line is a dozen pixels wide
    large[100:112] = large[300:800, 100:900] = 5
    found = black(large, np.ones((1024, 1024), bool))
    assert not found[:250].any() and found[320:780, 120:880].all()
    large[340:] = 60
    assert not black(large, np.ones((1024, 1024), bool)).any()  # little of the shadow


def test_a_second_shadow_is_lifted_off_the_first_result() -> None:
    """The fields multiply; what is refined is the input, once."""
    rest, asked = LITTLE.mask & (np.arange(LITTLE.mask.shape[1]) < 24), []

    def find(image: np.ndarray, within: np.ndarray) -> np.ndarray:
        asked.append((image, within))
        return rest

    dark = LITTLE.shadow.copy()
    dark[rest] = np.rint(0.55 * dark[rest])
    options = RelightConfig(prior="diffusion", refine=True)
    plain = RelightConfig(prior="diffusion")
    once = relight(dark, LITTLE.mask, plain, restless())
    twice = relight(dark, LITTLE.mask, plain, restless(), find)
    assert np.array_equal(asked[0][0], once.free) and np.array_equal(asked[0][1], LITTLE.mask)
    assert (twice.field[rest] < once.field[rest]).mean() > 0.8 and (twice.matte >= once.matte).all()
    away = ~dilate(rest, plain.reach(*rest.shape))
    assert np.array_equal(twice.field[away], once.field[away])
    before, after = (lab_off(found.free, LITTLE.free, rest) for found in (once, twice))
    assert after < before
    fine = relight(dark, LITTLE.mask, options, restless(), find)
    assert (once.nfe, twice.nfe, fine.nfe) == (40, 80, 82)
    assert np.array_equal(fine.field, twice.field) and not np.array_equal(fine.free, twice.free)
    nothing = relight(dark, LITTLE.mask, plain, restless(), lambda image, within: np.zeros_like(within))
    assert np.array_equal(nothing.free, once.free) and nothing.nfe == 40


# the same image in another form


def test_the_same_input_gives_the_same_bytes() -> None:
    again = lifted(scene(0).shadow, scene(0).mask)
    assert np.array_equal(again.free, result(0).free)
    assert np.array_equal(again.matte, result(0).matte) and np.array_equal(again.field, result(0).field)


def test_sixteen_bits_give_what_eight_do() -> None:
    deep = lifted(scene(0).shadow.astype(np.uint16) * 257, scene(0).mask)
    assert deep.free.dtype == np.uint16
    assert np.abs(deep.free / 257 - result(0).free).max() < 0.51
    assert np.allclose(deep.field, result(0).field, atol=1e-6)


def test_a_picture_twice_as_large_has_the_same_light() -> None:
    image, mask = (plane.repeat(2, axis=0).repeat(2, axis=1) for plane in (scene(1).shadow, scene(1).mask))
    field = lifted(image, mask).field.reshape(SIZE[0], 2, SIZE[1], 2, 3).mean(axis=(1, 3))
    assert np.abs(field - result(1).field).mean() < 0.02
    assert np.abs(field - result(1).field)[scene(1).mask].mean() < 0.03


def test_a_mirrored_picture_has_the_mirrored_light() -> None:
    mirrored = lifted(scene(1).shadow[:, ::-1].copy(), scene(1).mask[:, ::-1].copy())
    assert np.abs(mirrored.field[:, ::-1] - result(1).field).mean() < 0.02


@pytest.mark.parametrize("size", [(61, 97), (16, 16), (40, 1200), (1200, 40)], ids=str)
def test_any_size_is_lifted(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    monkeypatch.setattr(relighting, "SIDE", 128)
    rows, columns = np.indices(size)
    rng = np.random.default_rng(0)
    free = np.clip(rng.normal(170, 6, (*size, 1)) + [0, -15, -40], 0, 255)
    shadow = (np.abs(rows / size[0] - 0.5) < 0.25) & (np.abs(columns / size[1] - 0.5) < 0.25)
    dark = np.where(shadow[..., None], 0.55 * free, free).round().astype(np.uint8)
    found = lifted(dark, shadow)
    assert found.note == ""
    assert np.abs(found.free - free)[shadow].mean() < 0.3 * np.abs(dark - free)[shadow].mean()


def test_strips_are_parts_of_the_whole() -> None:
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


def test_a_small_shadow_is_seen_from_near() -> None:
    truth = scene(1)
    edges = [(2 * side, 5 * side) for side in SIZE]
    image = np.pad(truth.free, [*edges, (0, 0)], mode="reflect")
    shadow = np.pad(truth.mask, edges)
    place = tuple(slice(2 * side, 3 * side) for side in SIZE)
    image[place] = truth.shadow
    found = lifted(image, shadow)
    before = lab_off(image[place], truth.free, truth.mask)
    assert lab_off(found.free[place], truth.free, truth.mask) < 0.35 * before
    reach = RelightConfig().reach(*shadow.shape)
    window = relighting.find_surroundings(shadow, reach)
    small = shadow[window]
    assert small.size < shadow.size / 2
    near = lifted(image[window], small, dilate=reach / min(small.shape))
    for whole, part in ((found.free, near.free), (found.matte, near.matte), (found.field, near.field)):
        assert np.array_equal(whole[window], part)
