"""Evaluation cases: fresh procedural images, or windows cut from photographs, each with a hole."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from guided_diffusion.errors import ImageError
from guided_diffusion.evaluation.shadow_datasets import scene_of
from guided_diffusion.evaluation.structure import structure_crosses_hole
from guided_diffusion.images.formats import read_image, resize
from guided_diffusion.images.masks import make_mask
from guided_diffusion.images.pairs import images_by_stem
from guided_diffusion.scenes.render import render_free, scene_rng

WINDOW_SCALES = (1.0, 0.75, 0.5)  # sides of windows, relative to the photograph's shorter side


@dataclass(frozen=True)
class EvalCase:
    """An image whose hole is to be inpainted.

    Cases of one scene are alike, so intervals resample scenes, not cases.
    """

    name: str
    """unique name, which also seeds the methods' noise"""
    scene: str
    """name of the scene that the image shows"""
    ground_truth: np.ndarray
    """uint8 (S, S, 3)"""
    keep: np.ndarray
    """bool (S, S), True = known"""

    @cached_property
    def structure_crosses(self) -> bool:
        """True if structure crosses the hole."""
        return structure_crosses_hole(self.ground_truth, self.keep)


def procedural_cases(n: int, size: int, kind: str, seed: int) -> list[EvalCase]:
    """Render `n` procedural images with masks, each its own scene; case i depends on (seed, i) alone.

    Args:
        n: number of cases.
        size: side of the images, pixels.
        kind: kind of mask, one of `masks.MASK_KINDS`.
        seed: seed of the images and masks.
    """
    cases = []
    for i in range(n):
        rng, name = scene_rng(seed, i), f"{seed}-{i:04d}"
        ground_truth = render_free(rng, size)
        cases.append(EvalCase(name, name, ground_truth, make_mask(kind, (size, size), rng)))
    return cases


def photo_cases(root: str, n: int, size: int, kind: str, seed: int) -> list[EvalCase]:
    """Cut `n` windows from the photographs in a folder, with masks.

    Case i depends on (seed, i) and the file names. Scenes take turns, and so do the photographs of a scene: a
    scene of many photographs counts no more than a scene of few. The side of a window is one of WINDOW_SCALES
    times the photograph's shorter side, at least `size`; the window is then reduced to `size`.

    Args:
        root: folder of photographs, searched recursively.
        n: number of cases.
        size: side of the cases, pixels.
        kind: kind of mask, one of `masks.MASK_KINDS`.
        seed: seed of the windows and masks.

    Raises:
        DatasetError: if there are no photographs.
        ImageError: if a photograph is smaller than `size`.
    """
    scenes: dict[str, list[tuple[str, str]]] = {}
    for name, path in images_by_stem(root, "--images").values():
        scenes.setdefault(scene_of(name), []).append((name, path))
    cases, turns = [], list(scenes.items())
    for i in range(n):
        scene, photographs = turns[i % len(turns)]
        name, path = photographs[i // len(turns) % len(photographs)]
        rng = scene_rng(seed, i)
        ground_truth = _cut_window(rng, path, size)
        cases.append(EvalCase(f"{name}-{i:04d}", scene, ground_truth, make_mask(kind, (size, size), rng)))
    return cases


def _cut_window(rng: np.random.Generator, path: str, size: int) -> np.ndarray:
    photograph = read_image(path)
    height, width = photograph.shape[:2]
    short = min(height, width)
    if short < size:
        raise ImageError(f"{path}: {width}x{height} is smaller than the model's {size}; leave it out")
    side = max(size, round(short * rng.choice(WINDOW_SCALES)))
    top, left = (int(rng.integers(extent - side + 1)) for extent in (height, width))
    return resize(photograph[top : top + side, left : left + side], (size, size), "hamming")
