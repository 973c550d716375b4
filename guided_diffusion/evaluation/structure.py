"""Does structure cross a hole? Strong straight edges at its rim that continue inside, in the true image.

Only there can a result be right or wrong about form; elsewhere a smooth result is hard to beat in LAB error
or PSNR. The answer depends on the ground truth and the mask alone. The limits were set before any inpainted
image was looked at.
"""

from __future__ import annotations

import numpy as np

from guided_diffusion.evaluation.hole_metrics import blur, slopes
from guided_diffusion.images.colour import srgb_to_lab
from guided_diffusion.images.masks import edge_distance

# Limits set before the measurements of docs/reports/prior.md.
SIGMA = 2.0  # pixels: scale of the structure tensor, and of the smoothed hole edge
MIN_STRENGTH = 2.5  # L*a*b* units per pixel: coherence x gradient of a strong edge
MIN_ALIGNMENT = np.cos(np.pi / 6)  # an edge may turn by 30 degrees between the rim and the inside
MIN_INCIDENCE = np.cos(np.pi / 4)  # an edge within 45 degrees of the hole's edge runs along it
DEPTH = 4  # pixels from the rim, along the edge, to where the edge must still exist
MIN_CROSSING_FRACTION = 0.05  # fraction of the rim: about one edge through the hole


def structure_crosses_hole(ground_truth: np.ndarray, keep: np.ndarray) -> bool:
    """Test if strong edges enter over at least MIN_CROSSING_FRACTION of the rim; see `crossing_fraction`."""
    return crossing_fraction(ground_truth, keep) >= MIN_CROSSING_FRACTION


def crossing_fraction(ground_truth: np.ndarray, keep: np.ndarray) -> float:
    """Fraction of the rim, the known pixels next to the hole, where a strong edge enters the hole.

    An edge enters if it is strong at the rim, crosses it, and is as strong and runs in the same direction
    DEPTH pixels further along, in or beyond the hole.

    Args:
        ground_truth: uint8 (H, W, 3).
        keep: bool (H, W), True = known.

    Returns:
        A fraction in [0, 1]; 0 if there is no rim.
    """
    rows, columns = np.nonzero(keep & (edge_distance(keep, 1) <= 1))
    if not rows.size:
        return 0.0
    strength, direction = find_edges(ground_truth)
    inward = -np.stack(np.gradient(blur(keep.astype(float), SIGMA, "edge")), -1)[rows, columns]
    inward /= np.maximum(np.linalg.norm(inward, axis=-1, keepdims=True), 1e-12)
    along = direction[rows, columns]
    into = (along * inward).sum(-1)
    ends = np.rint(np.stack([rows, columns], -1) + DEPTH * np.sign(into)[:, None] * along).astype(int)
    limits = np.array(keep.shape)
    in_frame = ((ends >= 0) & (ends < limits)).all(-1)
    inside = tuple(np.clip(ends, 0, limits - 1).T)
    straight = np.abs((along * direction[inside]).sum(-1)) >= MIN_ALIGNMENT
    strong = np.minimum(strength[rows, columns], strength[inside]) >= MIN_STRENGTH
    return float((strong & in_frame & straight & (np.abs(into) >= MIN_INCIDENCE)).mean())


def find_edges(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Measure the strength and direction of the edges of an image uint8 (H, W, 3).

    Uses the structure tensor (Bigun & Granlund 1987), summed over L*, a* and b* (Di Zenzo 1986) and averaged
    by a Gaussian of SIGMA. Strength is coherence, (l1 - l2) / (l1 + l2), times the root mean square gradient,
    the square root of l1 + l2. Edges run along the eigenvector of the smaller eigenvalue, l2.

    Returns:
        strength: (H, W), L*a*b* units per pixel.
        direction: (H, W, 2), unit vectors (down, right).
    """
    gradient = np.stack([slopes(plane) for plane in np.moveaxis(srgb_to_lab(image), -1, 0)])  # (3, H, W, 2)
    down, right = np.moveaxis(gradient, -1, 0)
    products = (down * down, down * right, right * right)
    dd, dr, rr = (blur(product.sum(axis=0), SIGMA, "edge") for product in products)
    strength = np.hypot(dd - rr, 2 * dr) / np.sqrt(np.maximum(dd + rr, 1e-12))
    angle = np.arctan2(2 * dr, dd - rr) / 2  # of the steepest direction, from down towards right
    return strength, np.stack([-np.sin(angle), np.cos(angle)], axis=-1)
