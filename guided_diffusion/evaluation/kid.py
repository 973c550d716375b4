"""Scene-feature KID: how far whole filled images, as a set, are from the true ones.

The kernel distance of KID (Binkowski et al. 2018, arXiv 1801.01401) over the features of the small network
in `scene_classifier.py`, NOT of Inception: the figures compare with none published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from guided_diffusion.evaluation.feature_network import features
from guided_diffusion.evaluation.mmd import Distance, distance_of_pairs, halves


@dataclass(frozen=True)
class SceneKid:
    """The distance of each method's set from the truth, and the 90 % range of halves of the truth."""

    distances: Mapping[str, Distance]
    halves: tuple[float, float]
    title: str = "scene-feature KID x1000"

    def cell(self, method: str) -> str:
        """The distance, times a thousand, and its 90 % interval; "-" where there are too few scenes."""
        told = self.distances[method]
        if np.isnan(told.value):
            return "-"
        return _told(told.value) + ("" if np.isnan(told.low) else f" [{_told(told.low)}, {_told(told.high)}]")

    def chance(self) -> str:
        """What the draw alone does, one line."""
        if np.isnan(self.halves).any():
            return f"{self.title} of two random halves of the truth: too few scenes to tell."
        low, high = map(_told, self.halves)
        return (
            f"{self.title} of two random halves of the truth (unpaired, 90 % of halvings): {low} to {high}."
        )


def scene_kid(
    sets: Mapping[str, Sequence[np.ndarray]], truths: Sequence[np.ndarray], scenes: Sequence[str]
) -> SceneKid:
    """The distances of sets of images from `truths`, all uint8 (H, W, 3) and in the order of `scenes`.

    Raises CheckpointError, with the remedy, if the network's weights are not there.
    """
    true = features(truths)
    told = {name: distance_of_pairs(features(images), true, scenes) for name, images in sets.items()}
    return SceneKid(told, halves(true, scenes))


def _told(value: float) -> str:
    return f"{round(1000 * value, 2) + 0.0:.2f}"  # no -0.00
