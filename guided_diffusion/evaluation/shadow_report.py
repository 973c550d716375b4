"""What `evaluate` prints and writes of the images it judged: a line each, means with intervals, a CSV.

Roles: pred is the prediction, shadow the input itself (identity), against another prediction.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from guided_diffusion.evaluation.shadow_metrics import BAND, bootstrap_by_scene

Estimate = tuple[float, float, float]  # a mean and its 90 % interval over scenes; NaN where undefined


@dataclass(frozen=True)
class Judged:
    """An image's scores: role -> measure -> value."""

    name: str
    scene: str
    scores: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Row:
    """A line of the table: a measure, averaged over images or, by `pixels`, over the pixels of a region."""

    title: str
    key: str
    decimals: int = 2
    pixels: str | None = None


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
NAMES = {"pred": "prediction", "shadow": "identity", "against": "against"}
SHORT = ("lab_s", "lab_ns", "lab_all", "psnr_s_true", "lab_band", "texture")  # what an image's line tells
COMPARED = ("lab_s", "lab_s_true", "lab_band", "psnr_s_true")


def estimate(
    values: Sequence[float], scenes: Sequence[str], weights: Sequence[float] | None = None
) -> Estimate:
    """The (weighted) mean of the values that are defined, and its interval over scenes."""
    weights = weights or [1.0] * len(values)
    kept = [told for told in zip(values, scenes, weights, strict=True) if not np.isnan(told[0])]
    if not kept:
        return np.nan, np.nan, np.nan
    values, scenes, weights = zip(*kept, strict=True)
    return float(np.average(values, weights=weights)), *bootstrap_by_scene(values, scenes, weights)


def mean_of(images: Sequence[Judged], role: str, row: Row) -> Estimate:
    """What the table says of one measure and role."""
    values = [p.scores[role].get(row.key, np.nan) for p in images]
    weights = [p.scores[role][row.pixels] for p in images] if row.pixels else None
    return estimate(values, [p.scene for p in images], weights)


def table(images: Sequence[Judged]) -> list[str]:
    """Markdown: a line per measure that is defined, a column per role."""
    roles = [role for role in NAMES if role in images[0].scores]
    lines = [["measure", *(NAMES[role] for role in roles)], ["---"] * (len(roles) + 1)]
    for row in ROWS:
        cells = [_cell(mean_of(images, role, row), row.decimals) for role in roles]
        if any(cells):
            lines.append([row.title, *cells])
    return [f"| {' | '.join(line)} |" for line in lines]


def _cell(told: Estimate, decimals: int) -> str:
    mean, low, high = (_number(value, decimals) for value in told)
    return f"{mean} [{low}, {high}]" if low else mean


def _number(value: float, decimals: int) -> str:
    return "" if np.isnan(value) else f"{value:.{decimals}f}"


def each(images: Sequence[Judged]) -> list[str]:
    """A line per image, of its prediction."""
    width = max(len("image"), *(len(p.name) for p in images))
    lines = [f"{'image':{width}}" + "".join(f"{key:>12}" for key in SHORT)]
    for p in images:
        values = (_number(p.scores["pred"].get(key, np.nan), 3 if key == "texture" else 2) for key in SHORT)
        lines.append(f"{p.name:{width}}" + "".join(f"{value:>12}" for value in values))
    return lines


def differences(images: Sequence[Judged]) -> list[str]:
    """Prediction less rival, image by image: one line per measure that both have."""
    return [
        line for row in ROWS if row.key in COMPARED and not row.pixels for line in _difference(images, row)
    ]


def _difference(images: Sequence[Judged], row: Row) -> list[str]:
    ours, theirs = (np.array([p.scores[role][row.key] for p in images]) for role in ("pred", "against"))
    both = [b for b in zip(ours, theirs, (p.scene for p in images), strict=True) if not np.isnan(b[0])]
    if not both:
        return []
    paired = [a - b if a != b else 0.0 for a, b, _ in both]  # infinity less infinity is no difference
    told = estimate(paired, [scene for _, _, scene in both])
    base = float(np.mean([b for _, b, _ in both]))
    ratio = f" ({told[0] / base:+.1%})" if row.key.startswith("lab") and base > 0 else ""
    sure = "" if np.isnan(told[1]) else "; excludes 0" if told[1] > 0 or told[2] < 0 else "; includes 0"
    return [f"- {row.title}, prediction less the other: {_cell(told, row.decimals)}{ratio}{sure}"]


def to_csv(images: Sequence[Judged]) -> bytes:
    """A line per role and image; what is undefined is blank."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = list(images[0].scores["pred"])
    writer.writerow(["role", "name", "scene", *keys])
    for role in images[0].scores:
        for p in images:
            writer.writerow([role, p.name, p.scene, *(_number(p.scores[role][key], 6) for key in keys)])
    return text.getvalue().encode()
