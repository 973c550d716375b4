"""Acceptance checks of a prior: one line each that says yes, no or unclear.

Methods are compared case by case, with 90 % intervals over scenes. A check is unclear if its limit lies
within the interval. The limits and the results are in docs/reports/prior.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from guided_diffusion.evaluation.bootstrap import bootstrap_by_scene, median_by_scene
from guided_diffusion.evaluation.cases import EvalCase

BASELINES = ("nearest", "harmonic")  # non-learned methods
# From docs/reports/prior.md, "Targets set before training".
TEXTURE_RANGE = (0.85, 1.15)  # texture energy in the hole relative to the ground truth's
MAX_HARMONIC_RATIO = 0.75  # LAB error relative to harmonic inpainting's, where structure crosses the hole
MAX_GRADIENT_DEVIATION = 0.15  # relative deviation of gradients beside the hole's edge
MAX_TD_PAINT_RATIO = 1.1  # LAB error of td_paint relative to repaint's; td_paint needs one NFE per step

Scores = dict[str, dict[str, list[float]]]  # method -> column key -> one value per case

_COLUMN_NAMES: Mapping[str, str] = {"ring": "ring mismatch", "lab": "LAB error"}


def check_acceptance(cases: Sequence[EvalCase], scores: Scores) -> list[str]:
    """Run all checks on the repaint that resamples most often; one Markdown line per check.

    Returns no line if no `repaint-N` is among the methods.
    """
    resampled = sorted((m for m in scores if m.startswith("repaint-")), key=lambda m: int(m[8:]))
    if not resampled:
        return []
    best = resampled[-1]
    lines = [check_lower(cases, scores, best, name, "ring") for name in BASELINES if name in scores]
    for fewer, more in pairwise(resampled):
        lines += [check_lower(cases, scores, more, fewer, key) for key in ("ring", "lab")]
    if "harmonic" in scores:
        lines += [check_harmonic_ratio(cases, scores, best, crossing) for crossing in (True, False)]
    lines += [check_texture(cases, scores, best), check_gradients(cases, scores, best)]
    further = {"td_paint": check_td_paint}
    return lines + [check(cases, scores, best) for name, check in further.items() if name in scores]


def check_lower(cases: Sequence[EvalCase], scores: Scores, method: str, other: str, key: str) -> str:
    """Check that a method scores lower than another, case by case."""
    difference = np.subtract(scores[method][key], scores[other][key])
    low, high = bootstrap_by_scene(difference.tolist(), [case.scene for case in cases])
    lower = (difference < 0).mean()
    return (
        f"- {_COLUMN_NAMES[key]} of {method} lower than of {other}: **{_compare(low, high, 0)}** "
        f"({difference.mean():+.2f} [{low:+.2f}, {high:+.2f}], lower in {lower:.0%} of cases)"
    )


def check_harmonic_ratio(cases: Sequence[EvalCase], scores: Scores, method: str, crossing: bool) -> str:
    """Check the LAB error relative to harmonic inpainting's, where structure crosses the hole.

    With `crossing` False the line gives the ratio of the other cases, which have no limit.
    """
    indices = [i for i, case in enumerate(cases) if case.structure_crosses == crossing]
    where = "where structure crosses the hole" if crossing else "where no structure crosses"
    if not indices:
        return f"- LAB error of {method} / harmonic {where}: no such case"
    ratio, low, high = _lab_ratio(cases, scores, method, "harmonic", indices)
    limit = (
        f" at most {MAX_HARMONIC_RATIO}: **{_compare(low, high, MAX_HARMONIC_RATIO)}**" if crossing else ":"
    )
    return (
        f"- LAB error of {method} / harmonic {where}{limit} "
        f"({ratio:.2f} [{low:.2f}, {high:.2f}], {len(indices)} cases)"
    )


def check_texture(cases: Sequence[EvalCase], scores: Scores, method: str) -> str:
    """Check that the median texture energy in the hole lies within TEXTURE_RANGE of the ground truth's."""
    ratios = scores[method]["texture_truth"]
    low, high = median_by_scene(ratios, [case.scene for case in cases])
    lower, upper = TEXTURE_RANGE
    within = "yes" if lower <= low <= high <= upper else "no" if high < lower or low > upper else "unclear"
    return (
        f"- texture, hole / ground truth, of {method} within {lower} to {upper}: **{within}** "
        f"({np.median(ratios):.2f} [{low:.2f}, {high:.2f}])"
    )


def check_gradients(cases: Sequence[EvalCase], scores: Scores, method: str) -> str:
    """Check that gradients beside the hole's edge are nearly as strong as the ground truth's."""
    values = scores[method]["level"]
    low, high = bootstrap_by_scene(values, [case.scene for case in cases])
    return (
        f"- gradients beside the edge of {method} deviate from the ground truth's by at most "
        f"{MAX_GRADIENT_DEVIATION:.0%}: **{_compare(low, high, MAX_GRADIENT_DEVIATION)}** "
        f"({np.mean(values):.0%} [{low:.0%}, {high:.0%}])"
    )


def check_td_paint(cases: Sequence[EvalCase], scores: Scores, method: str) -> str:
    """Check the LAB error of td_paint relative to that of another method."""
    ratio, low, high = _lab_ratio(cases, scores, "td_paint", method, range(len(cases)))
    return (
        f"- LAB error of td_paint / {method} at most {MAX_TD_PAINT_RATIO}: "
        f"**{_compare(low, high, MAX_TD_PAINT_RATIO)}** ({ratio:.2f} [{low:.2f}, {high:.2f}])"
    )


def _lab_ratio(
    cases: Sequence[EvalCase], scores: Scores, method: str, other: str, indices: Sequence[int]
) -> tuple[float, float, float]:
    """Ratio of the summed LAB errors of two methods over these cases, and its interval."""
    errors, reference = (np.array(scores[name]["lab"])[indices] for name in (method, other))
    reference = np.maximum(reference, 1e-9)
    scenes = [cases[i].scene for i in indices]
    low, high = bootstrap_by_scene((errors / reference).tolist(), scenes, reference.tolist())
    return errors.sum() / reference.sum(), low, high


def _compare(low: float, high: float, limit: float) -> str:
    return "yes" if high < limit else "no" if low > limit else "unclear"
