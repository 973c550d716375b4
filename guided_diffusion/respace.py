"""Noise schedules, and respacing: the timesteps that sampling visits.

Papers: Ho et al. 2020 (linear betas), Nichol & Dhariwal 2021 (arXiv 2102.09672, eq. 17 cosine; section 4
respacing), Song et al. 2020 (arXiv 2010.02502, DDIM striding).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np


def get_named_beta_schedule(name: str, steps: int) -> np.ndarray:
    """Betas of the forward process, float64 (steps,), each in (0, 1). Raises ValueError.

    linear: 1e-4 .. 0.02 at 1000 steps, scaled by 1000/steps.
    cosine: alpha_bar(s) = cos^2((s + .008) / 1.008 * pi/2), betas at most 0.999.
    """
    if name == "linear":
        scale = 1000 / steps
        betas = np.linspace(scale * 1e-4, scale * 0.02, steps, dtype=np.float64)
        if betas[-1] >= 1:
            raise ValueError(f"diffusion_steps {steps} is too few for the linear schedule; use 21 or more")
        return betas
    if name == "cosine":
        edges = np.arange(steps + 1, dtype=np.float64) / steps
        alpha_bar = np.cos((edges + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    raise ValueError(f"noise_schedule {name!r} is unknown; choose linear or cosine")


def space_timesteps(steps: int, respacing: str | int | Iterable[int]) -> list[int]:
    """List the training timesteps to sample with, in ascending order. Raises ValueError if that is
    impossible.

    Args:
        steps: Timesteps of the training process.
        respacing: '' = all; 'ddimN' = every k-th step, so that exactly N remain; else a count or several
            ('250', '10,15,25', [10, 15, 25]). The process is cut into that many equal sections, and each
            count is spread evenly over its section, both ends included.
    """
    if isinstance(respacing, str) and respacing.startswith("ddim"):
        return _ddim_timesteps(steps, respacing)
    counts = _counts(respacing)
    if not counts:
        return list(range(steps))
    size, extra = divmod(steps, len(counts))
    timesteps: list[int] = []
    start = 0
    for i, count in enumerate(counts):
        length = size + (i < extra)
        if not 1 <= count <= length:
            raise ValueError(
                f"timestep_respacing {respacing!r}: section {i + 1} has {length} steps, "
                f"so it cannot give {count}; ask for 1 to {length}"
            )
        stride = (length - 1) / (count - 1) if count > 1 else 1.0
        position = 0.0
        for _ in range(count):  # accumulate, do not multiply: its rounding is published
            timesteps.append(start + round(position))
            position += stride
        start += length
    return sorted(set(timesteps))


def _counts(respacing: str | int | Iterable[int]) -> list[int]:
    if isinstance(respacing, int):
        return [respacing]
    if not isinstance(respacing, str):
        return [int(count) for count in respacing]
    try:
        return [int(count) for count in respacing.split(",")] if respacing else []
    except ValueError:
        raise ValueError(
            f"timestep_respacing {respacing!r} is not understood; write '250', '10,15,25', 'ddim50' or ''"
        ) from None


def _ddim_timesteps(steps: int, respacing: str) -> list[int]:
    count = int(respacing[4:]) if respacing[4:].isdigit() else 0
    for stride in range(1, steps):
        if count and len(range(0, steps, stride)) == count:
            return list(range(0, steps, stride))
    raise ValueError(
        f"timestep_respacing {respacing!r}: no whole stride takes that many of {steps} steps; try 'ddim50'"
    )


def respaced_betas(betas: np.ndarray, timesteps: list[int]) -> np.ndarray:
    """Betas of the process that visits only `timesteps`, float64 (N,). alpha_bar stays the same at each."""
    alpha_bar = np.cumprod(1.0 - betas)[timesteps]
    return 1 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]])
