"""Procedural photographs of grounds and walls, alone or with exact synthetic shadows.

Every image is drawn from a `numpy.random.Generator`: parameters first, pixels after, so a scene is the
same at every size (only sensor noise depends on the size).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from guided_diffusion.scenes.camera import Camera, coordinates, jpeg
from guided_diffusion.scenes.layouts import Surface, draw_surface
from guided_diffusion.scenes.shadows import cast, combine, draw_shadow, drawn_mask
from guided_diffusion.scenes.textures import Points

_SAMPLES = 2
_CHUNK = 16384  # points at a time: their fields stay in the processor's cache


@dataclass(frozen=True)
class Scene:
    """An image with and without a shadow, and the truth about the shadow.

    Attributes:
        shadow: uint8 (H, W, 3) sRGB image with shadow.
        free: uint8 (H, W, 3) the same place without it.
        mask: bool (H, W), True in shadow, as imprecise as a user would draw it.
        matte: float32 (H, W) in [0, 1], exact share of the direct light that is blocked.
        transmission: float32 (H, W, 3) in (0, 1], linear-light factor in full shadow. Before noise, log slope
            and exposure drift, shadow = free * (1 - matte + matte * transmission) in linear light.
    """

    shadow: np.ndarray
    free: np.ndarray
    mask: np.ndarray
    matte: np.ndarray
    transmission: np.ndarray


def scene_rng(seed: int, index: int) -> np.random.Generator:
    """Independent random stream for image `index` of `seed`."""
    return np.random.default_rng([seed, index])


@dataclass(frozen=True)
class _Part:
    """What some of the camera's rays meet: their indices, None = all, the surface, where on it, and the
    light there, as factors (scalars or (N, 1))."""

    rays: np.ndarray | None
    surface: Surface
    points: Points
    lights: tuple[np.ndarray | np.float32, ...] = ()

    def colours(self) -> np.ndarray:
        """Linear light (N, 3)."""
        out = self.surface(self.points)
        for light in self.lights:
            out *= light
        return out

    def kinds(self) -> np.ndarray:
        """As Surface.kinds, (N,)."""
        return self.surface.kinds(self.points)


_View = Callable[[np.ndarray, np.ndarray, float], list[_Part]]
"""Rays x, y (N,) through the frame and the size of a pixel -> what they meet."""


@dataclass(frozen=True)
class _Pose:
    """Camera: focal length (frame units), tilt and turn (radians); `spin` and `zoom` of the surface."""

    focal: float
    tilt: float
    turn: float
    spin: float
    zoom: float

    def axes(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ray directions: sideways, forward and down."""
        ct, st = np.float32(np.cos(self.tilt)), np.float32(np.sin(self.tilt))
        ck, sk = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
        down = y * ct + np.float32(self.focal) * st
        ahead = np.float32(self.focal) * ct - y * st
        return x * ck + ahead * sk, ahead * ck - x * sk, down

    def place(self, a: np.ndarray, b: np.ndarray, depth: np.ndarray, centre: float, pixel: float) -> Points:
        """Surface points a/depth, b/depth, scaled so that one unit is one frame where depth = `centre`."""
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


def _ground_view(rng: np.random.Generator) -> _View:
    focal = rng.uniform(0.9, 2.2)
    lowest = np.arctan(0.62 / focal)
    tilt = lowest + (np.pi / 2 - lowest) * rng.beta(1.3, 1.5)
    pose = _Pose(focal, tilt, 0.0, rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 1.4))
    surface = draw_surface(rng, False)
    middle = np.float32(1 / np.tan(tilt))

    def view(x: np.ndarray, y: np.ndarray, pixel: float) -> list[_Part]:
        side, ahead, down = pose.axes(x, y)
        points = pose.place(side, ahead - middle * down, down, focal * np.sin(tilt), pixel)
        return [_Part(None, surface, points)]

    return view


def _wall_view(rng: np.random.Generator) -> _View:
    focal = rng.uniform(0.9, 2.2)
    reach = min(0.75, np.arctan(focal / 0.5) * 0.75)
    pose = _Pose(
        focal, rng.normal(0, 0.12), rng.uniform(-reach, reach) * rng.random(), 0.0, rng.uniform(0.7, 1.3)
    )
    roll, surface = np.float32(rng.normal(0, 0.04)), draw_surface(rng, True)

    def view(x: np.ndarray, y: np.ndarray, pixel: float) -> list[_Part]:
        side, ahead, down = pose.axes(x - roll * y, y + roll * x)
        return [_Part(None, surface, pose.place(side, down, ahead, focal, pixel))]

    return view


def _corner_view(rng: np.random.Generator) -> _View:
    """Ground that meets a wall."""
    focal = rng.uniform(0.9, 1.8)
    pose = _Pose(focal, rng.uniform(0.15, 0.6), rng.uniform(-0.5, 0.5), 0.0, rng.uniform(0.7, 1.3))
    contact = rng.uniform(-0.25, 0.3)
    _, ahead0, down0 = (float(e[0]) for e in pose.axes(np.zeros(1), np.full(1, contact)))
    distance = ahead0 / down0
    ground, wall = draw_surface(rng, False), draw_surface(rng, True)
    light, dark = np.float32(rng.uniform(0.5, 1.0)), np.float32(rng.uniform(0.2, 0.8))

    def view(x: np.ndarray, y: np.ndarray, pixel: float) -> list[_Part]:
        side, ahead, down = pose.axes(x, y)
        beyond = ahead - np.float32(distance) * down
        near = (1 - dark * np.exp(-np.abs(beyond) * np.float32(25)))[:, None]
        low, high = np.flatnonzero(beyond < 0), np.flatnonzero(beyond >= 0)
        parts = []
        if low.size:
            points = pose.place(side[low], beyond[low], down[low], down0, pixel)
            parts.append(_Part(low, ground, points, (near[low],)))
        if high.size:
            up = -beyond[high] / np.float32(distance)
            points = pose.place(side[high], up, ahead[high], ahead0, pixel)
            parts.append(_Part(high, wall, points, (light, near[high])))
        return parts

    return view


def _frame(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if height < 8 or width < 8:
        raise ValueError(f"image size {height}x{width} is too small; use at least 8x8")
    return height, width


def _draw(rng: np.random.Generator) -> tuple[_View, Camera]:
    kind = rng.random()
    view = (_ground_view if kind < 0.62 else _wall_view if kind < 0.87 else _corner_view)(rng)
    return view, Camera.draw(rng)


def _joined(parts: Sequence[_Part], values: Sequence[np.ndarray], rays: int) -> np.ndarray:
    """One array (rays, ...) of the parts' values."""
    if parts[0].rays is None:
        return values[0]
    out = np.empty((*values[0].shape[1:], rays), values[0].dtype).T
    for part, value in zip(parts, values, strict=True):
        out[part.rays] = value
    return out


def _exposed(view: _View, camera: Camera, height: int, width: int) -> np.ndarray:
    """Display-linear image (H, W, 3) without noise."""
    x, y, pixel = coordinates(_SAMPLES * height, _SAMPLES * width)
    chunks = []
    for at in range(0, x.size, _CHUNK):
        parts = view(x[at : at + _CHUNK], y[at : at + _CHUNK], pixel)
        chunks.append(_joined(parts, [part.colours() for part in parts], min(_CHUNK, x.size - at)))
    fine = np.concatenate(chunks).reshape(height, _SAMPLES, width, _SAMPLES, 3)
    light = (fine[:, 0, :, 0] + fine[:, 0, :, 1] + fine[:, 1, :, 0] + fine[:, 1, :, 1]) * np.float32(0.25)
    return camera.expose(light)


def render_free(rng: np.random.Generator, size: int | tuple[int, int]) -> np.ndarray:
    """A random shadow-free image, uint8 (H, W, 3) sRGB. `size` is the side or (height, width), in pixels.

    Raises `ValueError` for a side below 8. JPEG is left out below 128 pixels, where blocks would be huge.
    """
    height, width = _frame(size)
    return _free(rng, *_draw(rng), height, width)


def render_labelled(rng: np.random.Generator, size: int | tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """What `render_free` gives, and what its pixels show: uint8 (H, W), in layouts.KINDS or NO_KIND."""
    height, width = _frame(size)
    view, camera = _draw(rng)
    x, y, pixel = coordinates(height, width)
    parts = view(x, y, pixel)
    kinds = _joined(parts, [part.kinds() for part in parts], x.size)
    return _free(rng, view, camera, height, width), kinds.reshape(height, width)


def _free(rng: np.random.Generator, view: _View, camera: Camera, height: int, width: int) -> np.ndarray:
    image = camera.record(rng, _exposed(view, camera, height, width))
    return jpeg(image, camera.quality) if camera.quality and min(height, width) >= 128 else image


def render(rng: np.random.Generator, size: int | tuple[int, int]) -> Scene:
    """A random image with and without a shadow, and the truth about it; errors as `render_free`."""
    height, width = _frame(size)
    view, camera = _draw(rng)
    free = _exposed(view, camera, height, width)
    shadows = [draw_shadow(rng) for _ in range(2 if rng.random() < 0.15 else 1)]
    slope = float(np.clip(rng.normal(0.95, 0.12), 0.65, 1.25))
    drift = np.clip(rng.normal(0, 0.04, 4), -0.05, 0.05) * (rng.random() < 0.3)
    drawn = int(rng.integers(2**63))
    truth = [(shadow.matte(height, width), shadow.transmission(height, width)) for shadow in shadows]
    matte, transmission = truth[0] if len(truth) == 1 else combine(*truth)
    dark = cast(free, matte, transmission, slope) * np.exp(drift[0] + drift[1:]).astype(np.float32)
    mask = drawn_mask(np.random.default_rng(drawn), matte)
    shadow, lit = (camera.record(rng, light) for light in (dark, free))
    if camera.quality:
        shadow, lit = jpeg(shadow, camera.quality), jpeg(lit, camera.quality)
    return Scene(shadow, lit, mask, matte, transmission)
