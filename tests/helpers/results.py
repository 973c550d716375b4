"""Short ways to the outputs of a Result."""

from __future__ import annotations

import numpy as np

from guided_diffusion.output.results import Output, Result


def inpainted(result: Result) -> np.ndarray | None:
    """The inpainted image, None if there is none or an earlier run finished it."""
    output = result.outputs.get("inpainted")
    return None if output is None else output.image


def shadow_free(result: Result) -> Output | None:
    """The shadow-free output, None if it was not asked for."""
    return result.outputs.get("shadow_free")
