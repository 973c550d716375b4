"""Seeds: the random numbers of an image depend on the run's seed and the image's name alone."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch


class ImageSeed(NamedTuple):
    """The key of all random numbers of one image."""

    seed: int
    """Seed of the run, or of one of several results for the same image."""
    name: str
    """Relative name of the image, or of a part of it."""

    def child(self, mark: str) -> ImageSeed:
        """Return the key of a part of the image, or of a stage of its computation."""
        return ImageSeed(self.seed, f"{self.name}\0{mark}")

    def generator(self, purpose: str, device: torch.device) -> torch.Generator:
        """Return a generator for one purpose; it depends on (seed, purpose, name) alone."""
        # A file name may not be valid UTF-8.
        key = f"{self.seed}/{purpose}/{self.name}".encode("utf-8", "surrogateescape")
        number = int.from_bytes(hashlib.sha256(key).digest()[:8], "little") >> 1
        return torch.Generator(device).manual_seed(number)
