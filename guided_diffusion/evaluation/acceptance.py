"""What a prior is held to, as yes, no or unclear: compared place by place, with intervals by scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from guided_diffusion.evaluation import hole_metrics
from guided_diffusion.evaluation.cases import Place
from guided_diffusion.evaluation.shadow_metrics import bootstrap_by_scene

RIVALS = ("nearest", "membrane")  # fills that know nothing
TEXTURE = (0.85, 1.15)  # where the hole's texture energy, relative to the truth's, should lie
LAB = 0.75  # of the membrane's LAB error: what a prior may leave where structure crosses the hole
LEVEL = 0.15  # by which gradients beside the hole's edge may be stronger or weaker than the true ones
ONCE = 1.1  # of repaint's LAB error: what td_paint may leave, which evaluates the network once per step

Scores = dict[str, dict[str, list[float]]]  # method -> column -> one value per place


def median_by_scene(values: Sequence[float], scenes: Sequence[str]) -> tuple[float, float]:
    """90 % interval of the median over images when whole scenes are drawn; see `bootstrap_by_scene`."""
    names, which = np.unique(np.asarray(scenes), return_inverse=True)
    if len(names) < 2:
        return float("nan"), float("nan")
    order = np.argsort(values)
    ranked, of = np.asarray(values, dtype=float)[order], which[order]

    def median(drawn: np.ndarray, axis: int) -> np.ndarray:
        drawn = drawn.astype(int)
        copies = np.zeros((len(drawn), len(names)), dtype=int)
        np.add.at(copies, (np.arange(len(drawn))[:, None], drawn), 1)
        upto = copies[:, of].cumsum(axis=1)  # images drawn, up to each rank
        half = upto[:, -1:] / 2
        return (ranked[(upto >= half).argmax(axis=1)] + ranked[(upto > half).argmax(axis=1)]) / 2

    return hole_metrics.bootstrap(range(len(names)), median)


def verdicts(places: Sequence[Place], scores: Scores) -> list[str]:
    """What the prior is held to, one line each, for the repaint that resamples most."""
    resampled = sorted((m for m in scores if m.startswith("repaint-")), key=lambda m: int(m[8:]))
    if not resampled:
        return []
    best = resampled[-1]
    lines = [_compared(places, scores, best, name, "ring") for name in RIVALS if name in scores]
    for fewer, more in pairwise(resampled):
        lines += [_compared(places, scores, more, fewer, key) for key in ("ring", "lab")]
    if "membrane" in scores:
        lines += [_share(places, scores, best, crossed) for crossed in (True, False)]
    lines += [_texture(places, scores, best), _level(places, scores, best)]
    return lines + ([_once(places, scores, best)] if "td_paint" in scores else [])


def _texture(places: Sequence[Place], scores: Scores, method: str) -> str:
    ratios = scores[method]["texture_truth"]
    low, high = median_by_scene(ratios, [place.scene for place in places])
    least, most = TEXTURE
    within = "yes" if least <= low <= high <= most else "no" if high < least or low > most else "unclear"
    return (
        f"- texture, hole / truth, of {method} within {least} to {most}: **{within}** "
        f"({np.median(ratios):.2f} [{low:.2f}, {high:.2f}])"
    )


def _level(places: Sequence[Place], scores: Scores, method: str) -> str:
    values = scores[method]["level"]
    low, high = bootstrap_by_scene(values, [place.scene for place in places])
    return (
        f"- gradients beside the edge of {method} off the true ones' level by at most {LEVEL:.0%}: "
        f"**{_told(low, high, LEVEL)}** ({np.mean(values):.0%} [{low:.0%}, {high:.0%}])"
    )


def _once(places: Sequence[Place], scores: Scores, method: str) -> str:
    """LAB error of td_paint over that of the repaint that resamples most, both added up over the places."""
    ratio, low, high = _over(places, scores, "td_paint", method, range(len(places)))
    return (
        f"- LAB error of td_paint over {method}'s at most {ONCE}: **{_told(low, high, ONCE)}** "
        f"({ratio:.2f} [{low:.2f}, {high:.2f}])"
    )


def _over(
    places: Sequence[Place], scores: Scores, method: str, other: str, of: Sequence[int]
) -> tuple[float, float, float]:
    """LAB error over another method's, both added up over these places, and its interval."""
    own, rival = (np.array(scores[name]["lab"])[of] for name in (method, other))
    rival = np.maximum(rival, 1e-9)
    low, high = bootstrap_by_scene((own / rival).tolist(), [places[i].scene for i in of], rival.tolist())
    return own.sum() / rival.sum(), low, high


_NAMES: Mapping[str, str] = {"ring": "ring mismatch", "lab": "LAB error"}


def _compared(places: Sequence[Place], scores: Scores, method: str, other: str, key: str) -> str:
    """Two methods, place by place: unclear if the interval of the difference holds 0."""
    difference = np.subtract(scores[method][key], scores[other][key])
    low, high = bootstrap_by_scene(difference.tolist(), [place.scene for place in places])
    lower = (difference < 0).mean()
    return (
        f"- {_NAMES[key]} of {method} lower than of {other}: **{_told(low, high, 0)}** "
        f"({difference.mean():+.2f} [{low:+.2f}, {high:+.2f}], lower in {lower:.0%} of places)"
    )


def _share(places: Sequence[Place], scores: Scores, method: str, crossed: bool) -> str:
    """LAB error over the membrane's, both added up over the places; the bar is for those that are crossed."""
    of = [i for i, place in enumerate(places) if place.crossed == crossed]
    where = "where structure crosses the hole" if crossed else "where none does"
    if not of:
        return f"- LAB error of {method} over membrane's {where}: no such place"
    ratio, low, high = _over(places, scores, method, "membrane", of)
    bar = f" at most {LAB}: **{_told(low, high, LAB)}**" if crossed else ":"
    return (
        f"- LAB error of {method} over membrane's {where}{bar} "
        f"({ratio:.2f} [{low:.2f}, {high:.2f}], {len(of)} places)"
    )


def _told(low: float, high: float, limit: float) -> str:
    return "yes" if high < limit else "no" if low > limit else "unclear"
