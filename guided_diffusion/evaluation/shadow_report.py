"""Reports of `evaluate`: one line per image, tables of means with intervals, paired differences, a CSV.

Roles: `pred` is the prediction, `shadow` the input itself (identity), `against` another prediction.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from guided_diffusion.evaluation.bootstrap import bootstrap_by_scene
from guided_diffusion.evaluation.shadow_metrics import BAND

Estimate = tuple[float, float, float]  # mean, and its 90 % interval over scenes; NaN where undefined


@dataclass(frozen=True)
class ImageScores:
    """The scores of an image."""

    name: str
    scene: str
    scores: Mapping[str, Mapping[str, float]]
    """role -> measure -> value"""


@dataclass(frozen=True)
class Row:
    """A row of the table: the mean of a measure."""

    title: str
    key: str
    """name of the measure, as in `shadow_metrics.score`"""
    decimals: int = 2
    pixels: str | None = None
    """name of a pixel count: the mean is over the pixels of that region; None: over images"""


ROWS = (
    Row("LAB, shadow (S)", "lab_s"),
    Row("LAB, non-shadow (NS)", "lab_ns"),
    Row("LAB, all", "lab_all"),
    Row("LAB, S, over pixels (PP)", "lab_s", pixels="pixels_s"),
    Row("LAB, NS, over pixels (PP)", "lab_ns", pixels="pixels_ns"),
    Row("PSNR, S (black elsewhere), dB", "psnr_s"),
    Row("PSNR, NS (black elsewhere), dB", "psnr_ns"),
    Row("PSNR, all, dB", "psnr_all"),
    *(Row(f"SSIM, {name}, MATLAB's volume", f"ssim3_{name.lower()}", 4) for name in ("S", "NS", "all")),
    *(Row(f"SSIM, {name}, per channel", f"ssim_{name.lower()}", 4) for name in ("S", "NS", "all")),
    Row("true LAB in the shadow", "lab_s_true"),
    Row("true PSNR in the shadow, dB", "psnr_s_true"),
    Row(f"LAB within {BAND} px of the edge", "lab_band"),
    Row("texture correlation with the input", "texture", 3),
    Row("LAB, NS, beyond identity", "lab_ns_beyond"),
)
ROLE_TITLES = {"pred": "prediction", "shadow": "identity", "against": "against"}
# Measures in an image's line, and measures whose paired differences are reported.
SHORT = ("lab_s", "lab_ns", "lab_all", "psnr_s_true", "lab_band", "texture")
COMPARED = ("lab_s", "lab_s_true", "lab_band", "psnr_s_true")


def estimate(
    values: Sequence[float], scenes: Sequence[str], weights: Sequence[float] | None = None
) -> Estimate:
    """Compute the (weighted) mean of the values that are not NaN, and its interval over scenes."""
    weights = weights or [1.0] * len(values)
    defined = [entry for entry in zip(values, scenes, weights, strict=True) if not np.isnan(entry[0])]
    if not defined:
        return np.nan, np.nan, np.nan
    values, scenes, weights = zip(*defined, strict=True)
    return float(np.average(values, weights=weights)), *bootstrap_by_scene(values, scenes, weights)


def mean_of_row(images: Sequence[ImageScores], role: str, row: Row) -> Estimate:
    """Compute the table's entry for a row and a role."""
    values = [image.scores[role].get(row.key, np.nan) for image in images]
    weights = [image.scores[role][row.pixels] for image in images] if row.pixels else None
    return estimate(values, [image.scene for image in images], weights)


def format_table(images: Sequence[ImageScores]) -> list[str]:
    """Format the means as Markdown lines: a row per measure that is defined, a column per role."""
    roles = [role for role in ROLE_TITLES if role in images[0].scores]
    lines = [["measure", *(ROLE_TITLES[role] for role in roles)], ["---"] * (len(roles) + 1)]
    for row in ROWS:
        cells = [_cell(mean_of_row(images, role, row), row.decimals) for role in roles]
        if any(cells):
            lines.append([row.title, *cells])
    return [f"| {' | '.join(line)} |" for line in lines]


def _cell(entry: Estimate, decimals: int) -> str:
    mean, low, high = (_number(value, decimals) for value in entry)
    return f"{mean} [{low}, {high}]" if low else mean


def _number(value: float, decimals: int) -> str:
    return "" if np.isnan(value) else f"{value:.{decimals}f}"


def format_images(images: Sequence[ImageScores]) -> list[str]:
    """Format a head line, and a line per image with the scores of its prediction."""
    width = max(len("image"), *(len(image.name) for image in images))
    lines = [f"{'image':{width}}" + "".join(f"{key:>12}" for key in SHORT)]
    for image in images:
        scores = image.scores["pred"]
        values = (_number(scores.get(key, np.nan), 3 if key == "texture" else 2) for key in SHORT)
        lines.append(f"{image.name:{width}}" + "".join(f"{value:>12}" for value in values))
    return lines


def format_differences(images: Sequence[ImageScores]) -> list[str]:
    """Format the paired differences, prediction minus the other prediction: a line per measure."""
    return [
        line for row in ROWS if row.key in COMPARED and not row.pixels for line in _difference(images, row)
    ]


def _difference(images: Sequence[ImageScores], row: Row) -> list[str]:
    ours, theirs = (
        np.array([image.scores[role][row.key] for image in images]) for role in ("pred", "against")
    )
    scenes = [image.scene for image in images]
    pairs = [pair for pair in zip(ours, theirs, scenes, strict=True) if not np.isnan(pair[0])]
    if not pairs:
        return []
    differences = [a - b if a != b else 0.0 for a, b, _ in pairs]  # infinity minus infinity: no difference
    mean, low, high = entry = estimate(differences, [scene for _, _, scene in pairs])
    base = float(np.mean([b for _, b, _ in pairs]))
    ratio = f" ({mean / base:+.1%})" if row.key.startswith("lab") and base > 0 else ""
    significance = "" if np.isnan(low) else "; excludes 0" if low > 0 or high < 0 else "; includes 0"
    return [f"- {row.title}, prediction minus the other: {_cell(entry, row.decimals)}{ratio}{significance}"]


def to_csv(images: Sequence[ImageScores]) -> bytes:
    """Write a CSV with a line per role and image; undefined scores are blank."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = list(images[0].scores["pred"])
    writer.writerow(["role", "name", "scene", *keys])
    for role in images[0].scores:
        for image in images:
            scores = (_number(image.scores[role][key], 6) for key in keys)
            writer.writerow([role, image.name, image.scene, *scores])
    return text.getvalue().encode()
