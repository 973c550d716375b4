"""A tiny model, its images and masks, and the types of the fixtures that lay them out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
MODEL = {
    "image_size": 16,
    "num_channels": 32,
    "channel_mult": "1,1",
    "num_res_blocks": 1,
    "attention_resolutions": "8",
    "num_head_channels": 16,
}
SCHEDULE = {"timestep_respacing": "6", "schedule_jump_params": {"jump_length": 2, "jump_n_sample": 2}}
NFE = 6 + 2 * len(range(0, 6 - 2, 2))

Project = Callable[..., Path]
"""Type of the fixture `project`."""


@dataclass(frozen=True)
class Outcome:
    """Exit code of a command, and what it printed."""

    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]
"""Type of the fixture `cli`."""


def image(seed: int, height: int = 16, width: int = 16) -> np.ndarray:
    """Draw a smooth random image, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))


def keep_mask(height: int = 16, width: int = 16) -> np.ndarray:
    """Make a mask, bool (height, width), known but for a box in the middle."""
    keep = np.ones((height, width), dtype=bool)
    keep[height // 4 : height // 2, width // 4 : 3 * width // 4] = False
    return keep


def refusal(call: Callable[..., object], *args: object) -> str:
    """Return the one line of the ConfigError that the call must raise."""
    with pytest.raises(ConfigError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)
