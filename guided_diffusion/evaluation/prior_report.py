"""The judge's report: how fills compare with the truth, in markdown, CSV and one image.

Every interval draws whole scenes: windows of one photograph are alike and count for less than as many scenes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from guided_diffusion.evaluation import hole_metrics
from guided_diffusion.evaluation.acceptance import RIVALS, Scores, median_by_scene, verdicts
from guided_diffusion.evaluation.cases import Place
from guided_diffusion.evaluation.kid import SceneKid
from guided_diffusion.evaluation.shadow_metrics import bootstrap_by_scene
from guided_diffusion.images.formats import contact_sheet

ON_SHEET = (*RIVALS, "repaint-1", "repaint-10", "td_paint")
SHEET_ROWS = 8


@dataclass(frozen=True)
class Answer:
    """What one method made of all places; seconds and network evaluations are per image."""

    method: str
    images: list[np.ndarray]
    seconds: float
    nfe: int = 0


@dataclass(frozen=True)
class Column:
    """A measure of (filled, place), its decimals, whether its median is told instead of its mean, and whether
    only the places that structure crosses (True) or does not (False) count."""

    key: str
    title: str
    measure: Callable[[np.ndarray, Place], float]
    decimals: int = 2
    median: bool = False
    crossed: bool | None = None

    @property
    def head(self) -> str:
        return f"{self.title} ({'median' if self.median else 'mean'})"

    def cell(self, values: Sequence[float], places: Sequence[Place]) -> str:
        """The mean or median and its interval; "-" if no place counts or the measure says nothing here.

        One scene gives no interval.
        """
        of = [i for i, place in enumerate(places) if self.crossed in (None, place.crossed)]
        told = [values[i] for i in of]
        if not told or np.isnan(told).any():
            return "-"
        scenes = [places[i].scene for i in of]
        low, high = (median_by_scene if self.median else bootstrap_by_scene)(told, scenes)
        middle = np.median(told) if self.median else np.mean(told)
        least, told_middle, most = (f"{value:.{self.decimals}f}" for value in (low, middle, high))
        return told_middle if np.isnan(low) else f"{told_middle} [{least}, {most}]"


def _lab(x: np.ndarray, place: Place) -> float:
    return hole_metrics.lab_error(x, place.truth, ~place.keep)


COLUMNS = (
    Column("lab", "LAB error", _lab, 1),
    Column("lab", "LAB error, structure crosses", _lab, 1, crossed=True),
    Column("lab", "LAB error, none crosses", _lab, 1, crossed=False),
    Column("psnr", "PSNR", lambda x, p: hole_metrics.psnr(x, p.truth, ~p.keep), 1),
    Column("ring", "ring mismatch", lambda x, p: hole_metrics.ring_gradient_mismatch(x, p.truth, p.keep)),
    Column("level", "ring level", lambda x, p: hole_metrics.ring_level_mismatch(x, p.truth, p.keep)),
    Column("ring_error", "ring error", lambda x, p: hole_metrics.ring_gradient_error(x, p.truth, p.keep)),
    Column("seam", "seam ratio", lambda x, p: hole_metrics.seam_ratio(x, p.keep), median=True),
    Column(
        "texture", "texture, hole / outside", lambda x, p: hole_metrics.texture_ratio(x, p.keep), median=True
    ),
    Column(
        "texture_truth",
        "texture, hole / truth",
        lambda x, p: hole_metrics.texture_ratio_to_truth(x, p.truth, p.keep),
        median=True,
    ),
)
MEASURES = tuple(column for column in COLUMNS if column.crossed is None)


@dataclass(frozen=True)
class Block:
    """All that was made of the places of one kind of mask, and how it scores, each alone and as a set."""

    kind: str
    places: Sequence[Place]
    answers: Sequence[Answer]
    scores: Scores
    kid: SceneKid


def score(places: Sequence[Place], answers: Sequence[Answer]) -> Scores:
    """Every measure of every fill."""
    scores: Scores = {}
    for a in answers:
        pairs = list(zip(a.images, places, strict=True))
        scores[a.method] = {c.key: [c.measure(x, p) for x, p in pairs] for c in MEASURES}
    return scores


def table(block: Block) -> list[str]:
    """Markdown: a row per method; each cell is the figure over all places and its 90 % interval."""
    head = ["method", *(c.head for c in COLUMNS), block.kid.title, "evaluations", "seconds / image"]
    lines = [_row(head), _row(["---"] * len(head))]
    for a in block.answers:
        cells = [column.cell(block.scores[a.method][column.key], block.places) for column in COLUMNS]
        cells += [block.kid.cell(a.method), str(a.nfe), f"{a.seconds:.2g}"]
        lines.append(_row([a.method, *cells]))
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def to_csv(blocks: Sequence[Block]) -> bytes:
    """A line per kind of mask, method and place."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = [column.key for column in MEASURES]
    writer.writerow(["mask", "method", "place", "scene", "crossed", *keys])
    for block in blocks:
        for method, columns in block.scores.items():
            for i, p in enumerate(block.places):
                values = [f"{columns[key][i]:.6g}" for key in keys]
                writer.writerow([block.kind, method, p.name, p.scene, int(p.crossed), *values])
    return text.getvalue().encode()


def sheet(blocks: Sequence[Block]) -> np.ndarray:
    """masked | fills | truth of the first places of each kind of mask."""
    shown = [a.method for a in blocks[0].answers if a.method in ON_SHEET]
    rows: list[list[np.ndarray]] = []
    labels: list[str] = []
    for block in blocks:
        fills = {a.method: a.images for a in block.answers}
        for i, place in enumerate(block.places[: max(1, SHEET_ROWS // len(blocks))]):
            masked = place.truth * place.keep[..., None]
            rows.append([masked, *(fills[method][i] for method in shown), place.truth])
            labels.append(f"{block.kind}, {place.name}")
    return contact_sheet(rows, ["masked", *shown, "truth"], labels, 2 * rows[0][0].shape[0])


def report(title: Sequence[str], blocks: Sequence[Block]) -> str:
    """The whole markdown file."""
    lines = list(title)
    for block in blocks:
        hole = 1 - np.mean([place.keep.mean() for place in block.places])
        crossed = sum(place.crossed for place in block.places)
        lines += ["", f"## Masks `{block.kind}`", ""]
        lines += [
            f"{hole:.0%} is to be filled; structure crosses the hole in {crossed} of {len(block.places)}."
        ]
        lines += ["", *table(block), "", block.kid.chance()]
        told = verdicts(block.places, block.scores)
        lines += ["", *told] if told else []
    return "\n".join(lines) + "\n"
