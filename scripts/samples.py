#!/usr/bin/env python3
"""Render the sample images: shadow/ (with shadow), shadow_mask/ (255 = keep), shadow_free/ (ground truth).

Run it with the project's Python: .venv/bin/python scripts/samples.py --out data/samples
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from guided_diffusion.images.colour import to_linear
from guided_diffusion.images.formats import read_image, resize, write_image
from guided_diffusion.scenes.camera import encode
from guided_diffusion.scenes.render import render, scene_rng
from guided_diffusion.scenes.shadows import cast, draw_shadow

SAMPLES = Path(__file__).resolve().parents[1] / "data" / "samples"
SEED, SIZE = 7, 256
SCENES = {"bricks": 45, "hand": 112, "pavement": 103, "planks": 44, "road": 5}  # name: index of the scene
PHOTOS = {"coffee": (200, 256, 2), "chelsea": (170, 256, 2)}  # name: height, width, seed of the shadow


def save_triplet(root: Path, name: str, shadow: np.ndarray, matte: np.ndarray, free: np.ndarray) -> None:
    """Write an image with shadow, its mask and its ground truth below `root`.

    The mask is that of a careful user: pixels more in shadow than in light.

    Args:
        root: folder of the three folders.
        name: of the files, without extension.
        shadow: uint8 (H, W, 3).
        matte: share of the direct light that is blocked, (H, W) in [0, 1].
        free: uint8 (H, W, 3).
    """
    write_image(root / "shadow" / f"{name}.png", shadow)
    write_image(root / "shadow_mask" / f"{name}.png", matte < 0.5)
    write_image(root / "shadow_free" / f"{name}.png", free)


def render_samples(root: Path) -> None:
    """Render all samples below `root`: procedural scenes, and photographs with a procedural shadow."""
    for name, index in SCENES.items():
        scene = render(scene_rng(SEED, index), SIZE)
        save_triplet(root, f"scene_{name}", scene.shadow, scene.matte, scene.free)
    for name, (height, width, seed) in PHOTOS.items():
        free = resize(read_image(SAMPLES / "photos" / f"{name}.png"), (height, width))
        cast_shadow = draw_shadow(np.random.default_rng(seed))
        matte, transmission = cast_shadow.matte(height, width), cast_shadow.transmission(height, width)
        shadow = encode(cast(to_linear(free.astype(np.float32) / 255), matte, transmission))
        save_triplet(root, f"photo_{name}", shadow, matte, free)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and render."""
    parser = argparse.ArgumentParser(description="Render the sample images with, and without, a shadow.")
    parser.add_argument(
        "--out",
        type=Path,
        default=SAMPLES,
        help="folder to write to (default: data/samples of this checkout)",
    )
    render_samples(parser.parse_args(argv).out)


if __name__ == "__main__":
    main()
