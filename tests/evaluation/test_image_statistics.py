"""Statistics of images against synthetic ones whose statistics are known."""

from __future__ import annotations

import numpy as np
import pytest

from guided_diffusion.evaluation.image_statistics import (
    gradient_kurtosis,
    local_contrast,
    spectrum_slope,
    statistics,
)


def coloured(slope: float, seed: int, side: int = 512) -> np.ndarray:
    """Periodic Gaussian noise with the power spectrum f^-slope, float (side, side)."""
    radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    radius[0, 0] = np.inf
    spectrum = np.fft.rfft2(np.random.default_rng(seed).standard_normal((side, side)))
    return np.fft.irfft2(spectrum * radius ** (-slope / 2), s=(side, side))


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("shape", [(128, 128), (64, 96)])
def test_spectrum_slope_finds_a_power_law(slope: float, shape: tuple[int, int]) -> None:
    height, width = shape
    measured = [
        spectrum_slope(7 + 3 * coloured(slope, seed)[100 : 100 + height, 50 : 50 + width])
        for seed in range(6)
    ]
    assert np.mean(measured) == pytest.approx(slope, abs=0.15)


def test_spectrum_slope_ignores_a_ramp_across_the_frame() -> None:
    """The window keeps the step between opposite borders out of the spectrum."""
    noise = coloured(1.0, 0)[:128, :128]
    ramp = np.linspace(0, 3 * noise.std(), 128)[None]
    assert spectrum_slope(noise + ramp) == pytest.approx(spectrum_slope(noise), abs=0.15)


def test_gradient_kurtosis_of_a_gaussian_field_is_three() -> None:
    assert gradient_kurtosis(np.random.default_rng(0).normal(size=(400, 400))) == pytest.approx(3, rel=0.02)


def test_gradient_kurtosis_is_six_for_laplacian_differences_and_more_for_edges() -> None:
    at = (np.arange(2000) + 0.5) / 1000 - 1
    steps = np.random.default_rng(0).permutation(-np.sign(at) * np.log(1 - np.abs(at)))
    signal = np.cumsum(steps)
    assert gradient_kurtosis(signal[:, None] + signal[None]) == pytest.approx(6, rel=0.05)
    halves = np.zeros((64, 64))
    halves[20:, 20:] = 1
    # One difference in 63 is 1 on 44 of the 64 lines, the others 0: the kurtosis is one over their share.
    assert gradient_kurtosis(halves) == pytest.approx(63 * 64 / 44)


def test_local_contrast_of_a_chequer_ignores_exposure() -> None:
    chequer = 0.2 + 0.4 * (np.indices((32, 48)).sum(axis=0) % 2)
    assert local_contrast(chequer) == pytest.approx(0.5)
    assert local_contrast(0.3 * chequer) == pytest.approx(0.5)
    coarse = np.repeat(np.repeat(chequer[:4, :4], 8, 0), 8, 1)
    assert local_contrast(coarse) == pytest.approx(0), "tones that differ from square to square do not count"


def test_statistics_of_known_colours() -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255
    measured = statistics(red)
    assert measured["mean_l"] == pytest.approx(53.24, abs=0.02)
    assert (measured["mean_a"], measured["mean_b"]) == pytest.approx(
        (80.09, 67.20), abs=0.05
    )  # CIE, sRGB red
    assert measured["chroma"] == pytest.approx(104.55, abs=0.05)
    assert measured["within_a"] == pytest.approx(0, abs=1e-9)
    half = red.copy()
    half[:16] = 119
    measured = statistics(half)
    assert measured["within_a"] == pytest.approx(80.09 / 2, abs=0.05)
    assert measured["within_l"] == pytest.approx((53.24 - 50.03) / 2, abs=0.05)
    assert measured["chroma"] == pytest.approx(104.55 / 2, abs=0.05)


def test_statistics_of_a_flat_image_have_no_slope_and_no_kurtosis() -> None:
    measured = statistics(np.full((32, 32, 3), 90, np.uint8))
    assert np.isnan(measured["slope"]) and np.isnan(measured["kurtosis"])
    assert measured["contrast"] == pytest.approx(0)
