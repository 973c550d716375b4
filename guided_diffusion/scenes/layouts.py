"""Layouts of materials on a surface: paths, kerbs, painted lines, covers, mats, leaves and cracks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from guided_diffusion.scenes.materials import GROUNDS, WALLS, Material, draw_colour, tint_light
from guided_diffusion.scenes.textures import NoiseField, Points, edge_cover, hash_cells, line_cover

Depth = Callable[[Points], np.ndarray]
Cover = Callable[[Points], np.ndarray]
Layer = tuple[Cover, Material]

_SOFT = ("grass", "soil", "gravel")  # their edges spill over other materials
_POURED = ("asphalt", "concrete", "plaster")  # their edges need not be straight
_PAVED = (*_POURED, "slabs", "pavers", "cobbles", "bricks")  # these carry lines and lids

KINDS = (*(f"ground {name}" for name in GROUNDS), *(f"wall {name}" for name in WALLS))
NO_KIND = 255  # paint, kerbs, lids, mats, leaves


@dataclass(frozen=True)
class KindMaterial:
    """A material with its place in KINDS."""

    kind: int
    """Index into KINDS."""
    material: Material

    def __call__(self, p: Points) -> np.ndarray:
        return self.material(p)


@dataclass(frozen=True)
class Surface:
    """A plane of several materials."""

    base: Material
    layers: tuple[Layer, ...]
    """Materials over the base, the uppermost last, with their covers in [0, 1]."""
    shades: tuple[Cover, ...]
    """Factors in (0, 1] of all that."""

    def __call__(self, p: Points) -> np.ndarray:
        """Compute the linear albedo (N, 3); every material is computed only where it shows."""
        albedo = np.zeros((3, p.u.size), np.float32).T
        for share, material in self._shares(p):
            _add(albedo, share, material, p)
        for shade in self.shades:
            albedo *= shade(p)[:, None]
        return albedo

    def kinds(self, p: Points) -> np.ndarray:
        """Return the kind that covers the largest part of each point, uint8 (N,): in KINDS or NO_KIND."""
        kinds, largest = np.full(p.u.size, NO_KIND, np.uint8), np.zeros(p.u.size, np.float32)
        for share, material in self._shares(p):
            kind = material.kind if isinstance(material, KindMaterial) else NO_KIND
            kinds[share > largest] = kind
            largest = np.maximum(largest, share)
        return kinds

    def _shares(self, p: Points) -> Iterator[tuple[np.ndarray, Material]]:
        """Yield the share (N,) of each point that a material covers, the uppermost first; the sum is 1."""
        rest = np.ones(p.u.size, np.float32)
        for cover, material in reversed(self.layers):
            share = cover(p) * rest
            yield share, material
            rest -= share
        yield rest, self.base


def _add(albedo: np.ndarray, share: np.ndarray, material: Material, p: Points) -> None:
    visible = np.flatnonzero(share > 0.004)
    if visible.size == share.size:
        part = material(p)
        part *= share[:, None]
        albedo += part
    elif visible.size:
        part = material(Points(p.u.take(visible), p.v.take(visible), p.f.take(visible)))
        part *= share.take(visible)[:, None]
        albedo.T[:, visible] += part.T


def plain_material(tone: np.ndarray, grain: NoiseField, gain: float) -> Material:
    """Make a material of one colour with a little grain."""
    amount = np.float32(gain)
    return lambda p: tint_light(np.exp(np.clip(grain(p) * amount, -1, 1)), tone)


def half_plane(rng: np.random.Generator, reach: float, rough: float, axis: float | None = None) -> Depth:
    """Depth inside a half plane with a straight, wavy or ragged edge, up to `reach` from the middle."""
    angle = rng.uniform(0, 2 * np.pi) if axis is None else axis
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    offset = np.float32(rng.uniform(-reach, reach))
    wave, gain = NoiseField.draw(rng, "cloud", rng.uniform(30, 120)), np.float32(rough)
    if not rough:
        return lambda p: c * p.u + s * p.v - offset
    return lambda p: c * p.u + s * p.v - offset + gain * wave(p)


def ring_box(rng: np.random.Generator, size: float, round_shape: bool) -> Depth:
    """Depth inside a disc or a rectangle about `size` wide."""
    angle, (x, y) = rng.uniform(0, np.pi), rng.uniform(-0.35, 0.35, 2)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    w, h = np.float32(size / 2), np.float32(size / 2 * rng.uniform(0.4, 1.0))
    x, y = np.float32(x), np.float32(y)

    def depth(p: Points) -> np.ndarray:
        du, dv = p.u - x, p.v - y
        if round_shape:
            return w - np.sqrt(du * du + dv * dv)
        return np.minimum(w - np.abs(c * du + s * dv), h - np.abs(c * dv - s * du))

    return depth


def _band(depth: Depth, reach: float) -> Depth:
    """Depth inside the band within `reach` of the edge of `depth`."""
    half = np.float32(reach)
    return lambda p: half - np.abs(depth(p))


def _fray(rng: np.random.Generator, depth: Depth) -> Depth:
    """Roughen the edge of `depth` by blades, crumbs or stones that lie over it."""
    crumbs, reach = (
        NoiseField.draw(rng, "rough", rng.uniform(150, 400)),
        np.float32(rng.uniform(0.004, 0.012)),
    )
    return lambda p: depth(p) + reach * crumbs(p)


def _cover_inside(depth: Depth) -> Cover:
    return lambda p: edge_cover(depth(p), p.f)


def _stripe(depth: Depth, width: float, worn: NoiseField | None = None, wear: float = 0.0) -> Cover:
    """Draw a line of `width` along the edge of `depth`, partly worn away."""
    level = np.float32(wear)

    def cover(p: Points) -> np.ndarray:
        share = line_cover(np.abs(depth(p)), width, p.f)
        if worn is not None:
            share *= np.clip(1.6 - level + 0.7 * worn(p), 0, 1)
        return share

    return cover


def _contact(depth: Depth, width: float, strength: float) -> Cover:
    """Draw the thin dark line where two materials meet."""
    w, k = np.float32(width), np.float32(strength)

    def shade(p: Points) -> np.ndarray:
        reach = w + 0.5 * p.f
        return 1 - k * (w / reach) * np.clip(1 - np.abs(depth(p)) / reach, 0, 1)

    return shade


def _crack(rng: np.random.Generator) -> Cover:
    line = half_plane(rng, 0.3, rng.uniform(0.02, 0.08))
    width, strength = rng.uniform(0.005, 0.014), np.float32(rng.uniform(0.4, 0.8))
    broken = NoiseField.draw(rng, "cloud", 100)
    return lambda p: 1 - strength * line_cover(np.abs(line(p)), width, p.f) * np.clip(0.8 + broken(p), 0, 1)


def _blotch(rng: np.random.Generator) -> Cover:
    field = NoiseField.draw(rng, "cloud", rng.uniform(60, 220))
    level, strength = np.float32(rng.uniform(0.6, 1.5)), np.float32(rng.uniform(0.1, 0.4))
    return lambda p: 1 - strength * np.clip((field(p) - level) * 1.2, 0, 1)


def _scatter(rng: np.random.Generator) -> tuple[Cover, Material]:
    """Scatter leaves, petals or litter: at most one in each cell of a hidden grid."""
    cell = np.float32(rng.uniform(0.08, 0.3))
    share, seed = rng.uniform(0.1, 0.5), int(rng.integers(2**31))
    size = np.float32(rng.uniform(0.1, 0.26)) * cell
    tones = [(150, 100, 50), (170, 140, 60), (110, 70, 45), (200, 180, 150)]
    palette = np.stack([draw_colour(rng, tones) for _ in range(4)])

    def locate(p: Points) -> tuple[np.ndarray, ...]:
        x, y = p.u / cell, p.v / cell
        i, j = np.floor(x), np.floor(y)
        return x - i, y - j, i, j

    def cover(p: Points) -> np.ndarray:
        x, y, i, j = locate(p)
        a, b = hash_cells(i, j, seed)
        present, turn = hash_cells(i, j, seed + 1)
        grown, bend = hash_cells(i, j, seed + 3)
        dx, dy = (x - (0.3 + 0.4 * a)) * cell, (y - (0.3 + 0.4 * b)) * cell
        c, s = np.cos(turn * 6.3), np.sin(turn * 6.3)
        reach = size * (0.5 + 0.5 * grown)
        along = c * dx + s * dy
        taper = along * along / reach
        across = c * dy - s * dx + (bend - 0.5) * taper
        return edge_cover(0.45 * (reach - taper) - np.abs(across), p.f) * (present < share)

    def tint(p: Points) -> np.ndarray:
        _, _, i, j = locate(p)
        kind, tone = hash_cells(i, j, seed + 2)
        return palette[(kind * 4).astype(np.int32)] * (0.6 + 0.7 * tone)[:, None]

    return cover, tint


def _pick(rng: np.random.Generator, wall: bool) -> tuple[str, Material]:
    table = WALLS if wall else GROUNDS
    names = list(table)
    name = names[rng.integers(len(names))]
    return name, KindMaterial(KINDS.index(f"{'wall' if wall else 'ground'} {name}"), table[name](rng))


def _markings(rng: np.random.Generator) -> list[Layer]:
    """Draw a painted line, sometimes with a second that meets it at a right angle."""
    tone = draw_colour(rng, [(235, 232, 225), (230, 190, 80), (225, 175, 60), (240, 240, 235)])
    coat = plain_material(tone, NoiseField.draw(rng, "rough", 200), 0.08)
    worn = NoiseField.draw(rng, "rough", rng.uniform(150, 400))
    wear, width = rng.uniform(0.2, 1.4), rng.uniform(0.03, 0.13)
    angle = rng.uniform(0, np.pi)
    line = half_plane(rng, 0.35, 0.0, angle)
    marks = [(_stripe(line, width, worn, wear), coat)]
    if rng.random() < 0.35:
        branch, side = half_plane(rng, 0.3, 0.0, angle + np.pi / 2), _cover_inside(line)
        bar = _stripe(branch, width, worn, wear)
        marks.append((lambda p: bar(p) * side(p), coat))
    return marks


def _second(rng: np.random.Generator, name: str, wall: bool) -> tuple[list[Layer], list[Cover]]:
    """Draw a second material on the surface: half of it or a path, with kerb and contact line."""
    other, material = _pick(rng, wall)
    soft = other in _SOFT or name in _SOFT
    rough = rng.uniform(0.0, 0.03) if soft else 0.05 * rng.random() * (other in _POURED or name in _POURED)
    axis = rng.choice([np.pi / 2, np.pi / 2, 0.0]) if wall else None
    kerbed = rng.random() < 0.35
    depth = half_plane(rng, 0.3, 0.0 if kerbed else rough, axis)
    if rng.random() < 0.3:
        depth = _band(depth, rng.uniform(0.15, 0.4))
    if soft and not kerbed:
        depth = _fray(rng, depth)
    layers = [(_cover_inside(depth), material)]
    if kerbed:
        kerb = draw_colour(rng, [(180, 176, 170), (150, 146, 142), (170, 120, 100), (205, 198, 188)])
        stone = plain_material(kerb, NoiseField.draw(rng, "rough", 250), rng.uniform(0.04, 0.12))
        width = rng.uniform(0.03, 0.12)
        layers.append((_stripe(depth, width), stone))
        return layers, [_contact(_band(depth, width / 2), 0.01, rng.uniform(0.2, 0.7))]
    return layers, [_contact(depth, rng.uniform(0.006, 0.025), rng.uniform(0.0, 0.8))]


def _object(rng: np.random.Generator, name: str, wall: bool) -> tuple[list[Layer], list[Cover]]:
    """Draw a cover, a mat or a patch on (or in) the surface, or only the gap around a lid."""
    depth = ring_box(rng, rng.uniform(0.2, 0.55), not wall and rng.random() < 0.4)
    tones = [(90, 86, 84), (130, 124, 118), (70, 70, 74), (118, 96, 84), (170, 162, 150), (100, 106, 110)]
    tone = draw_colour(rng, tones)
    fill = plain_material(tone, NoiseField.draw(rng, "rough", rng.uniform(100, 300)), rng.uniform(0.05, 0.2))
    rim = _contact(depth, rng.uniform(0.008, 0.02), rng.uniform(0.3, 0.8))
    if name in _PAVED and rng.random() < 0.4:
        return [], [rim]
    return [(_cover_inside(depth), fill)], [rim]


def draw_surface(rng: np.random.Generator, wall: bool) -> Surface:
    """Draw a random ground (or wall) with its regions, objects, stains and litter."""
    name, base = _pick(rng, wall)
    layers: list[Layer] = []
    shades: list[Cover] = []
    if rng.random() < 0.62:
        layers, shades = _second(rng, name, wall)
    if name in _PAVED and rng.random() < (0.1 if wall else 0.35):
        layers = _markings(rng) + layers  # the second material lies over the paint
    if rng.random() < 0.14:
        more, rims = _object(rng, name, wall)
        layers, shades = layers + more, shades + rims
    if rng.random() < (0.05 if wall else 0.2):
        layers.append(_scatter(rng))
    if rng.random() < 0.35:
        shades.append(_blotch(rng))
    if name in _PAVED and rng.random() < 0.3:
        shades.append(_crack(rng))
    return Surface(base, tuple(layers), tuple(shades))
