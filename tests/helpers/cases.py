"""Small evaluation cases for the tests of the judge's tables and acceptance checks."""

from __future__ import annotations

import numpy as np

from guided_diffusion.evaluation.cases import EvalCase

KEEP = np.broadcast_to(np.arange(16) < 8, (16, 16))


def eval_case(name: str, scene: str, crosses: bool) -> EvalCase:
    """Build a case: two tones above each other that enter the hole, or a single tone."""
    ground_truth = np.full((16, 16, 3), 60, np.uint8)
    ground_truth[8:] = 180 if crosses else 60
    return EvalCase(name, scene, ground_truth, KEEP)


CASES = [eval_case(f"{i}", f"{i}", i % 2 == 0) for i in range(4)]
