"""Plot of the section `linear`: seconds of a trajectory against its NFE, images and pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def draw_curves(curves: Mapping[str, Sequence[tuple[int, float]]], path: str | Path) -> None:
    """Draw one panel for each curve, with the line on which twice the amount takes twice the time.

    Args:
        curves: Name -> (amount, seconds) of each point.
        path: Image file to write.

    Raises:
        ImportError: The extra `plot` is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(curves), 4), layout="constrained")
    for (name, points), axes in zip(curves.items(), figure.subplots(1, len(curves)), strict=True):
        amounts, seconds = zip(*points, strict=True)
        proportional = [seconds[0] * amount / amounts[0] for amount in amounts]
        axes.plot(amounts, proportional, color="grey", linestyle=":", label="proportional")
        axes.plot(amounts, seconds, marker="o", label="one trajectory")
        axes.set(xlabel=name, ylabel="seconds, minimum", xlim=0, ylim=0, xticks=amounts)
        axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)
