"""Pairs, palette and the fits of the light: shadows cast by a known field give that field back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from guided_diffusion.shadow import palette as palettes
from guided_diffusion.shadow.edge_pairs import find_edge_pairs, space_evenly
from guided_diffusion.shadow.field import ShadowField
from guided_diffusion.shadow.fit import fit_field, grid_weights, observe
from guided_diffusion.shadow.light import blur
from guided_diffusion.shadow.palette import AXES, Palette
from guided_diffusion.shadow.relight import signed_distance
from guided_diffusion.shadow.ring_fit import fit_ring

N = 128
DOWN, RIGHT = torch.meshgrid(torch.arange(N) + 0.5, torch.arange(N) + 0.5, indexing="ij")
DISC = ((DOWN - 60).square() + (RIGHT - 66).square() < 38**2).numpy()
HALF = (RIGHT > 60).numpy()
GAIN = torch.tensor([1.5, 1.3, 1.1])


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    """Switch gradients off, as `relight` does."""
    with torch.no_grad():
        yield


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def column(*values: float) -> Tensor:
    return torch.tensor(values)[:, None, None]


def ground(red: float, green: float, blue: float, seed: int = 0, rough: float = 1.0) -> Tensor:
    """Logarithmic light (3, N, N) of one material, with texture of 0.15 and a little colour."""
    grain = 0.15 * 7 * blur(noise(N, N, seed=seed), 2.0) + 0.5 * blur(noise(3, N, N, seed=seed + 1), 3.0)
    return column(red, green, blue) + rough * grain


def known_field(slope: float = 0.0, change: Tensor | float = 0.0) -> ShadowField:
    offset = (GAIN[:, None, None] + change).expand(3, N, N)
    return ShadowField(offset, torch.full((3,), slope), torch.tensor([-2.8, -2.9, -3.0]))


def cast(lit: Tensor, shadow: np.ndarray, field: ShadowField) -> Tensor:
    return torch.where(torch.from_numpy(shadow), lit - field.gain(lit), lit)


def distance(shadow: np.ndarray) -> Tensor:
    return signed_distance(shadow, 120.0)


def fitted(lit: Tensor, shadow: np.ndarray, truth: ShadowField) -> tuple[ShadowField, Tensor]:
    """The fit to the shadow of a known field, and the error (3, M) of its gains there."""
    dark = cast(lit, shadow, truth)
    fit = fit_field(observe(dark, distance(shadow)), shadow.shape)
    return fit, (fit.umbra_gain(dark) - truth.umbra_gain(dark))[:, torch.from_numpy(shadow)]


# pairs


@pytest.mark.parametrize("slope", [0.0, -0.3])
def test_edge_pairs_on_even_ground_have_the_gain(slope: float) -> None:
    # The ground changes along the edge alone, so what faces a pixel is what lies under its shadow.
    lit = column(-1.0, -1.3, -1.7) + 0.4 * torch.sin(DOWN / 9)
    truth = known_field(slope)
    pairs = find_edge_pairs(cast(lit, HALF, truth), distance(HALF))
    assert len(pairs) > 100
    off = (pairs.gain - GAIN - slope * (pairs.dark - truth.pivot)).abs()
    assert off.mean() < 0.01 and off.max() < 0.1


def places(shadow: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns (N, 2) of the pairs of a mask: of their dark ends, their lit ends and the edge."""
    pairs = find_edge_pairs(torch.stack([DOWN, RIGHT, torch.zeros(N, N)]), distance(shadow))
    return pairs.dark[:, :2], pairs.lit[:, :2], pairs.position + 0.5


def inside(at: Tensor, shadow: np.ndarray) -> Tensor:
    return torch.from_numpy(shadow)[tuple(at.floor().long().T)]


@pytest.mark.parametrize("shadow", [DISC, ~DISC, HALF, DISC & HALF], ids=["disc", "hole", "half", "cut"])
def test_edge_pairs_face_each_other_across_the_edge(shadow: np.ndarray) -> None:
    dark, lit, place = places(shadow)
    assert len(dark) > 100
    assert inside(dark, shadow).all() and not inside(lit, shadow).any()
    assert (torch.hypot(*((dark + lit) / 2 - place).T) < 2).all()
    assert (torch.hypot(*(dark - lit).T) < 31).all()


def test_edge_pairs_stay_in_the_image_and_off_thin_shadows() -> None:
    beside_the_frame = (RIGHT < 6).numpy()  # too shallow for both ends but the nearest
    dark, lit, _ = places(beside_the_frame)
    assert inside(dark, beside_the_frame).all() and not inside(lit, beside_the_frame).any()
    wire = ((RIGHT - 64).abs() < 3).numpy()
    assert len(places(wire)[0]) == 0 and len(places(~wire)[0]) == 0
    two = (((RIGHT - 64).abs() > 6) & ((RIGHT - 64).abs() < 40)).numpy()  # 12 lit pixels between
    dark, lit, _ = places(two)
    assert inside(dark, two).all() and not inside(lit, two).any()


def test_edge_pairs_of_a_mask_without_edge_are_none() -> None:
    for shadow in (np.zeros((N, N), bool), np.ones((N, N), bool)):
        assert len(find_edge_pairs(noise(3, N, N), distance(shadow))) == 0


def test_space_evenly_is_even_and_bounded() -> None:
    assert space_evenly(0, 5).tolist() == [] and space_evenly(3, 5).tolist() == [0, 1, 2]
    indices = space_evenly(1001, 11)
    assert indices.tolist() == list(range(0, 1001, 100))


# palette


def test_palette_density_integrates_to_one() -> None:
    palette = Palette.measure(ground(-1.5, -1.6, -2.0), distance(DISC), 3.0)
    cell = ((palettes._HIGH - palettes._LOW) / torch.tensor(palette.density.shape[2:])).prod()
    assert float(palette.density.exp().sum() * cell) == pytest.approx(1, abs=0.03)


def test_palette_scores_the_scene_s_colours_highest() -> None:
    palette = Palette.measure(ground(-1.5, -1.6, -2.0, rough=0.1), distance(DISC), 3.0)
    colours = column(-1.5, -1.6, -2.0)[..., 0].T + torch.cat([torch.zeros(1, 3), noise(200, 3)])
    assert int(palette.score(colours[:, None]).argmax()) == 0


def test_palette_scores_the_right_gain_of_two_materials_best() -> None:
    # Mostly dark ground lies in the light, mostly bright ground in the shadow.
    dark, bright = ground(-2.6, -2.5, -2.4), ground(-1.2, -1.6, -2.4, seed=5)
    inside_disc = torch.from_numpy(DISC)
    lit = torch.where(torch.where(inside_disc, RIGHT < 85, RIGHT < 25), bright, dark)
    assert (
        lit[0, inside_disc].gt(-1.9).float().mean() > 0.7
        and lit[0, ~inside_disc].gt(-1.9).float().mean() < 0.3
    )
    palette = Palette.measure(lit, distance(DISC), 3.0)
    under = (lit - GAIN[:, None, None])[:, inside_disc].T[::5]
    for axis in range(3):  # brighter and darker, redder and greener, bluer and less blue
        along = torch.linalg.inv(AXES)[:, axis]
        steps = torch.linspace(-1, 1, 21) * (1.5 if axis == 0 else 0.5)
        scores = palette.score(under + (GAIN + steps[:, None] * along)[:, None])
        assert abs(float(steps[scores.argmax()])) <= 0.1, axis


def test_palette_scores_colours_beyond_its_rim() -> None:
    palette = Palette.measure(ground(-1.0, -6.2, -6.2, rough=0.1), distance(DISC), 3.0)  # nothing but red
    red, blue = palette.score(torch.tensor([[[-1.0, -6.2, -6.2]], [[-6.2, -6.2, -1.0]]]))
    assert red > blue + 1


def test_palette_without_lit_pixels_is_even() -> None:
    palette = Palette.measure(noise(3, N, N), torch.full((N, N), 50.0), 3.0)
    scores = palette.score(noise(7, 4, 3))
    assert torch.isfinite(scores).all() and torch.allclose(scores, scores[0])


# the palette fit


def scene(kind: str) -> Tensor:
    """Grounds of which the shadow holds another share than the light does."""
    base = ground(-1.3, -1.5, -1.8)
    if kind == "two materials":
        return torch.where(RIGHT > 66, ground(-2.0, -2.2, -2.3, seed=9), base)
    if kind == "yellow stripe":
        yellow = ground(-0.5, -0.7, -2.0, seed=9, rough=0.3)
        return torch.where(((RIGHT - 46).abs() < 9) & (DOWN > 36), yellow, base)
    return base


@pytest.mark.parametrize("kind", ["one ground", "two materials", "yellow stripe"])
def test_fit_field_recovers_gain_and_slope(kind: str) -> None:
    truth = known_field(slope=-0.25)
    fit, off = fitted(scene(kind), DISC, truth)
    assert off.mean(dim=1).abs().max() < 0.06
    assert off.square().mean().sqrt() < 0.08
    assert torch.allclose(fit.slope, truth.slope, atol=0.1)


def test_fit_field_recovers_a_smooth_change_of_the_light() -> None:
    change = 0.3 * (RIGHT - 66) / 38
    truth = known_field(slope=-0.17, change=change)
    _, off = fitted(ground(-1.3, -1.5, -1.8, rough=0.3), DISC, truth)
    even = change[torch.from_numpy(DISC)]
    assert off.square().mean().sqrt() < 0.6 * even.square().mean().sqrt()
    assert float((off.mean(dim=0) * even).sum() / even.square().sum()) > -0.6  # at least 40 % of it is found


def test_fit_field_is_deterministic() -> None:
    seen = observe(cast(scene("two materials"), DISC, known_field()), distance(DISC))
    first, again = (fit_field(seen, (N, N)) for _ in range(2))
    assert torch.equal(first.offset, again.offset) and torch.equal(first.slope, again.slope)


def test_fit_field_without_pairs_uses_the_scene_s_colours() -> None:
    truth, lit = known_field(slope=-0.17), ground(-1.3, -1.5, -1.8)
    dark = cast(lit, DISC, truth)
    none = find_edge_pairs(lit, distance(np.zeros((N, N), bool)))
    seen = observe(dark, distance(DISC))
    fit = fit_field(replace(seen, pairs=none, pair_weights=grid_weights(none.position, (N, N))), (N, N))
    off = (fit.umbra_gain(dark) - truth.umbra_gain(dark))[:, torch.from_numpy(DISC)]
    assert off.mean(dim=1).abs().max() < 0.15


def test_grid_weights_are_shares_of_nearby_nodes() -> None:
    at = torch.tensor([[0.0, 0.0], [31.5, 63.5], [63.0, 127.0]])
    weights = grid_weights(at, (64, 128))
    side = int(weights.shape[1] ** 0.5)
    assert torch.allclose(weights.sum(dim=1), torch.ones(3)) and (weights >= 0).all()
    by_place = weights.reshape(3, side, side)
    assert int(by_place[0].argmax()) == 0 and int(by_place[2].argmax()) == side**2 - 1
    assert torch.allclose(by_place[1], by_place[1].flip(0, 1), atol=1e-6)


# the ring fits


def test_fit_ring_recovers_a_log_affine_relation() -> None:
    # Slow changes along the edge, none across it: the rings' means lie on the very line.
    lit = column(-2.0, -2.2, -2.5) + 1.5 * torch.sin(DOWN / 40)
    truth = known_field(slope=-0.25)
    dark = cast(lit, HALF, truth)
    fit = fit_ring(dark, distance(HALF))
    assert fit is not None and torch.allclose(fit.slope, truth.slope, atol=0.02)
    off = (fit.umbra_gain(dark) - truth.umbra_gain(dark))[:, torch.from_numpy(HALF)]
    assert off.abs().max() < 0.05


def test_fit_ring_resists_outliers() -> None:
    lit = column(-2.0, -2.2, -2.5) + 1.0 * torch.sin(DOWN / 40)
    lit[:, 20:32, :60] += 2.0  # something bright lies on the lit side alone
    dark = cast(lit, HALF, known_field(slope=-0.2))
    fit = fit_ring(dark, distance(HALF))
    assert fit is not None
    off = (fit.umbra_gain(dark) - known_field(slope=-0.2).umbra_gain(dark))[:, torch.from_numpy(HALF)]
    assert off.abs().mean() < 0.05


def test_fit_ring_without_slope_is_the_rings_difference() -> None:
    dark = cast(ground(-1.3, -1.5, -1.8, rough=0.2), DISC, known_field())
    fit = fit_ring(dark, distance(DISC), slope=False)
    assert fit is not None and not fit.slope.any()
    assert torch.allclose(fit.offset[:, 0, 0], GAIN, atol=0.03)


@pytest.mark.parametrize("shadow", [np.zeros((N, N), bool), np.ones((N, N), bool)], ids=["none", "all"])
def test_fit_ring_without_two_rings_is_none(shadow: np.ndarray) -> None:
    assert fit_ring(noise(3, N, N), distance(shadow)) is None
