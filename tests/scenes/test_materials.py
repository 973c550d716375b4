"""Textures and materials: band limits, patterns and hashing."""

from __future__ import annotations

import numpy as np
import pytest

from guided_diffusion.scenes.materials import GROUNDS, WALLS
from guided_diffusion.scenes.patterns import grid_pattern, herringbone_pattern, hexagon_pattern
from guided_diffusion.scenes.textures import NoiseField, Points, edge_cover, hash_cells, line_cover


def _points(n: int, pixel: float, extent: float = 1.0) -> Points:
    axis = ((np.arange(n) + 0.5) / n * extent).astype(np.float32)
    u, v = np.meshgrid(axis, axis)
    return Points(u.ravel(), v.ravel(), np.full(n * n, pixel, np.float32))


@pytest.mark.parametrize("kind", ["smooth", "cloud", "rough", "grain", "blades", "pebbles"])
def test_noise_field_is_standard_and_fades_with_the_footprint(kind: str) -> None:
    noise = NoiseField.draw(np.random.default_rng(0), kind, 512.0)
    fine, coarse = noise(_points(256, 1 / 512)), noise(_points(256, 64 / 512))
    assert fine.dtype == np.float32
    assert fine.mean() == pytest.approx(0, abs=0.1) and 0.5 < fine.std() < 1.2
    if kind in ("grain", "rough", "pebbles"):
        assert coarse.std() < 0.3 * fine.std()


def test_noise_field_with_levels_per_point_agrees_with_a_single_level() -> None:
    noise = NoiseField.draw(np.random.default_rng(1), "rough", 300.0)
    points = _points(32, 1 / 64)
    feet = np.where(np.arange(points.f.size) % 2, points.f, points.f * 8).astype(np.float32)
    mixed = noise(Points(points.u, points.v, feet))
    assert np.allclose(mixed[1::2], noise(points)[1::2], atol=1e-4)
    assert np.allclose(mixed[::2], noise(Points(points.u, points.v, points.f * 8))[::2], atol=1e-4)


def test_hash_cells_is_uniform_and_uncorrelated() -> None:
    i, j = np.meshgrid(np.arange(-100, 100.0), np.arange(-100, 100.0))
    a, b = hash_cells(i.ravel(), j.ravel(), 5)
    for values in (a, b):
        assert values.min() >= 0 and values.max() < 1
        assert np.abs(np.histogram(values, 10, (0, 1))[0] / values.size - 0.1).max() < 0.01
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.02
    assert abs(np.corrcoef(a[:-1], a[1:])[0, 1]) < 0.02
    assert not np.array_equal(a, hash_cells(i.ravel(), j.ravel(), 6)[0])


def test_covers_integrate_to_the_width_at_any_pixel_size() -> None:
    x = np.linspace(-1, 1, 20001, dtype=np.float32)
    for pixel in (0.003, 0.05, 0.3):
        foot = np.full_like(x, pixel)
        assert line_cover(np.abs(x), 0.1, foot).mean() * 2 == pytest.approx(0.1, rel=0.01)
        assert edge_cover(x, foot).mean() == pytest.approx(0.5, abs=0.001)


@pytest.mark.parametrize(
    ("make", "area"),
    [
        (lambda r: grid_pattern(r, 0.2, 0.1, 0.5), 0.02),
        (lambda r: herringbone_pattern(r, 0.1), 0.02),
        (lambda r: hexagon_pattern(r, 0.1), 0.01 * 3**0.5 / 2),
    ],
)
def test_patterns_have_cells_of_equal_area_and_joints_between_them(make, area: float) -> None:
    points = _points(700, 1 / 350, 2.0)
    column, row, gap = make(np.random.default_rng(2))(points)
    _, counts = np.unique(np.stack([column, row], 1), axis=0, return_counts=True)
    whole = counts[counts > 0.9 * np.median(counts)]
    assert np.median(whole) * (2 / 700) ** 2 == pytest.approx(area, rel=0.03)
    assert gap.min() >= -1e-5
    # Neighbours of another cell are seen only near a joint.
    column, row, gap = (e.reshape(700, 700) for e in (column, row, gap))
    changed = (column[:, 1:] != column[:, :-1]) | (row[:, 1:] != row[:, :-1])
    assert changed.any() and gap[:, 1:][changed].max() < 2.1 * 2 / 700


@pytest.mark.parametrize("name", sorted({**GROUNDS, **WALLS}))
def test_materials_are_fixed_finite_and_lose_detail_far_away(name: str) -> None:
    make = {**GROUNDS, **WALLS}[name]
    first, again = (make(np.random.default_rng(3)) for _ in range(2))
    near = _points(64, 1 / 128)
    albedo = first(near)
    assert albedo.shape == (64 * 64, 3) and albedo.dtype == np.float32
    assert np.array_equal(albedo, again(near))
    assert np.isfinite(albedo).all() and albedo.min() >= 0 and albedo.max() < 3.5
    far = first(Points(near.u, near.v, np.full_like(near.f, 0.5)))
    assert far.std(axis=0).mean() < 0.8 * albedo.std(axis=0).mean()
    assert np.allclose(far.mean(axis=0), albedo.mean(axis=0), rtol=0.3)
