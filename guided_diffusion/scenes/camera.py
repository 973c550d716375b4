"""Camera model: balance, exposure, tone, focus, vignette, noise and JPEG."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from guided_diffusion.images.colour import to_srgb
from guided_diffusion.scenes.textures import NoiseField, Points

_STEPS = 4096


def _encoding_table() -> np.ndarray:
    light = np.arange(_STEPS + 1) / _STEPS
    return np.rint(to_srgb(light) * 255).astype(np.uint8)


_BYTES = _encoding_table()


def encode(light: np.ndarray) -> np.ndarray:
    """Encode display-linear light as sRGB bytes (IEC 61966-2-1); values outside [0, 1] are clipped."""
    return _BYTES[np.clip(light * np.float32(_STEPS) + np.float32(0.5), 0, _STEPS).astype(np.int32)]


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Send an image, uint8 (H, W, 3), through JPEG and back."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)).copy()


def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Pixel centres x, y (flat, float32; the short side spans 1, the middle is 0) and the pixel size."""
    pixel = 1 / min(height, width)
    x = (np.arange(width, dtype=np.float32) - np.float32((width - 1) / 2)) * np.float32(pixel)
    y = (np.arange(height, dtype=np.float32) - np.float32((height - 1) / 2)) * np.float32(pixel)
    return np.tile(x, height), np.repeat(y, width), pixel


@dataclass(frozen=True)
class Camera:
    """Parameters of the light on the scene and of the camera."""

    balance: np.ndarray
    """Factors of red, green and blue, (3,)."""
    saturation: float
    """Factor of the colours' distance from grey."""
    level: float
    """Mean display-linear light that the exposure aims at."""
    slope: tuple[float, float]
    """Change of log light across the frame, right and down."""
    vignette: float
    """Share of light lost at a unit's distance from the middle."""
    contrast: float
    """How much shadows are darkened, 0 = not at all."""
    dapple: NoiseField
    """Uneven light."""
    dapple_gain: float
    """Its deviation, in log light."""
    focus: float
    """Weight of the neighbours: positive blurs, negative sharpens."""
    read_noise: float
    """Deviation of the noise in the dark, display-linear."""
    shot_noise: float
    """Deviation of the noise per root of light."""
    quality: int
    """Quality of the JPEG; 0 = none."""

    @staticmethod
    def draw(rng: np.random.Generator) -> Camera:
        """Draw a random camera under random daylight."""
        tint, green = rng.normal(), rng.normal(0, 0.02)
        # Low sun and lamps are farther from neutral than open shade.
        warm = min(0.03 + 0.18 * tint + 0.06 * tint * tint, 0.5)
        return Camera(
            balance=np.exp([warm, green, -warm]).astype(np.float32),
            saturation=float(rng.uniform(0.6, 1.05)),
            level=float(np.clip(np.exp(rng.normal(np.log(0.32), 0.33)), 0.1, 0.65)),
            slope=(float(rng.normal(0, 0.18)), float(rng.normal(0, 0.18))),
            vignette=float(rng.uniform(0, 0.35)),
            contrast=float(rng.uniform(0.0, 0.15)),
            dapple=NoiseField.draw(rng, "smooth", rng.uniform(20, 80)),
            dapple_gain=float(rng.uniform(0, 0.1)),
            focus=float(rng.uniform(-0.19, 0.01)),
            read_noise=float(rng.uniform(0.5, 2.0) / 255),
            shot_noise=float(rng.uniform(0, 0.012)),
            quality=int(rng.integers(75, 99)) * int(rng.random() < 0.5),
        )

    def expose(self, light: np.ndarray) -> np.ndarray:
        """Expose scene light (H, W, 3): a display-linear image (H, W, 3) in [0, 1], before noise."""
        height, width = light.shape[:2]
        x, y, pixel = coordinates(height, width)
        field = x * np.float32(self.slope[0]) + y * np.float32(self.slope[1])
        field += self.dapple(Points(x, y, np.full_like(x, pixel))) * np.float32(self.dapple_gain)
        gain = np.exp(field) * (1 - np.float32(self.vignette) * (x * x + y * y))
        # Metering corrects half of the difference: dark grounds stay darker than pale ones.
        gain *= np.float32(self.level / (float(light.mean()) ** 0.5 * 0.25**0.5))
        grey = light.mean(axis=2, keepdims=True)
        light = (grey + np.float32(self.saturation) * (light - grey)) * self.balance
        light *= gain.reshape(height, width, 1)
        return np.clip(_apply_tone(_focus(light, self.focus), self.contrast), 0, 1)

    def record(self, rng: np.random.Generator, light: np.ndarray) -> np.ndarray:
        """Record display-linear `light` (H, W, 3) as an sRGB image, uint8, with Poisson-Gauss noise.

        The noise is that of a sensor 256 pixels wide; smaller images are reductions of it.
        """
        share = np.float32(min(1.0, min(light.shape[:2]) / 256))
        variance = np.float32(self.read_noise**2) + np.float32(self.shot_noise**2) * light
        noise = rng.standard_normal(light.shape, dtype=np.float32)
        return encode(light + noise * np.sqrt(variance) * share)


def _apply_tone(light: np.ndarray, contrast: float) -> np.ndarray:
    """Apply a shoulder that keeps highlights below 1, then darken shadows by `contrast`."""
    soft = 1 - np.exp(np.float32(-1.25) * light)
    return soft * (1 - np.float32(contrast) * (1 - np.minimum(soft * 2, 1)))


def _focus(light: np.ndarray, amount: float) -> np.ndarray:
    """Blur (positive) or sharpen (negative) with the kernel [a, 1 - 2a, a] along both axes."""
    a = np.float32(amount)
    for axis in (0, 1):
        wide = np.concatenate([light.take([0], axis), light, light.take([-1], axis)], axis)
        if axis == 0:
            light = light + a * (wide[2:] + wide[:-2] - 2 * light)
        else:
            light = light + a * (wide[:, 2:] + wide[:, :-2] - 2 * light)
    return np.maximum(light, 0)
