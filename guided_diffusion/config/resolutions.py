"""Resolution levels of a network, parsed from its YAML keys."""

from __future__ import annotations

import math

from guided_diffusion.errors import ConfigError


def channel_mults(text: str, image_size: int) -> tuple[float, ...]:
    """Channel multiplier of each resolution level, from text such as '1,2,2,4'; '' = guided-diffusion's
    table."""
    table = {
        512: (0.5, 1, 1, 2, 2, 4, 4),
        256: (1, 1, 2, 2, 4, 4),
        128: (1, 1, 2, 3, 4),
        64: (1, 2, 3, 4),
    }
    if not text and image_size not in table:
        raise ConfigError(f"channel_mult has no default for image_size {image_size}; set it, e.g. '1,2,2,4'")
    mults = _numbers(text, "channel_mult") or table[image_size]
    halvings = len(mults) - 1
    if image_size % 2**halvings:
        raise ConfigError(
            f"image_size {image_size} cannot be halved {halvings} times as channel_mult {mults} asks; "
            f"use a multiple of {2**halvings} or a shorter channel_mult"
        )
    return mults


def attention_downsamples(text: str, image_size: int, key: str = "attention_resolutions") -> tuple[int, ...]:
    """Downsampling factors of the levels with self-attention, from resolutions in pixels such as
    '32,16,8'."""
    return tuple(int(image_size // resolution) for resolution in _numbers(text, key))


def _numbers(text: str, key: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) if "." in part else int(part) for part in text.split(",") if text)
    except ValueError:
        numbers = (0,)
    if not all(0 < number < math.inf for number in numbers):
        raise ConfigError(f"{key} {text!r} is not a list of positive numbers such as '1,2,2,4'")
    return numbers
