"""Procedural photographs of grounds and walls, alone or with exact synthetic shadows.

Every image is drawn from a `numpy.random.Generator`: parameters first, pixels after, so a scene is the
same at every size (only sensor noise depends on the size).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from guided_diffusion.images.masks import ShadowMask
from guided_diffusion.scenes.camera import Camera, coordinates, jpeg
from guided_diffusion.scenes.layouts import Surface, draw_surface
from guided_diffusion.scenes.shadows import cast, combine, draw_mask, draw_shadow
from guided_diffusion.scenes.textures import Points

_SAMPLES = 2
_CHUNK = 16384  # points at a time: their fields stay in the processor's cache


@dataclass(frozen=True)
class Scene:
    """An image with and without a shadow, and the ground truth about the shadow.

    Before noise, log slope and exposure drift, shadow = free * (1 - matte + matte * transmission) in linear
    light.
    """

    shadow: np.ndarray
    """The image with shadow, sRGB, uint8 (H, W, 3)."""
    free: np.ndarray
    """The image without it, sRGB, uint8 (H, W, 3)."""
    mask: ShadowMask
    """Bool (H, W), True in shadow, as imprecise as a user would draw it."""
    matte: np.ndarray
    """Exact share of the direct light that is blocked, float32 (H, W) in [0, 1]."""
    transmission: np.ndarray
    """Factor of linear light in full shadow, float32 (H, W, 3) in (0, 1]."""


def scene_rng(seed: int, index: int) -> np.random.Generator:
    """Return an independent random stream for image `index` of `seed`."""
    return np.random.default_rng([seed, index])


@dataclass(frozen=True)
class _Hit:
    """The points where N of the camera's rays meet one surface."""

    rays: np.ndarray | None
    """Indices of the rays, (N,); None = all."""
    surface: Surface
    points: Points
    lights: tuple[np.ndarray | np.float32, ...] = ()
    """Factors of the light there, scalars or (N, 1)."""

    def colours(self) -> np.ndarray:
        """Compute linear light (N, 3)."""
        out = self.surface(self.points)
        for light in self.lights:
            out *= light
        return out

    def kinds(self) -> np.ndarray:
        """Return the kinds of Surface.kinds, (N,)."""
        return self.surface.kinds(self.points)


_Geometry = Callable[[np.ndarray, np.ndarray, float], list[_Hit]]
"""From rays x, y (N,) through the frame and the size of a pixel to the surfaces that they hit."""


@dataclass(frozen=True)
class _Pose:
    """Position of the camera and of the surface."""

    focal: float
    """Focal length, frame units."""
    tilt: float
    """Downward tilt of the camera, radians."""
    turn: float
    """Sideways turn of the camera, radians."""
    spin: float
    """Rotation of the surface, radians."""
    zoom: float
    """Scale of the surface."""

    def axes(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ray directions: sideways, forward and down."""
        ct, st = np.float32(np.cos(self.tilt)), np.float32(np.sin(self.tilt))
        ck, sk = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
        down = y * ct + np.float32(self.focal) * st
        ahead = np.float32(self.focal) * ct - y * st
        return x * ck + ahead * sk, ahead * ck - x * sk, down

    def project(self, a: np.ndarray, b: np.ndarray, depth: np.ndarray, centre: float, pixel: float) -> Points:
        """Project onto surface points a/depth, b/depth; one unit is one frame where depth = `centre`."""
        scale = np.float32(centre * self.zoom)
        near = 1 / depth
        u, v = a * near * scale, b * near * scale
        slant = near * np.float32(centre)
        f = (
            np.float32(pixel * self.zoom)
            * slant
            * np.sqrt(np.maximum(slant * np.float32(self.focal / centre), 1))
        )
        c, s = np.float32(np.cos(self.spin)), np.float32(np.sin(self.spin))
        return Points(c * u - s * v, c * v + s * u, f)


def _draw_ground(rng: np.random.Generator) -> _Geometry:
    focal = rng.uniform(0.9, 2.2)
    lowest = np.arctan(0.62 / focal)
    tilt = lowest + (np.pi / 2 - lowest) * rng.beta(1.3, 1.5)
    pose = _Pose(focal, tilt, 0.0, rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 1.4))
    surface = draw_surface(rng, False)
    middle = np.float32(1 / np.tan(tilt))

    def view(x: np.ndarray, y: np.ndarray, pixel: float) -> list[_Hit]:
        side, ahead, down = pose.axes(x, y)
        points = pose.project(side, ahead - middle * down, down, focal * np.sin(tilt), pixel)
        return [_Hit(None, surface, points)]

    return view


def _draw_wall(rng: np.random.Generator) -> _Geometry:
    focal = rng.uniform(0.9, 2.2)
    reach = min(0.75, np.arctan(focal / 0.5) * 0.75)
    pose = _Pose(
        focal, rng.normal(0, 0.12), rng.uniform(-reach, reach) * rng.random(), 0.0, rng.uniform(0.7, 1.3)
    )
    roll, surface = np.float32(rng.normal(0, 0.04)), draw_surface(rng, True)

    def view(x: np.ndarray, y: np.ndarray, pixel: float) -> list[_Hit]:
        side, ahead, down = pose.axes(x - roll * y, y + roll * x)
        return [_Hit(None, surface, pose.project(side, down, ahead, focal, pixel))]

    return view


def _draw_corner(rng: np.random.Generator) -> _Geometry:
    """Draw ground that meets a wall."""
    focal = rng.uniform(0.9, 1.8)
    pose = _Pose(focal, rng.uniform(0.15, 0.6), rng.uniform(-0.5, 0.5), 0.0, rng.uniform(0.7, 1.3))
    contact = rng.uniform(-0.25, 0.3)
    _, ahead0, down0 = (float(e[0]) for e in pose.axes(np.zeros(1), np.full(1, contact)))
    distance = ahead0 / down0
    ground, wall = draw_surface(rng, False), draw_surface(rng, True)
    light, dark = np.float32(rng.uniform(0.5, 1.0)), np.float32(rng.uniform(0.2, 0.8))

    def view(x: np.ndarray, y: np.ndarray, pixel: float) -> list[_Hit]:
        side, ahead, down = pose.axes(x, y)
        beyond = ahead - np.float32(distance) * down
        near = (1 - dark * np.exp(-np.abs(beyond) * np.float32(25)))[:, None]
        low, high = np.flatnonzero(beyond < 0), np.flatnonzero(beyond >= 0)
        hits = []
        if low.size:
            points = pose.project(side[low], beyond[low], down[low], down0, pixel)
            hits.append(_Hit(low, ground, points, (near[low],)))
        if high.size:
            up = -beyond[high] / np.float32(distance)
            points = pose.project(side[high], up, ahead[high], ahead0, pixel)
            hits.append(_Hit(high, wall, points, (light, near[high])))
        return hits

    return view


def _check_size(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if height < 8 or width < 8:
        raise ValueError(f"image size {height}x{width} is too small; use at least 8x8")
    return height, width


def _draw(rng: np.random.Generator) -> tuple[_Geometry, Camera]:
    kind = rng.random()
    view = (_draw_ground if kind < 0.62 else _draw_wall if kind < 0.87 else _draw_corner)(rng)
    return view, Camera.draw(rng)


def _join(hits: Sequence[_Hit], values: Sequence[np.ndarray], rays: int) -> np.ndarray:
    """Join the values of the hits into one array (rays, ...)."""
    if hits[0].rays is None:
        return values[0]
    out = np.empty((*values[0].shape[1:], rays), values[0].dtype).T
    for hit, value in zip(hits, values, strict=True):
        out[hit.rays] = value
    return out


def _expose(view: _Geometry, camera: Camera, height: int, width: int) -> np.ndarray:
    """Compute the display-linear image (H, W, 3) without noise."""
    x, y, pixel = coordinates(_SAMPLES * height, _SAMPLES * width)
    chunks = []
    for at in range(0, x.size, _CHUNK):
        hits = view(x[at : at + _CHUNK], y[at : at + _CHUNK], pixel)
        chunks.append(_join(hits, [hit.colours() for hit in hits], min(_CHUNK, x.size - at)))
    fine = np.concatenate(chunks).reshape(height, _SAMPLES, width, _SAMPLES, 3)
    light = (fine[:, 0, :, 0] + fine[:, 0, :, 1] + fine[:, 1, :, 0] + fine[:, 1, :, 1]) * np.float32(0.25)
    return camera.expose(light)


def render_free(rng: np.random.Generator, size: int | tuple[int, int]) -> np.ndarray:
    """Render a random shadow-free image, sRGB, uint8 (H, W, 3).

    JPEG is left out below 128 pixels, where its blocks would be huge. Raises ValueError for a side below 8.

    Args:
        rng: source of the scene.
        size: the side or (height, width), pixels.
    """
    height, width = _check_size(size)
    return _record_free(rng, *_draw(rng), height, width)


def render_labelled(rng: np.random.Generator, size: int | tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Render the image of `render_free` and the kind (layouts.KINDS, NO_KIND) of each pixel, uint8 (H, W)."""
    height, width = _check_size(size)
    view, camera = _draw(rng)
    x, y, pixel = coordinates(height, width)
    hits = view(x, y, pixel)
    kinds = _join(hits, [hit.kinds() for hit in hits], x.size)
    return _record_free(rng, view, camera, height, width), kinds.reshape(height, width)


def _record_free(
    rng: np.random.Generator, view: _Geometry, camera: Camera, height: int, width: int
) -> np.ndarray:
    image = camera.record(rng, _expose(view, camera, height, width))
    return jpeg(image, camera.quality) if camera.quality and min(height, width) >= 128 else image


def render(rng: np.random.Generator, size: int | tuple[int, int]) -> Scene:
    """Render a random image with and without a shadow; size and errors as for `render_free`."""
    height, width = _check_size(size)
    view, camera = _draw(rng)
    free = _expose(view, camera, height, width)
    shadows = [draw_shadow(rng) for _ in range(2 if rng.random() < 0.15 else 1)]
    slope = float(np.clip(rng.normal(0.95, 0.12), 0.65, 1.25))
    drift = np.clip(rng.normal(0, 0.04, 4), -0.05, 0.05) * (rng.random() < 0.3)
    mask_seed = int(rng.integers(2**63))
    exact = [(shadow.matte(height, width), shadow.transmission(height, width)) for shadow in shadows]
    matte, transmission = exact[0] if len(exact) == 1 else combine(*exact)
    dark = cast(free, matte, transmission, slope) * np.exp(drift[0] + drift[1:]).astype(np.float32)
    mask = draw_mask(np.random.default_rng(mask_seed), matte)
    shadow, lit = (camera.record(rng, light) for light in (dark, free))
    if camera.quality:
        shadow, lit = jpeg(shadow, camera.quality), jpeg(lit, camera.quality)
    return Scene(shadow, lit, mask, matte, transmission)
