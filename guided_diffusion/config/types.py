"""Types of config values that other parts use too. Imports nothing else of the package."""

from __future__ import annotations

from typing import Literal, TypeAlias

Precision: TypeAlias = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
"""Number format of the network. tf32: float32 with TF32 matrix products on an NVIDIA GPU."""

Compile: TypeAlias = Literal["auto", True, False]
"""Whether to compile the network. auto: once it pays; true: at the first call; false: never."""

Windows: TypeAlias = Literal["holes", "overlap", "whole"]
"""Crop windows in which the model sees an image. holes: around each hole; overlap: overlapping windows at
full resolution for large holes; whole: a single window with the whole image."""
