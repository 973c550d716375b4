"""Statistics of an image: spectrum, edges, colour and contrast, whatever it shows.

Images are uint8 (H, W, 3) sRGB; a *plane* is a float (H, W) field. `scripts/scene_statistics.py` compares
procedural scenes with photographs by these statistics (docs/reports/scenes.md).
"""

from __future__ import annotations

import numpy as np

from guided_diffusion.images.colour import DARK, LUMINANCE, srgb_to_lab, to_linear

# The three below define statistics; see docs/reports/scenes.md.
WINDOW = 8  # pixels: side of the squares of `local_contrast`
RINGS = 12  # annuli of the spectrum that the slope is fitted to
# Range of the fit: from 4 cycles per image to 0.25 cycles per pixel, where noise and JPEG begin.
BAND = (4.0, 0.25)


def statistics(image: np.ndarray) -> dict[str, float]:
    """Compute all statistics of an image, uint8 (H, W, 3), of at least 32 x 32 pixels.

    Returns:
        slope: `spectrum_slope` of log luminance.
        kurtosis: `gradient_kurtosis` of log luminance.
        contrast: `local_contrast` of linear luminance.
        chroma: mean of C* = |(a*, b*)|.
        mean_l, mean_a, mean_b: means of L*, a*, b* (D65).
        within_l, within_a, within_b: their standard deviations within the image.
    """
    light = to_linear(image / 255) @ LUMINANCE
    lab = srgb_to_lab(image)
    log = np.log(light + DARK)
    values = {
        "slope": spectrum_slope(log),
        "kurtosis": gradient_kurtosis(log),
        "contrast": local_contrast(light),
        "chroma": float(np.hypot(lab[..., 1], lab[..., 2]).mean()),
    }
    for i, name in enumerate("lab"):
        values[f"mean_{name}"] = float(lab[..., i].mean())
        values[f"within_{name}"] = float(lab[..., i].std())
    return values


def spectrum_slope(plane: np.ndarray) -> float:
    """Fit the exponent a of a plane's power spectrum f^-a, averaged over directions; about 2 in photographs.

    Least squares in log-log over `RINGS` annuli of equal logarithmic width within `BAND`, each represented by
    the mean power of its frequencies (Field 1987; Ruderman 1994). The mean is subtracted and a Hann window
    applied first. A flat plane gives NaN.
    """
    height, width = plane.shape
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    centred = plane - (plane * window).sum() / window.sum()
    power = np.abs(np.fft.rfft2(centred * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])  # cycles per pixel
    edges = np.geomspace(BAND[0] / min(height, width), BAND[1], RINGS + 1)
    ring = np.digitize(frequency, edges) - 1
    at = (ring >= 0) & (ring < RINGS)
    count, power_sum, log_frequency_sum = (
        np.bincount(ring[at], values[at], RINGS)
        for values in (np.ones_like(power), power, np.log(frequency + ~at))
    )
    nonempty = count > 0
    if not (power_sum[nonempty] > 1e-12).all():
        return float("nan")
    mean_power = power_sum[nonempty] / count[nonempty]
    return -float(np.polyfit(log_frequency_sum[nonempty] / count[nonempty], np.log(mean_power), 1)[0])


def gradient_kurtosis(plane: np.ndarray) -> float:
    """Compute the kurtosis E[g^4] / E[g^2]^2 of differences of neighbours, averaged over both directions.

    3 for a Gaussian field, 6 for Laplacian differences; edges between smooth regions raise it further.
    A flat plane gives NaN.
    """
    values = []
    for axis in (0, 1):
        squares = np.diff(plane, axis=axis) ** 2
        mean = float(squares.mean())
        values.append(float((squares**2).mean()) / mean**2 if mean > 0 else float("nan"))
    return float(np.mean(values))


def local_contrast(light: np.ndarray) -> float:
    """Average standard deviation / mean of linear luminance over squares of `WINDOW` pixels."""
    rows, columns = (side // WINDOW for side in light.shape)
    squares = light[: rows * WINDOW, : columns * WINDOW].reshape(rows, WINDOW, columns, WINDOW)
    return float((squares.std(axis=(1, 3)) / np.maximum(squares.mean(axis=(1, 3)), DARK)).mean())
