"""Draws: what decides the random numbers of an image, and nothing else does."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch


class Draws(NamedTuple):
    """seed: of the run, or of one of several fillings; name: of the image, or of a part of it."""

    seed: int
    name: str

    def part(self, mark: str) -> Draws:
        """Those of a part of the image, or of a stage of its making."""
        return Draws(self.seed, f"{self.name}\0{mark}")

    def generator(self, purpose: str, device: torch.device) -> torch.Generator:
        """For one purpose: depends on (seed, purpose, name) alone."""
        # A file name may not be valid UTF-8.
        told = hashlib.sha256(f"{self.seed}/{purpose}/{self.name}".encode("utf-8", "surrogateescape"))
        return torch.Generator(device).manual_seed(int.from_bytes(told.digest()[:8], "little") >> 1)
