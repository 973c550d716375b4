"""An image of the section `linear`: what a walk costs against what it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def draw_curves(curves: Mapping[str, Sequence[tuple[int, float]]], path: str | Path) -> None:
    """A panel for each curve, name -> (amount, seconds), with the line on which twice as much takes twice as
    long. Needs the extra `plot` (ImportError)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(curves), 4), layout="constrained")
    for (name, points), axes in zip(curves.items(), figure.subplots(1, len(curves)), strict=True):
        amounts, seconds = zip(*points, strict=True)
        straight = [seconds[0] * amount / amounts[0] for amount in amounts]
        axes.plot(amounts, straight, color="grey", linestyle=":", label="in proportion")
        axes.plot(amounts, seconds, marker="o", label="a walk")
        axes.set(xlabel=name, ylabel="seconds, least", xlim=0, ylim=0, xticks=amounts)
        axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)
