"""Synthetic cast shadows with exact ground truth: mattes, transmissions and the masks a user would draw.

All light is linear. An image with shadow is `free * (1 - matte + matte * transmission)`; the ranges of the
parameters are percentiles measured on real triplets, photographs with and without a shadow and its mask
(docs/reports/scenes.md).
Coordinates: the short side of the frame spans one unit, the middle is the origin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from guided_diffusion.images.masks import ShadowMask, dilate
from guided_diffusion.scenes.textures import NoiseField, Points, edge_cover

_PAD = 0.09
_LEVELS = 4
COVERAGE = (0.1, 0.5)


@dataclass(frozen=True)
class Shape:
    """A silhouette: the union of capsules, a polygon and a thresholded noise field."""

    capsules: np.ndarray
    """x0, y0, x1, y1 and radius of each, (M, 5)."""
    polygon: np.ndarray
    """Corners of a convex or star polygon, (K, 2)."""
    cloud: tuple[NoiseField, float] | None = None
    """A field and the level above which a point belongs to the silhouette."""

    def cover(self, x: np.ndarray, y: np.ndarray, pixel: float) -> np.ndarray:
        """Return the share of each pixel inside the silhouette, float32, same shape as `x`."""
        out = np.zeros_like(x)
        if len(self.polygon):
            out = _inside(self.polygon.astype(np.float32), x, y).astype(np.float32)
        for x0, y0, x1, y1, radius in self.capsules.astype(np.float32):
            dx, dy = x1 - x0, y1 - y0
            along = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy + np.float32(1e-12)), 0, 1)
            ax, ay = x - x0 - along * dx, y - y0 - along * dy
            inside = (radius - np.sqrt(ax * ax + ay * ay)) / np.float32(pixel) + np.float32(0.5)
            out = np.maximum(out, np.clip(inside, 0, 1))
        if self.cloud is not None:
            field, level = self.cloud
            p = Points(x.ravel(), y.ravel(), np.full(x.size, pixel, np.float32))
            depth = (field(p) - np.float32(level)) * np.float32(0.1)
            out = np.maximum(out, edge_cover(depth, p.f).reshape(x.shape))
        return out


def _inside(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Apply the even-odd rule: inside, a ray to the right crosses the outline an odd number of times."""
    odd = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        crossing = x0 + (y - y0) * ((x1 - x0) / (y1 - y0))
        odd ^= ((y0 > y) != (y1 > y)) & (x < crossing)
    return odd


_NO_CAPSULES = np.zeros((0, 5))
_NO_CORNERS = np.zeros((0, 2))


def _rotate(points: np.ndarray, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, s], [-s, c]])


def _blob(rng: np.random.Generator) -> Shape:
    """Draw a star polygon of 3 to 9 corners, or an ellipse, anywhere near the frame."""
    centre = rng.uniform(-0.55, 0.55, 2)
    if rng.random() < 0.3:
        t, radius = np.linspace(0, 2 * np.pi, 48, endpoint=False), np.full(48, 1.0)
    else:
        n = int(rng.integers(3, 10))
        t = np.sort(rng.uniform(0, 1, n) * 0.7 + np.arange(n)) * (2 * np.pi / n)
        radius = rng.uniform(0.5, 1.3, n)
    corners = np.stack([np.cos(t), np.sin(t)], 1) * radius[:, None] * rng.uniform(0.18, 0.5)
    corners *= [1.0, rng.uniform(0.4, 1.0)]
    return Shape(_NO_CAPSULES, _rotate(corners, rng.uniform(0, 2 * np.pi)) + centre)


def _edge(rng: np.random.Generator) -> Shape:
    """Draw the shadow of a building or a roof: a half plane, sometimes with steps."""
    start = rng.uniform(-0.35, 0.35)
    steps = np.repeat(np.sort(rng.uniform(-0.8, 0.8, 2 * int(rng.integers(0, 3)))), 2)
    heights = np.repeat(rng.uniform(-0.2, 0.2, len(steps) // 2 + 1), 2)[1:-1] + start
    if len(steps) == 0:
        outline = np.array([[-3.0, start], [3.0, start + rng.uniform(-0.3, 0.3)]])
    else:
        outline = np.concatenate([[[-3.0, heights[0]]], np.stack([steps, heights], 1), [[3.0, heights[-1]]]])
    corners = np.concatenate([outline, [[3.0, 3.0], [-3.0, 3.0]]])
    return Shape(_NO_CAPSULES, _rotate(corners, rng.uniform(0, 2 * np.pi)))


def _poles(rng: np.random.Generator) -> Shape:
    """Draw one to three posts or beams across the frame."""
    angle, n = rng.uniform(0, np.pi), int(rng.integers(1, 4))
    offsets, width = rng.uniform(-0.5, 0.5, n), rng.uniform(0.025, 0.1)
    end = rng.choice([1.5, 1.5, 0.3])
    ends = np.stack([np.full(n, -1.5), offsets, np.full(n, end), offsets], 1)
    ends = _rotate(ends.reshape(-1, 2), angle).reshape(-1, 4)
    return Shape(np.column_stack([ends, np.full(n, width)]), _NO_CORNERS)


def _tree(rng: np.random.Generator) -> Shape:
    """Draw a trunk that forks three times, with leaves at the tips."""
    capsules: list[list[float]] = []
    origin = _rotate(np.array([[0.0, rng.uniform(0.3, 0.8)]]), rng.uniform(0, 2 * np.pi))[0]
    tips = [(origin, np.arctan2(-origin[1], -origin[0]), rng.uniform(0.3, 0.5), rng.uniform(0.03, 0.06))]
    for generation in range(4):
        grown = []
        for start, angle, length, radius in tips:
            end = start + length * np.array([np.cos(angle), np.sin(angle)])
            capsules.append([*start, *end, radius])
            if generation == 3:
                capsules.append([*end, *(end + rng.normal(0, 0.05, 2)), rng.uniform(0.03, 0.08)])
            spread = rng.uniform(0.25, 0.7, 2)
            for turn in (-spread[0], spread[1]):
                grown.append((end, angle + turn, length * 0.68, radius * 0.65))
        tips = grown
    return Shape(np.array(capsules), _NO_CORNERS)


def _limbs(rng: np.random.Generator, parts: list[tuple[float, ...]]) -> Shape:
    """Scale, stretch, turn and move a figure of capsules, about one unit high, to near the frame."""
    figure = np.array(parts)
    scale = rng.uniform(0.6, 1.3)
    stretch = np.array([rng.uniform(0.7, 1.1), 1.0]) * scale
    turn, centre = rng.uniform(0, 2 * np.pi), rng.uniform(-0.35, 0.35, 2)
    ends = _rotate(figure[:, :4].reshape(-1, 2) * stretch, turn) + centre
    return Shape(np.column_stack([ends.reshape(-1, 4), figure[:, 4] * scale]), _NO_CORNERS)


def _person(rng: np.random.Generator) -> Shape:
    step, swing = rng.uniform(0.04, 0.16), rng.uniform(0.08, 0.3)
    hand = rng.uniform(-0.2, 0.3)
    return _limbs(
        rng,
        [
            (0.0, -0.42, 0.0, -0.4, 0.075),
            (0.0, -0.26, 0.0, 0.06, 0.11),
            (-0.03, 0.08, -step, 0.75, 0.055),
            (0.03, 0.08, step, 0.75, 0.055),
            (-0.1, -0.24, -0.1 - swing, hand, 0.035),
            (0.1, -0.24, 0.1 + swing, 0.1, 0.035),
        ],
    )


def _hand(rng: np.random.Generator) -> Shape:
    parts: list[tuple[float, ...]] = [(0.0, 0.05, 0.0, 0.12, 0.16), (0.0, 0.2, 0.05, 1.2, 0.1)]
    for angle in np.array([-0.9, -0.35, -0.08, 0.2, 0.5]) * rng.uniform(0.7, 1.3) + rng.normal(0, 0.06, 5):
        length = rng.uniform(0.36, 0.46)
        parts.append((0.1 * np.sin(angle), -0.02, length * np.sin(angle), -length * np.cos(angle), 0.042))
    return _limbs(rng, parts)


def _foliage(rng: np.random.Generator) -> Shape:
    field = NoiseField.draw(rng, "cloud", rng.uniform(50, 160))
    return Shape(_NO_CAPSULES, _NO_CORNERS, (field, rng.uniform(0.1, 1.1)))


_SHAPES = (_blob, _blob, _edge, _edge, _poles, _tree, _person, _person, _hand, _foliage)


@dataclass(frozen=True)
class Shadow:
    """One shadow: its silhouettes, penumbra and transmission."""

    shapes: tuple[Shape, ...]
    soft: tuple[float, float]
    """Standard deviation of the penumbra's blur at both ends of the axis, in short sides."""
    axis: float
    """Direction along which the blur grows, radians."""
    colour: np.ndarray
    """Mean transmission, (3,) in (0, 1]."""
    field: NoiseField
    """Changes of the transmission over the image."""
    field_gain: float
    """Their deviation, in logs."""

    def matte(self, height: int, width: int) -> np.ndarray:
        """Compute the share of the direct light that is blocked, float32 (H, W) in [0, 1]."""
        short = min(height, width)
        pad = int(np.ceil(_PAD * short))
        x, y = _grid(2 * (height + 2 * pad), 2 * (width + 2 * pad), 0.5 / short)
        cover = np.zeros_like(x)
        for shape in self.shapes:
            np.maximum(cover, shape.cover(x, y, 0.5 / short), out=cover)
        cover = 0.25 * (cover[::2, ::2] + cover[1::2, ::2] + cover[::2, 1::2] + cover[1::2, 1::2])
        sigmas = np.geomspace(*self.soft, _LEVELS) * short
        levels = [e[pad : pad + height, pad : pad + width] for e in _blur_periodic(cover, sigmas)]
        x, y = _grid(height, width, 1 / short)
        c, s = np.float32(np.cos(self.axis)), np.float32(np.sin(self.axis))
        along = np.float32(0.5) + (x * c + y * s) / np.float32(1.2)
        # The blur grows linearly along the axis; the levels are geometric, so their index is a logarithm.
        wanted = self.soft[0] + np.clip(along, 0, 1) * (self.soft[1] - self.soft[0])
        index = np.log(wanted / self.soft[0]) / max(np.log(self.soft[1] / self.soft[0]), 1e-6) * (_LEVELS - 1)
        weights = [np.clip(1 - np.abs(index - k), 0, 1) for k in range(_LEVELS)]
        blend = sum(w * e for w, e in zip(weights, levels, strict=True)) / sum(weights)
        return np.clip(blend, 0, 1).astype(np.float32)

    def transmission(self, height: int, width: int) -> np.ndarray:
        """Compute the factor of linear light in full shadow, float32 (H, W, 3) in [0.02, 1]."""
        pixel = 1 / min(height, width)
        x, y = _grid(height, width, pixel)
        p = Points(x.ravel(), y.ravel(), np.full(x.size, pixel, np.float32))
        gain = np.exp(self.field(p) * np.float32(self.field_gain)).reshape(height, width, 1)
        return np.clip(gain * self.colour, 0.02, 1).astype(np.float32)


def _grid(height: int, width: int, pixel: float) -> tuple[np.ndarray, np.ndarray]:
    x = (np.arange(width, dtype=np.float32) - np.float32((width - 1) / 2)) * np.float32(pixel)
    y = (np.arange(height, dtype=np.float32) - np.float32((height - 1) / 2)) * np.float32(pixel)
    x, y = np.meshgrid(x, y)
    return x, y


def _blur_periodic(image: np.ndarray, sigmas: np.ndarray) -> list[np.ndarray]:
    """Blur a periodic image (H, W) by Gaussians, one for each sigma in pixels."""
    spectrum = np.fft.rfft2(image)
    ky, kx = np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1])[None]
    decay = -2 * np.pi**2 * (ky * ky + kx * kx)
    return [np.fft.irfft2(spectrum * np.exp(decay * s * s), s=image.shape) for s in sigmas]


def draw_transmission(rng: np.random.Generator) -> np.ndarray:
    """Draw the mean transmission (3,) of an umbra: green log-normal about .27, red less, blue more."""
    green = np.clip(np.exp(rng.normal(np.log(0.27), 0.45)), 0.08, 0.6)
    return np.array([green * rng.uniform(0.7, 1.03), green, green * rng.uniform(0.95, 1.5)], np.float32)


def draw_shadow(rng: np.random.Generator) -> Shadow:
    """Draw a random shadow of 1 to 3 silhouettes that covers `COVERAGE` of a square frame."""
    x, y = _grid(48, 48, 1 / 48)
    while True:
        kinds = rng.integers(len(_SHAPES), size=rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))
        shapes = tuple(_SHAPES[kind](rng) for kind in kinds)
        cover = np.max([shape.cover(x, y, 1 / 48) for shape in shapes], axis=0).mean()
        if COVERAGE[0] <= cover <= COVERAGE[1]:
            break
    near = rng.uniform(0.002, 0.008)
    far = min(near * np.exp(rng.uniform(0.05, 2.2)), 0.025)
    field = NoiseField.draw(rng, "smooth", 32 / rng.uniform(0.15, 0.6))
    axis, gain = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.22)
    return Shadow(shapes, (near, far), axis, draw_transmission(rng), field, gain)


def combine(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Combine (matte, transmission) of two overlapping shadows; the product of their factors is exact."""
    (m1, t1), (m2, t2) = first, second
    matte = 1 - (1 - m1) * (1 - m2)
    factor = (1 - m1[..., None] * (1 - t1)) * (1 - m2[..., None] * (1 - t2))
    m = matte[..., None]
    transmission = np.where(m > 1e-3, (factor - (1 - m)) / np.maximum(m, 1e-3), t1)
    return matte, np.clip(transmission, 1e-4, 1).astype(np.float32)


def cast(free: np.ndarray, matte: np.ndarray, transmission: np.ndarray, slope: float = 1.0) -> np.ndarray:
    """Cast a shadow onto the linear image `free` (H, W, 3).

    `slope` is the exponent a of free = c * umbra^a about the mean of the umbra, per channel (tone curve and
    ambient light make it differ from 1); slope 1 gives exactly free * (1 - matte + matte * transmission).
    """
    m = matte[..., None]
    umbra = free * transmission
    if slope != 1.0:
        log = np.log(np.maximum(free, 1e-3))
        mean = (log * m).sum(axis=(0, 1)) / max(float(matte.sum()), 1e-6)
        umbra = np.minimum(umbra * np.exp((log - mean) * np.float32(1 / slope - 1)), free)
    return free * (1 - m) + m * umbra


def draw_mask(rng: np.random.Generator, matte: np.ndarray) -> ShadowMask:
    """Draw the mask a user would hand over: matte > U(.2, .8), grown by -3 to 5 pixels at 256."""
    threshold, grow = rng.uniform(0.2, 0.8), rng.uniform(-3, 5)
    mask = matte > threshold * matte.max()
    radius = grow * min(matte.shape) / 256
    grown = ~_dilate_beyond_frame(~mask, -radius) if radius < 0 else _dilate_beyond_frame(mask, radius)
    return ShadowMask(grown if grown.any() else mask)


def _dilate_beyond_frame(mask: np.ndarray, radius: float) -> np.ndarray:
    """Dilate a mask whose border pixels go on beyond the frame."""
    pad = int(radius) + 1
    return dilate(np.pad(mask, pad, mode="edge"), radius)[pad:-pad, pad:-pad]
