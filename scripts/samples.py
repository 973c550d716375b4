#!/usr/bin/env python3
"""Renders data/samples: shadow/ (images), shadow_mask/ (255 = keep), shadow_free/ (the truth).

Run it with the project's Python: .venv/bin/python scripts/samples.py
"""

from pathlib import Path

import numpy as np

from guided_diffusion.images.formats import read_image, resize, write_image
from guided_diffusion.scenes.camera import encode
from guided_diffusion.scenes.materials import to_linear
from guided_diffusion.scenes.render import render, scene_rng
from guided_diffusion.scenes.shadows import cast, draw_shadow

ROOT = Path(__file__).resolve().parent.parent / "data" / "samples"
SEED, SIZE = 7, 256
SCENES = {"bricks": 45, "hand": 112, "pavement": 103, "planks": 44, "road": 5}  # name: number of the scene
PHOTOS = {"coffee": (200, 256, 2), "chelsea": (170, 256, 2)}  # name: height, width, seed of the shadow


def save(name: str, shadow: np.ndarray, matte: np.ndarray, free: np.ndarray) -> None:
    """The mask is what a careful hand would draw: what is more in shadow than in light."""
    write_image(ROOT / "shadow" / f"{name}.png", shadow)
    write_image(ROOT / "shadow_mask" / f"{name}.png", matte < 0.5)
    write_image(ROOT / "shadow_free" / f"{name}.png", free)


for name, index in SCENES.items():
    scene = render(scene_rng(SEED, index), SIZE)
    save(f"scene_{name}", scene.shadow, scene.matte, scene.free)
for name, (height, width, seed) in PHOTOS.items():
    free = resize(read_image(ROOT / "photos" / f"{name}.png"), (height, width))
    cast_shadow = draw_shadow(np.random.default_rng(seed))
    matte, transmission = cast_shadow.matte(height, width), cast_shadow.transmission(height, width)
    shadow = encode(cast(to_linear(free.astype(np.float32) / 255), matte, transmission))
    save(f"photo_{name}", shadow, matte, free)
