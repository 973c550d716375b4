"""Whether structure crosses a hole: strong straight edges at its rim that go on inside, in the true image.

Only there can a fill be right or wrong about form; elsewhere a smooth one is hard to beat in LAB or PSNR.
Judged by the truth and the mask alone, with limits that were set before any fill was looked at.
"""

from __future__ import annotations

import numpy as np

from guided_diffusion.evaluation.hole_metrics import blur, slopes, srgb_to_lab
from guided_diffusion.images.masks import edge_distance

SIGMA = 2.0  # pixels over which edges are gathered; also how smooth the hole's edge is taken to be
EDGE = 2.5  # L*a*b* units per pixel: coherence x gradient from here on is a strong edge
ALIKE = np.cos(np.pi / 6)  # 30 degrees between an edge at the rim and what it becomes inside
STEEP = np.cos(np.pi / 4)  # an edge within 45 degrees of the hole's edge runs along it
DEPTH = 4  # pixels from the rim, along the edge, to where it must still be there
CROSSED = 0.05  # share of the rim from which on structure crosses: about one edge through the hole


def crossed(truth: np.ndarray, keep: np.ndarray) -> bool:
    """Whether strong edges go in over at least CROSSED of the hole's rim; `crossing_share`."""
    return crossing_share(truth, keep) >= CROSSED


def crossing_share(truth: np.ndarray, keep: np.ndarray) -> float:
    """Share of the rim, the known pixels nearest to the hole, where a strong edge goes in; 0 without a rim.

    truth: uint8 (H, W, 3); keep: bool (H, W), True = known. An edge goes in if it is strong at the rim,
    crosses it, and DEPTH pixels along it, in or beyond the hole, is as strong and runs the same way.
    """
    rows, columns = np.nonzero(keep & (edge_distance(keep, 1) <= 1))
    if not rows.size:
        return 0.0
    strength, run = edges(truth)
    inward = -np.stack(np.gradient(blur(keep.astype(float), SIGMA, "edge")), -1)[rows, columns]
    inward /= np.maximum(np.linalg.norm(inward, axis=-1, keepdims=True), 1e-12)
    along = run[rows, columns]
    into = (along * inward).sum(-1)
    ends = np.rint(np.stack([rows, columns], -1) + DEPTH * np.sign(into)[:, None] * along).astype(int)
    limits = np.array(keep.shape)
    framed = ((ends >= 0) & (ends < limits)).all(-1)
    there = tuple(np.clip(ends, 0, limits - 1).T)
    straight = np.abs((along * run[there]).sum(-1)) >= ALIKE
    strong = np.minimum(strength[rows, columns], strength[there]) >= EDGE
    return float((strong & framed & straight & (np.abs(into) >= STEEP)).mean())


def edges(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Strength (H, W), L*a*b* units per pixel, and direction (H, W, 2), unit down and right, of the edges.

    Of the structure tensor (Bigun & Granlund 1987), summed over L*, a* and b* (Di Zenzo 1986) and averaged by
    a Gaussian of SIGMA. Strength is its coherence, (l1 - l2) / (l1 + l2), times the root mean square
    gradient, the square root of l1 + l2; edges run along the eigenvector of the smaller eigenvalue, l2.
    """
    gradient = np.stack([slopes(plane) for plane in np.moveaxis(srgb_to_lab(image), -1, 0)])  # (3, H, W, 2)
    down, right = np.moveaxis(gradient, -1, 0)
    products = (down * down, down * right, right * right)
    dd, dr, rr = (blur(product.sum(axis=0), SIGMA, "edge") for product in products)
    strength = np.hypot(dd - rr, 2 * dr) / np.sqrt(np.maximum(dd + rr, 1e-12))
    angle = np.arctan2(2 * dr, dd - rr) / 2  # of the steepest way, from down towards right
    return strength, np.stack([-np.sin(angle), np.cos(angle)], axis=-1)
