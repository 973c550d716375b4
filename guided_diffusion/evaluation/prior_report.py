"""Reports of `judge`: scores of inpainted images against the ground truth, as Markdown, CSV and one image.

Every interval resamples whole scenes: windows of one photograph are alike, so they count for less than as
many scenes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from guided_diffusion.evaluation import hole_metrics
from guided_diffusion.evaluation.acceptance import BASELINES, Scores, check_acceptance
from guided_diffusion.evaluation.bootstrap import bootstrap_by_scene, median_by_scene
from guided_diffusion.evaluation.cases import EvalCase
from guided_diffusion.evaluation.kid import SceneKid
from guided_diffusion.images.contact_sheet import contact_sheet

SHEET_METHODS = (*BASELINES, "repaint-1", "repaint-10", "td_paint")
SHEET_ROWS = 8


@dataclass(frozen=True)
class MethodOutput:
    """The results of a method for all cases."""

    method: str
    images: list[np.ndarray]
    """one per case, uint8 (S, S, 3)"""
    seconds: float
    """per image"""
    nfe: int = 0
    """network function evaluations per image"""


@dataclass(frozen=True)
class Column:
    """A column of the table: a measure, averaged over cases."""

    key: str
    """name of the measure in scores and CSV"""
    title: str
    measure: Callable[[np.ndarray, EvalCase], float]
    """value of an inpainted image, uint8 (S, S, 3), for its case"""
    decimals: int = 2
    median: bool = False
    """whether the median is reported instead of the mean"""
    crossing: bool | None = None
    """True: only cases whose hole structure crosses; False: only the others; None: all cases"""

    @property
    def head(self) -> str:
        """Title with the kind of average."""
        return f"{self.title} ({'median' if self.median else 'mean'})"

    def cell(self, values: Sequence[float], cases: Sequence[EvalCase]) -> str:
        """Format the mean or median and its interval.

        The result is "-" if no case counts or the measure is undefined; with a single scene there is no
        interval.
        """
        indices = [i for i, case in enumerate(cases) if self.crossing in (None, case.structure_crosses)]
        counted = [values[i] for i in indices]
        if not counted or np.isnan(counted).any():
            return "-"
        scenes = [cases[i].scene for i in indices]
        low, high = (median_by_scene if self.median else bootstrap_by_scene)(counted, scenes)
        middle = np.median(counted) if self.median else np.mean(counted)
        lower, centre, upper = (f"{value:.{self.decimals}f}" for value in (low, middle, high))
        return centre if np.isnan(low) else f"{centre} [{lower}, {upper}]"


def _lab(x: np.ndarray, case: EvalCase) -> float:
    return hole_metrics.lab_error(x, case.ground_truth, ~case.keep)


def _psnr(x: np.ndarray, case: EvalCase) -> float:
    return hole_metrics.psnr(x, case.ground_truth, ~case.keep)


def _with_ground_truth(
    measure: Callable[[np.ndarray, np.ndarray, np.ndarray], float],
) -> Callable[[np.ndarray, EvalCase], float]:
    return lambda x, case: measure(x, case.ground_truth, case.keep)


def _alone(measure: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[np.ndarray, EvalCase], float]:
    return lambda x, case: measure(x, case.keep)


COLUMNS = (
    Column("lab", "LAB error", _lab, 1),
    Column("lab", "LAB error, structure crosses", _lab, 1, crossing=True),
    Column("lab", "LAB error, no structure crosses", _lab, 1, crossing=False),
    Column("psnr", "PSNR", _psnr, 1),
    Column("ring", "ring mismatch", _with_ground_truth(hole_metrics.ring_gradient_mismatch)),
    Column("level", "ring level", _with_ground_truth(hole_metrics.ring_level_mismatch)),
    Column("ring_error", "ring error", _with_ground_truth(hole_metrics.ring_gradient_error)),
    Column("seam", "seam ratio", _alone(hole_metrics.seam_ratio), median=True),
    Column("texture", "texture, hole / outside", _alone(hole_metrics.texture_ratio), median=True),
    Column(
        "texture_truth",
        "texture, hole / ground truth",
        _with_ground_truth(hole_metrics.texture_ratio_to_ground_truth),
        median=True,
    ),
)
MEASURES = tuple(column for column in COLUMNS if column.crossing is None)


@dataclass(frozen=True)
class MaskKindResults:
    """The results of all methods for a kind of mask."""

    kind: str
    """kind of mask, such as `thick`"""
    cases: Sequence[EvalCase]
    outputs: Sequence[MethodOutput]
    scores: Scores
    """method -> column key -> one value per case"""
    kid: SceneKid
    """distances of the methods' sets of images from the ground truth"""


def score_outputs(cases: Sequence[EvalCase], outputs: Sequence[MethodOutput]) -> Scores:
    """Compute every measure of every inpainted image."""
    scores: Scores = {}
    for output in outputs:
        pairs = list(zip(output.images, cases, strict=True))
        scores[output.method] = {c.key: [c.measure(x, case) for x, case in pairs] for c in MEASURES}
    return scores


def format_table(results: MaskKindResults) -> list[str]:
    """Format Markdown lines: a row per method; each cell is the mean or median with its 90 % interval."""
    head = ["method", *(c.head for c in COLUMNS), results.kid.title, "NFE", "seconds / image"]
    lines = [_row(head), _row(["---"] * len(head))]
    for output in results.outputs:
        columns = results.scores[output.method]
        cells = [column.cell(columns[column.key], results.cases) for column in COLUMNS]
        cells += [results.kid.cell(output.method), str(output.nfe), f"{output.seconds:.2g}"]
        lines.append(_row([output.method, *cells]))
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def to_csv(blocks: Sequence[MaskKindResults]) -> bytes:
    """Write a CSV with a line per kind of mask, method and case."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = [column.key for column in MEASURES]
    writer.writerow(["mask", "method", "case", "scene", "structure_crosses", *keys])
    for block in blocks:
        for method, columns in block.scores.items():
            for i, case in enumerate(block.cases):
                values = [f"{columns[key][i]:.6g}" for key in keys]
                crosses = int(case.structure_crosses)
                writer.writerow([block.kind, method, case.name, case.scene, crosses, *values])
    return text.getvalue().encode()


def draw_sheet(blocks: Sequence[MaskKindResults]) -> np.ndarray:
    """Draw a contact sheet, uint8 (H, W, 3): the first cases of each kind of mask, a row each.

    Columns: masked input, the methods of SHEET_METHODS, ground truth.
    """
    shown = [output.method for output in blocks[0].outputs if output.method in SHEET_METHODS]
    rows: list[list[np.ndarray]] = []
    labels: list[str] = []
    for block in blocks:
        images = {output.method: output.images for output in block.outputs}
        for i, case in enumerate(block.cases[: max(1, SHEET_ROWS // len(blocks))]):
            masked = case.ground_truth * case.keep[..., None]
            rows.append([masked, *(images[method][i] for method in shown), case.ground_truth])
            labels.append(f"{block.kind}, {case.name}")
    return contact_sheet(rows, ["masked", *shown, "ground truth"], labels, 2 * rows[0][0].shape[0])


def format_report(title: Sequence[str], blocks: Sequence[MaskKindResults]) -> str:
    """Format the whole Markdown file: the title's lines, then a section per kind of mask."""
    lines = list(title)
    for block in blocks:
        hole = 1 - np.mean([case.keep.mean() for case in block.cases])
        crossing = sum(case.structure_crosses for case in block.cases)
        lines += ["", f"## Masks `{block.kind}`", ""]
        lines += [
            f"The holes cover {hole:.0%}; structure crosses the hole in {crossing} of {len(block.cases)}."
        ]
        lines += ["", *format_table(block), "", block.kid.describe_null_range()]
        checks = check_acceptance(block.cases, block.scores)
        lines += ["", *checks] if checks else []
    return "\n".join(lines) + "\n"
