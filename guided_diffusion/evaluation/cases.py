"""Places to judge fills at: fresh procedural images, or windows cut from photographs, with masks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from guided_diffusion.errors import ImageError
from guided_diffusion.evaluation.shadow_datasets import scene_of
from guided_diffusion.evaluation.structure import crossed
from guided_diffusion.images.formats import read_image, resize
from guided_diffusion.images.masks import make_mask
from guided_diffusion.images.pairs import images_by_stem
from guided_diffusion.scenes.render import render_free, scene_rng

# Sides of windows, in short sides of the photograph: a procedural image is a frame.
REACHES = (1.0, 0.75, 0.5)


@dataclass(frozen=True)
class Place:
    """A true image, uint8 (S, S, 3), what is known of it, bool (S, S), and the scene that it shows.

    Places of one scene are alike, so that intervals draw scenes, not places.
    """

    name: str
    scene: str
    truth: np.ndarray
    keep: np.ndarray

    @cached_property
    def crossed(self) -> bool:
        """Whether structure crosses the hole."""
        return crossed(self.truth, self.keep)


def draw_places(n: int, size: int, kind: str, seed: int) -> list[Place]:
    """`n` procedural images with masks, each a scene; place i depends on (seed, i) alone."""
    places = []
    for i in range(n):
        rng, name = scene_rng(seed, i), f"{seed}-{i:04d}"
        truth = render_free(rng, size)
        places.append(Place(name, name, truth, make_mask(kind, (size, size), rng)))
    return places


def cut_places(root: str, n: int, size: int, kind: str, seed: int) -> list[Place]:
    """`n` windows of the photographs below a folder, with masks; place i depends on (seed, i) and the names.

    The scenes take turns, and in each its photographs: a scene of many photographs counts no more than one of
    few. A window's side is one of REACHES times the photograph's short side, at least `size`, and it is
    reduced to `size`. Raises DatasetError without photographs, ImageError for one that is too small.
    """
    scenes: dict[str, list[tuple[str, str]]] = {}
    for name, path in images_by_stem(root, "--images").values():
        scenes.setdefault(scene_of(name), []).append((name, path))
    places, turns = [], list(scenes.items())
    for i in range(n):
        scene, photographs = turns[i % len(turns)]
        name, path = photographs[i // len(turns) % len(photographs)]
        rng = scene_rng(seed, i)
        truth = _window(rng, path, size)
        places.append(Place(f"{name}-{i:04d}", scene, truth, make_mask(kind, (size, size), rng)))
    return places


def _window(rng: np.random.Generator, path: str, size: int) -> np.ndarray:
    photograph = read_image(path)
    height, width = photograph.shape[:2]
    short = min(height, width)
    if short < size:
        raise ImageError(f"{path}: {width}x{height} is smaller than the model's {size}; leave it out")
    side = max(size, round(short * rng.choice(REACHES)))
    top, left = (int(rng.integers(extent - side + 1)) for extent in (height, width))
    return resize(photograph[top : top + side, left : left + side], (size, size), "hamming")
