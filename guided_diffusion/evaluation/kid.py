"""Scene-feature KID: how far a set of whole inpainted images is from the set of true images.

The kernel distance of KID (Binkowski et al. 2018, arXiv 1801.01401) over features of the small network in
`feature_network.py`, NOT of Inception: the values cannot be compared with published ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from guided_diffusion.evaluation.feature_network import extract_features
from guided_diffusion.evaluation.mmd import Distance, distance_of_pairs, split_half_range


@dataclass(frozen=True)
class SceneKid:
    """Distances of the methods' sets of images from the ground truth."""

    distances: Mapping[str, Distance]
    """method -> distance"""
    null_range: tuple[float, float]
    """90 % range of the distance between two random halves of the ground truth"""
    title: str = "scene-feature KID x1000"

    def cell(self, method: str) -> str:
        """Format a method's distance times 1000 with its 90 % interval; "-" with too few scenes."""
        distance = self.distances[method]
        if np.isnan(distance.value):
            return "-"
        value, low, high = map(_thousandfold, (distance.value, distance.low, distance.high))
        return value if np.isnan(distance.low) else f"{value} [{low}, {high}]"

    def describe_null_range(self) -> str:
        """Say in one line how far chance alone moves the distance."""
        subject = f"{self.title} of two random halves of the ground truth"
        if np.isnan(self.null_range).any():
            return f"{subject}: too few scenes."
        low, high = map(_thousandfold, self.null_range)
        return f"{subject} (unpaired, 90 % of splits): {low} to {high}."


def scene_kid(
    sets: Mapping[str, Sequence[np.ndarray]], ground_truths: Sequence[np.ndarray], scenes: Sequence[str]
) -> SceneKid:
    """Compute the distances of sets of images from the ground truth.

    Args:
        sets: method -> images uint8 (H, W, 3), in the order of `scenes`.
        ground_truths: images uint8 (H, W, 3), in the same order.
        scenes: the scene of each image.

    Raises:
        CheckpointError: with the remedy, if the network's weights are missing.
    """
    reference = extract_features(ground_truths)
    distances = {
        name: distance_of_pairs(extract_features(images), reference, scenes) for name, images in sets.items()
    }
    return SceneKid(distances, split_half_range(reference, scenes))


def _thousandfold(value: float) -> str:
    return f"{round(1000 * value, 2) + 0.0:.2f}"  # no -0.00
