"""What an image looks like in figures: spectrum, edges, colour and contrast, without knowing what it shows.

Images are uint8 (H, W, 3) sRGB; a *plane* is one float (H, W) field of them. By these figures the
procedural scenes are set against photographs (`scripts/scene_statistics.py`).
"""

from __future__ import annotations

import numpy as np

from guided_diffusion.evaluation.hole_metrics import srgb_to_lab
from guided_diffusion.evaluation.shadow_metrics import DARK, LUMINANCE
from guided_diffusion.scenes.materials import to_linear

WINDOW = 8  # pixels: the side of the squares that `local_contrast` looks at
RINGS = 12  # annuli of the spectrum that the slope is fitted to
# Of the fit: from 4 cycles per image to 0.25 cycles per pixel, where noise and JPEG begin.
BAND = (4.0, 0.25)


def statistics(image: np.ndarray) -> dict[str, float]:
    """All figures of one image of at least 32 x 32 pixels.

    slope, kurtosis: those of log luminance, see `spectrum_slope` and `gradient_kurtosis`; contrast: see
    `local_contrast`; chroma: mean of C* = |(a*, b*)|; mean_l, mean_a, mean_b: means of L*, a*, b* (D65);
    within_l, within_a, within_b: their standard deviations within the image.
    """
    light = to_linear(image / 255) @ LUMINANCE
    lab = srgb_to_lab(image)
    log = np.log(light + DARK)
    told = {
        "slope": spectrum_slope(log),
        "kurtosis": gradient_kurtosis(log),
        "contrast": local_contrast(light),
        "chroma": float(np.hypot(lab[..., 1], lab[..., 2]).mean()),
    }
    for i, name in enumerate("lab"):
        told[f"mean_{name}"] = float(lab[..., i].mean())
        told[f"within_{name}"] = float(lab[..., i].std())
    return told


def spectrum_slope(plane: np.ndarray) -> float:
    """The a of the power spectrum f^-a of a plane, averaged over directions; photographs have about 2.

    Least squares in log-log over `RINGS` annuli of equal logarithmic width within `BAND`, each by the mean
    power of its frequencies (Field 1987; Ruderman 1994); the plane is taken off its mean and windowed (Hann).
    A flat plane gives NaN.
    """
    height, width = plane.shape
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    centred = plane - (plane * window).sum() / window.sum()
    power = np.abs(np.fft.rfft2(centred * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])  # cycles per pixel
    edges = np.geomspace(BAND[0] / min(height, width), BAND[1], RINGS + 1)
    ring = np.digitize(frequency, edges) - 1
    at = (ring >= 0) & (ring < RINGS)
    count, total, place = (
        np.bincount(ring[at], values[at], RINGS)
        for values in (np.ones_like(power), power, np.log(frequency + ~at))
    )
    some = count > 0
    if not (total[some] > 1e-12).all():
        return float("nan")
    return -float(np.polyfit(place[some] / count[some], np.log(total[some] / count[some]), 1)[0])


def gradient_kurtosis(plane: np.ndarray) -> float:
    """Kurtosis E[g^4] / E[g^2]^2 of the differences of neighbours, mean of both directions.

    3 for a Gaussian field, 6 for Laplacian differences; edges between smooth regions raise it further.
    A flat plane gives NaN.
    """
    told = []
    for axis in (0, 1):
        squares = np.diff(plane, axis=axis) ** 2
        mean = float(squares.mean())
        told.append(float((squares**2).mean()) / mean**2 if mean > 0 else float("nan"))
    return float(np.mean(told))


def local_contrast(light: np.ndarray) -> float:
    """Mean over squares of `WINDOW` pixels of standard deviation / mean of linear luminance."""
    rows, columns = (side // WINDOW for side in light.shape)
    squares = light[: rows * WINDOW, : columns * WINDOW].reshape(rows, WINDOW, columns, WINDOW)
    return float((squares.std(axis=(1, 3)) / np.maximum(squares.mean(axis=(1, 3)), DARK)).mean())
