"""Types of config values that parts outside the config share. Imports nothing of ours."""

from __future__ import annotations

from typing import Literal, TypeAlias

Precision: TypeAlias = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
"""Precision of the network. tf32: float32 with TF32 matrix products on an NVIDIA GPU. auto: see
`runtime.hardware.choose_precision`."""

Compile: TypeAlias = Literal["auto", True, False]
"""Whether to compile the network. auto: once it pays; true: at the first call; false: never."""

Windows: TypeAlias = Literal["holes", "overlap", "whole"]
"""Crop windows in which the model sees an image. holes: one around each hole; overlap: overlapping windows at
full resolution for large holes; whole: the whole image in one window."""
