"""Procedural materials of grounds and walls: they draw their parameters once, then colour any points.

A material maps `Points` (surface coordinates and pixel footprint) to linear albedo (N, 3), float32. All
randomness comes from the drawn parameters, from noise tiles and from hashed cells, so the same material is
the same at every image size. One surface unit is about one image width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from guided_diffusion.images.colour import to_linear
from guided_diffusion.scenes.patterns import Pattern, grid_pattern, herringbone_pattern, hexagon_pattern
from guided_diffusion.scenes.textures import NoiseField, Points, hash_cells, line_cover

Material = Callable[[Points], np.ndarray]


def draw_colour(
    rng: np.random.Generator, choices: Sequence[tuple[int, int, int]], spread: float = 10.0
) -> np.ndarray:
    """Draw a linear albedo (3,) near one of `choices` (sRGB, 0..255); `spread` is in levels."""
    base = np.asarray(choices[int(rng.integers(len(choices)))], dtype=np.float64)
    moved = base + rng.normal(0, spread) + rng.normal(0, spread / 3, 3)
    return to_linear(np.clip(moved, 8, 250) / 255).astype(np.float32)


def tint_light(light: np.ndarray, tone: np.ndarray) -> np.ndarray:
    """Multiply `light` (N,) by one `tone` (3,): colour (N, 3)."""
    return np.multiply.outer(tone, light).T


def blend_tones(light: np.ndarray, base: np.ndarray, mix: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Multiply `light` (N,) by a blend from `base` to `other` (3,) by `mix` (N,): colour (N, 3).

    The result lies in memory plane by plane, as all colours here, which is several times faster.
    """
    blend = tint_light(mix, other - base)
    blend += base
    blend *= light[:, None]
    return blend


def _soft_exp(x: np.ndarray) -> np.ndarray:
    return np.exp(np.clip(x, -2.5, 1.2))


def _block_material(
    rng: np.random.Generator,
    pattern: Pattern,
    extent: tuple[float, float],
    base: np.ndarray,
    joint: np.ndarray,
    width: float,
    spread: float,
    other: np.ndarray,
    warp: float = 0.0,
) -> Material:
    """Make a material of blocks, every one with its tone and tint, with joints, wear and stains.

    Args:
        rng: source of the parameters.
        pattern: which block a point lies in.
        extent: width and height of a block, surface units.
        base, joint: linear albedo of the blocks and of the joints, (3,).
        width: of the joints, surface units.
        spread: of the blocks' tones, in log albedo.
        other: linear albedo towards which blocks are tinted, (3,).
        warp: by what share of a block the joints are bent.
    """
    cell = min(extent)
    joints = np.float32(1 - (1 - width / extent[0]) * (1 - width / extent[1]))
    seed = int(rng.integers(2**31))
    dirt = NoiseField.draw(rng, "cloud", rng.uniform(60, 200))
    grain = NoiseField.draw(rng, "grain", rng.uniform(150, 400))
    bend = NoiseField.draw(rng, "cloud", 40 / cell)
    dirt_gain, grain_gain = np.float32(rng.uniform(0.02, 0.1)), np.float32(rng.uniform(0.03, 0.13))
    odd, bevel = rng.uniform(0.0, 0.12), np.float32(rng.uniform(0, 0.25))
    tint = np.float32(rng.uniform(0.2, 1.0))

    def shade(p: Points) -> np.ndarray:
        stain, q = dirt(p), p
        if warp:
            shift = bend(p) * np.float32(warp * cell)
            q = Points(p.u + shift, p.v - shift, p.f)
        column, row, gap = pattern(q)
        tone, hue = hash_cells(column, row, seed)
        fade = np.clip(np.float32(1.6) - p.f / np.float32(cell * 0.5), 0, 1)
        light = (tone - 0.5) * np.float32(2 * spread) - (hue < odd) * np.float32(2.0 * spread)
        light = light * fade + stain * dirt_gain + grain(p) * grain_gain
        light -= bevel * np.clip(1 - gap / np.float32(max(3 * width, 0.06 * cell)), 0, 1)
        brick = blend_tones(_soft_exp(light), base, hue * tint * fade + (1 - fade) * 0.5 * tint, other)
        cover = line_cover(gap, width, p.f) * fade + joints * (1 - fade)
        brick += cover[:, None] * (tint_light(_soft_exp(stain * dirt_gain), joint) - brick)
        return brick

    return shade


_STONES = [
    (170, 160, 148),
    (150, 148, 145),
    (190, 172, 150),
    (208, 178, 142),
    (168, 140, 120),
    (128, 126, 124),
]
_CONCRETE = [
    (186, 174, 158),
    (170, 166, 160),
    (200, 176, 150),
    (214, 184, 156),
    (150, 148, 146),
    (204, 166, 138),
]
_MORTAR = [(190, 182, 170), (165, 155, 145), (120, 112, 105), (205, 195, 180)]
_CLAY = [(160, 82, 66), (150, 72, 58), (176, 104, 80), (132, 70, 60), (186, 124, 92)]


def slabs(rng: np.random.Generator) -> Material:
    """Draw large paving slabs with thin joints, mostly dark."""
    w = rng.uniform(0.22, 0.7)
    h = w * rng.choice([1.0, 1.0, 0.66, 0.5])
    base, other = draw_colour(rng, _STONES), draw_colour(rng, _STONES)
    joint = base * rng.choice([0.35, 0.5, 0.65, 1.3], p=[0.35, 0.3, 0.2, 0.15]).astype(np.float32)
    pattern = grid_pattern(rng, w, h, rng.choice([0.0, 0.0, 0.5, 0.37]))
    mix = base + (other - base) * np.float32(rng.uniform(0, 0.5))
    return _block_material(
        rng, pattern, (w, h), base, joint, rng.uniform(0.008, 0.022), rng.uniform(0.02, 0.14), mix
    )


def pavers(rng: np.random.Generator) -> Material:
    """Draw small concrete or clay pavers: herringbone, hexagons, running bond or stack bond."""
    side = rng.uniform(0.07, 0.2)
    base, other = (draw_colour(rng, _STONES + _CLAY) for _ in range(2))
    joint = base * np.float32(rng.uniform(0.5, 0.85))
    style, extent = rng.integers(4), (2 * side, side)
    if style == 0:
        pattern = herringbone_pattern(rng, side)
    elif style == 1:
        side *= 1.4
        extent = (side, side)
        pattern = hexagon_pattern(rng, side)
    else:
        extent = (2 * side if style == 2 else side, side)
        pattern = grid_pattern(rng, *extent, 0.5 if style == 2 else 0.0)
    mix = base + (other - base) * np.float32(rng.uniform(0, 0.5))
    return _block_material(
        rng, pattern, extent, base, joint, side * rng.uniform(0.06, 0.13), rng.uniform(0.04, 0.15), mix
    )


def cobbles(rng: np.random.Generator) -> Material:
    """Draw cobblestones: uneven rows with wide, dark joints."""
    side = rng.uniform(0.08, 0.18)
    base = draw_colour(rng, [(120, 116, 112), (140, 130, 120), (105, 105, 110), (150, 138, 122)])
    other = draw_colour(rng, [(150, 130, 110), (100, 100, 108), (140, 140, 140)])
    joint = base * np.float32(rng.uniform(0.5, 0.75))
    extent = (side * rng.uniform(1.0, 1.4), side)
    pattern = grid_pattern(rng, *extent, rng.uniform(0.3, 0.6))
    width = side * rng.uniform(0.12, 0.22)
    return _block_material(
        rng, pattern, extent, base, joint, width, rng.uniform(0.06, 0.16), other, rng.uniform(0.04, 0.1)
    )


def tiles(rng: np.random.Generator) -> Material:
    """Draw ceramic tiles: even colour or a chequer-like mix, light or dark grout."""
    side = rng.uniform(0.1, 0.32)
    base = draw_colour(
        rng, [(215, 208, 196), (190, 150, 120), (150, 165, 170), (200, 190, 165), (110, 90, 80)], 14
    )
    other = draw_colour(rng, [(215, 208, 196), (180, 120, 90), (120, 120, 120)], 14)
    joint = base * rng.choice([0.4, 0.6, 1.5]).astype(np.float32)
    extent = (side * float(rng.choice([1.0, 1.0, 2.0])), side)
    pattern = grid_pattern(rng, *extent, rng.choice([0.0, 0.0, 0.5]))
    mix = base + (other - base) * np.float32(rng.uniform(0, 0.35))
    return _block_material(
        rng, pattern, extent, base, joint, side * rng.uniform(0.03, 0.08), rng.uniform(0.01, 0.1), mix
    )


def bricks(rng: np.random.Generator) -> Material:
    """Draw a brick wall in running bond with mortar."""
    h = rng.uniform(0.055, 0.16)
    w = h * rng.uniform(2.2, 3.4)
    base = draw_colour(rng, _CLAY + [(190, 160, 130)])
    other = draw_colour(rng, _CLAY + [(120, 80, 70), (200, 150, 110)])
    joint = base + np.float32(0.65) * (draw_colour(rng, _MORTAR) - base)
    pattern = grid_pattern(rng, w, h, rng.choice([0.5, 0.5, 0.5, 0.33]))
    return _block_material(
        rng, pattern, (w, h), base, joint, h * rng.uniform(0.09, 0.17), rng.uniform(0.04, 0.18), other
    )


def planks(rng: np.random.Generator) -> Material:
    """Draw wooden boards with grain along them, as decking or cladding."""
    h = rng.uniform(0.07, 0.22)
    base = draw_colour(rng, [(150, 112, 78), (120, 92, 70), (172, 136, 96), (140, 132, 122), (105, 75, 55)])
    other = base * np.float32(rng.uniform(0.55, 0.8))
    extent = (rng.uniform(1.0, 3.0), h)
    pattern = grid_pattern(rng, *extent, 0.37)
    boards = _block_material(
        rng, pattern, extent, base, base * np.float32(0.25), h * rng.uniform(0.03, 0.08), 0.08, other
    )
    grain = NoiseField.draw(rng, "rough", rng.uniform(10, 25), rng.uniform(200, 400))
    gain = np.float32(rng.uniform(0.03, 0.11))
    return lambda p: boards(p) * _soft_exp(grain(p) * gain)[:, None]


def _speckled_material(
    rng: np.random.Generator,
    base: np.ndarray,
    other: np.ndarray,
    layers: list[tuple[str, float, float]],
    mix: float,
) -> Material:
    """Make unstructured ground: `layers` of (tile, texels per unit, log amplitude), tinted to `other`."""
    fields = [(NoiseField.draw(rng, kind, scale), np.float32(gain)) for kind, scale, gain in layers]
    tint = NoiseField.draw(rng, "cloud", rng.uniform(60, 160))
    amount = np.float32(mix)

    def shade(p: Points) -> np.ndarray:
        light = fields[0][0](p) * fields[0][1]
        for field, gain in fields[1:]:
            light += field(p) * gain
        return blend_tones(_soft_exp(light), base, np.clip(0.3 + 0.4 * tint(p), 0, 1) * amount, other)

    return shade


def grass(rng: np.random.Generator) -> Material:
    """Draw a lawn: blades, tufts and dry or bare patches."""
    base = draw_colour(rng, [(72, 86, 46), (86, 100, 58), (60, 76, 44), (100, 106, 66)])
    other = draw_colour(rng, [(128, 118, 80), (98, 104, 62), (66, 82, 48), (140, 124, 92)])
    scale = rng.uniform(200, 450)
    layers = [
        ("blades", scale, rng.uniform(0.2, 0.4)),
        ("cloud", rng.uniform(80, 200), rng.uniform(0.05, 0.25)),
    ]
    return _speckled_material(
        rng, base, other, [*layers, ("rough", scale, rng.uniform(0.1, 0.3))], rng.uniform(0.3, 1.0)
    )


def gravel(rng: np.random.Generator) -> Material:
    """Draw pebbles of several sizes."""
    base = draw_colour(rng, [(150, 142, 132), (170, 156, 136), (128, 124, 120)])
    other = draw_colour(rng, [(120, 108, 98), (186, 172, 150), (140, 130, 126)])
    scale = rng.uniform(200, 520)
    layers = [
        ("pebbles", scale, rng.uniform(0.1, 0.22)),
        ("pebbles", 1.9 * scale, 0.15),
        ("rough", 100, 0.1),
    ]
    return _speckled_material(rng, base, other, layers, rng.uniform(0.3, 1.0))


def asphalt(rng: np.random.Generator) -> Material:
    """Draw asphalt: fine grain, worn patches."""
    base = draw_colour(rng, [(96, 96, 98), (118, 116, 116), (80, 82, 86), (134, 130, 128)])
    other = draw_colour(rng, [(120, 116, 112), (96, 94, 96)])
    layers = [
        ("grain", rng.uniform(180, 420), rng.uniform(0.16, 0.4)),
        ("cloud", rng.uniform(40, 150), 0.05),
    ]
    return _speckled_material(rng, base, other, layers, rng.uniform(0.1, 0.5))


def concrete(rng: np.random.Generator) -> Material:
    """Draw concrete: pale, with faint clouds and pores."""
    base = draw_colour(rng, _CONCRETE)
    other = base * (1 + rng.normal(0, 0.09) + rng.normal(0, 0.03, 3)).astype(np.float32)
    layers = [
        ("cloud", rng.uniform(50, 200), rng.uniform(0.02, 0.08)),
        ("grain", rng.uniform(150, 420), rng.uniform(0.08, 0.25)),
        ("rough", rng.uniform(80, 300), rng.uniform(0.02, 0.08)),
    ]
    return _speckled_material(rng, base, other, layers, rng.uniform(0.2, 0.7))


def soil(rng: np.random.Generator) -> Material:
    """Draw soil or sand, with clods and tracks."""
    base = draw_colour(rng, [(140, 112, 84), (112, 90, 70), (186, 160, 124), (200, 178, 142)])
    other = draw_colour(rng, [(120, 100, 76), (170, 146, 112)])
    layers = [
        ("rough", rng.uniform(100, 300), rng.uniform(0.08, 0.2)),
        ("cloud", 100, rng.uniform(0.03, 0.12)),
    ]
    return _speckled_material(
        rng, base, other, [*layers, ("pebbles", rng.uniform(200, 400), 0.15)], rng.uniform(0.2, 0.8)
    )


def plaster(rng: np.random.Generator) -> Material:
    """Draw painted or raw plaster, with stains that run downwards."""
    base = draw_colour(
        rng, [(215, 205, 185), (200, 170, 120), (190, 190, 188), (205, 160, 130), (160, 175, 180)], 14
    )
    other = base * (1 - np.abs(rng.normal(0, 0.25, 3))).astype(np.float32)
    wall = _speckled_material(
        rng,
        base,
        other,
        [("cloud", rng.uniform(40, 150), rng.uniform(0.02, 0.07)), ("grain", rng.uniform(150, 400), 0.08)],
        rng.uniform(0.1, 0.8),
    )
    runs = NoiseField.draw(rng, "cloud", rng.uniform(120, 240), rng.uniform(10, 30))
    gain = np.float32(rng.uniform(0, 0.12))
    return lambda p: wall(p) * _soft_exp(np.minimum(runs(p), 0) * gain)[:, None]


GROUNDS: dict[str, Callable[[np.random.Generator], Material]] = {
    "slabs": slabs,
    "pavers": pavers,
    "cobbles": cobbles,
    "tiles": tiles,
    "planks": planks,
    "grass": grass,
    "gravel": gravel,
    "asphalt": asphalt,
    "concrete": concrete,
    "soil": soil,
}
WALLS: dict[str, Callable[[np.random.Generator], Material]] = {
    "bricks": bricks,
    "plaster": plaster,
    "planks": planks,
    "tiles": tiles,
    "concrete": concrete,
    "slabs": slabs,
}
