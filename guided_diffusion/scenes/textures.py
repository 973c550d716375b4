"""Mip-mapped noise tiles: the random fields that make up all procedural materials.

A tile is a periodic image with zero mean and unit variance. Looking it up at the level of detail that
fits the pixel footprint keeps every field band-limited (Williams, "Pyramidal parametrics", 1983), so a
scene is the same at every image size and shows no moire.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

TILE = 512
_LEVELS = 8


@dataclass(frozen=True)
class Points:
    """N points of a surface, all in surface units, float32."""

    u: np.ndarray
    """First coordinate, (N,)."""
    v: np.ndarray
    """Second coordinate, (N,)."""
    f: np.ndarray
    """Footprint of the pixel, (N,)."""


def _coloured_noise(
    rng: np.random.Generator, exponent: float, stretch: float = 1.0, angle: float = 0.0
) -> np.ndarray:
    """Draw periodic Gaussian noise with amplitude spectrum |k|^-exponent, stretched along `angle`."""
    ky, kx = np.meshgrid(np.fft.fftfreq(TILE), np.fft.rfftfreq(TILE), indexing="ij")
    along, across = kx * np.cos(angle) + ky * np.sin(angle), ky * np.cos(angle) - kx * np.sin(angle)
    radius = np.hypot(along * stretch, across)
    radius[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((TILE, TILE)))
    return np.fft.irfft2(spectrum * np.maximum(radius, 3 / TILE) ** -exponent, s=(TILE, TILE))


def _smooth_noise(rng: np.random.Generator, length: float = 32.0) -> np.ndarray:
    """Draw periodic noise without detail, whose autocorrelation is exp(-(r / length)^2), r in texels."""
    ky, kx = np.meshgrid(np.fft.fftfreq(TILE), np.fft.rfftfreq(TILE), indexing="ij")
    decay = np.exp(-0.5 * (np.pi * length) ** 2 * (ky * ky + kx * kx))
    return np.fft.irfft2(np.fft.rfft2(rng.standard_normal((TILE, TILE))) * decay, s=(TILE, TILE))


def _grain_noise(rng: np.random.Generator) -> np.ndarray:
    """Draw aggregate and sand: almost white noise, and one texel in forty a pale stone or a dark pit."""
    fine = _coloured_noise(rng, 0.1)
    odd = rng.standard_normal((TILE, TILE)) * (rng.random((TILE, TILE)) < 1 / 40)
    return fine / fine.std() + 4 * odd


def _blades_noise(rng: np.random.Generator) -> np.ndarray:
    """Draw grass: the upper envelope of four fields of streaks that lie in different directions."""
    layers = []
    for angle in (0.3, 1.1, 1.9, 2.7):
        streaks = _coloured_noise(rng, 0.7, 4.0, angle)
        layers.append(streaks / streaks.std())
    return np.max(layers, axis=0)


def _pebbles_noise(rng: np.random.Generator, cells: int = 48) -> np.ndarray:
    """Draw rounded stones: a periodic Voronoi pattern of several tones, darker in the gaps."""
    points = rng.random((cells, cells, 2))
    tone = rng.standard_normal((cells, cells)) * 0.4
    y, x = np.meshgrid(*(np.arange(TILE) * (cells / TILE),) * 2, indexing="ij")
    iy, ix = y.astype(int), x.astype(int)
    near = np.full((TILE, TILE), np.inf)
    second, shade = near.copy(), np.zeros((TILE, TILE))
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            jy, jx = (iy + dy) % cells, (ix + dx) % cells
            distance = np.hypot(iy + dy + points[jy, jx, 0] - y, ix + dx + points[jy, jx, 1] - x)
            closer = distance < near
            second = np.where(closer, near, np.minimum(second, distance))
            shade = np.where(closer, tone[jy, jx], shade)
            near = np.where(closer, distance, near)
    return 0.7 * np.minimum((second - near) * 2.5, 1.0) ** 0.7 + shade


@cache
def _pyramid(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Build all levels of tile `kind` in one array; return it and where each level begins.

    The array is float32 (N, 4): a texel with its neighbours to the right, below and across, so that one
    look-up finds all that lies between them.
    """
    rng = np.random.default_rng([20240229, *kind.encode()])
    makers = {
        "smooth": lambda: _smooth_noise(rng),
        "cloud": lambda: _coloured_noise(rng, 1.6),
        "rough": lambda: _coloured_noise(rng, 0.9),
        "grain": lambda: _grain_noise(rng),
        "blades": lambda: _blades_noise(rng),
        "pebbles": lambda: _pebbles_noise(rng),
    }
    tile = makers[kind]()
    tile = ((tile - tile.mean()) / tile.std()).astype(np.float32)
    levels, starts = [], [0]
    for _ in range(_LEVELS):
        right = np.roll(tile, -1, axis=1)
        four = [tile, right, np.roll(tile, -1, axis=0), np.roll(right, -1, axis=0)]
        levels.append(np.stack(four, axis=-1).reshape(-1, 4))
        starts.append(starts[-1] + tile.size)
        side = tile.shape[0] // 2
        tile = tile.reshape(side, 2, side, 2).mean(axis=(1, 3))
    return np.concatenate(levels), np.array(starts[:-1], dtype=np.int32)


def _bilinear(
    squares: np.ndarray, start: np.ndarray, x: np.ndarray, y: np.ndarray, shift: np.ndarray | np.int32
) -> np.ndarray:
    """Look up level `shift` at tile coordinates x, y (in texels of that level); all arguments broadcast."""
    ix, iy = np.floor(x), np.floor(y)
    fx, fy = x - ix, y - iy
    side = np.int32(TILE) >> shift
    wrap = side - np.int32(1)
    at = iy.astype(np.int32)
    at &= wrap
    at *= side
    at += start
    at += ix.astype(np.int32) & wrap
    here, right, below, across = squares.take(at, axis=0).T
    upper = here + fx * (right - here)
    lower = below + fx * (across - below)
    lower -= upper
    lower *= fy
    upper += lower
    return upper


@dataclass(frozen=True)
class NoiseField:
    """A random field on a surface."""

    kind: str
    """Name of the tile."""
    su: float
    """Texels per surface unit along u."""
    sv: float
    """Texels per surface unit along v."""
    ou: float
    """Offset along u, texels."""
    ov: float
    """Offset along v, texels."""

    @staticmethod
    def draw(rng: np.random.Generator, kind: str, su: float, sv: float | None = None) -> NoiseField:
        """Draw a field at a random offset into its tile. One texel is the finest detail."""
        ou, ov = rng.uniform(0, TILE, 2)
        return NoiseField(kind, su, su if sv is None else sv, float(ou), float(ov))

    def __call__(self, p: Points) -> np.ndarray:
        """Look up values (N,), about N(0, 1) before the averaging over pixel footprints."""
        squares, starts = _pyramid(self.kind)
        footprint = p.f * np.float32(max(self.su, self.sv))
        extremes = np.clip(np.rint(np.log2([footprint.min(), footprint.max()])), 0, _LEVELS - 1)
        low, high = (int(e) for e in extremes)
        x = p.u * np.float32(self.su) + np.float32(self.ou)
        y = p.v * np.float32(self.sv) + np.float32(self.ov)
        if low == high:
            step = np.float32(0.5**low)
            return _bilinear(squares, starts[low], x * step, y * step, np.int32(low))
        level = np.clip(np.rint(np.log2(footprint)), low, high).astype(np.int32)
        scale = np.exp2(-level).astype(np.float32)
        return _bilinear(squares, starts.take(level), x * scale, y * scale, level)


def hash_cells(i: np.ndarray, j: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hash every integer cell (i, j) to two independent uniform numbers in [0, 1), fixed by the seed."""
    h = i.astype(np.int32).view(np.uint32) * np.uint32(0x9E3779B1)
    h ^= j.astype(np.int32).view(np.uint32) * np.uint32(0x85EBCA77)
    h ^= np.uint32(seed & 0xFFFFFFFF)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x2C1B3C6D)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0x297A2D39)
    h ^= h >> np.uint32(16)
    unit = np.float32(1 / 65536)
    return (h & np.uint32(0xFFFF)).astype(np.float32) * unit, (h >> np.uint32(16)).astype(np.float32) * unit


def line_cover(distance: np.ndarray, width: float, footprint: np.ndarray) -> np.ndarray:
    """Share of a pixel of size `footprint` covered by a line of `width` whose axis is `distance` away."""
    half, reach = np.float32(width / 2), footprint * np.float32(0.5)
    cover = np.minimum(distance + reach, half) - np.maximum(distance - reach, -half)
    return np.maximum(cover, 0) / footprint


def edge_cover(depth: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Share of a pixel inside a region whose edge is `depth` away (positive inside)."""
    return np.clip(depth / footprint + np.float32(0.5), 0, 1)
