"""Write procedural shadow triplets: `python -m guided_diffusion.scenes --out DIR --n 16`."""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from guided_diffusion.images.files import write_bytes
from guided_diffusion.scenes.render import Scene, render, scene_rng


def _encode_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_scene(scene: Scene, root: Path, split: str, name: str) -> None:
    """Write one scene below `root` in the ISTD layout: `split`/`split`_A shadow, _B mask, _C free.

    Extra folders hold the exact matte (_matte, 16-bit PNG) and _truth (npz: float32 matte, transmission).
    Every file appears whole or not at all.
    """
    exact = np.rint(scene.matte * 65535).astype(np.uint16)
    mask = scene.mask.astype(np.uint8) * np.uint8(255)
    for suffix, pixels in (("A", scene.shadow), ("B", mask), ("C", scene.free), ("matte", exact)):
        write_bytes(root / split / f"{split}_{suffix}" / f"{name}.png", _encode_png(pixels))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, matte=scene.matte, transmission=scene.transmission)
    write_bytes(root / split / f"{split}_truth" / f"{name}.npz", buffer.getvalue())


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: write `--n` scenes of `--size` pixels below `--out`."""
    parser = argparse.ArgumentParser(
        prog="python -m guided_diffusion.scenes",
        description="Write procedural shadow triplets in the ISTD folder layout.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--n", type=int, default=16, help="number of scenes (default 16)")
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels (default 256)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the set (default 0)")
    parser.add_argument(
        "--split", choices=("train", "test"), default="test", help="folder names (default test)"
    )
    args = parser.parse_args(argv)
    if args.n < 1 or args.size < 8 or args.seed < 0:
        parser.error(
            f"--n {args.n} --size {args.size} --seed {args.seed}: need --n >= 1, --size >= 8, --seed >= 0"
        )
    for index in tqdm(range(args.n), desc="scenes", unit="scene"):
        write_scene(render(scene_rng(args.seed, index), args.size), args.out, args.split, f"{index:04d}")


if __name__ == "__main__":
    main()
