"""Small places for the tests of the judge's tables and verdicts."""

from __future__ import annotations

import numpy as np

from guided_diffusion.evaluation.cases import Place

KEEP = np.broadcast_to(np.arange(16) < 8, (16, 16))


def place(name: str, scene: str, crosses: bool) -> Place:
    """Two tones above each other, into the hole, or one."""
    truth = np.full((16, 16, 3), 60, np.uint8)
    truth[8:] = 180 if crosses else 60
    return Place(name, scene, truth, KEEP)


PLACES = [place(f"{i}", f"{i}", i % 2 == 0) for i in range(4)]
