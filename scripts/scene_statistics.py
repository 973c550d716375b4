#!/usr/bin/env python3
"""The table of docs/reports/scenes.md: procedural images beside photographs, by whole-image statistics.

OMP_NUM_THREADS=1 .venv/bin/python scripts/scene_statistics.py --real DIR --n 200 --size 128
OMP_NUM_THREADS=1 .venv/bin/python scripts/scene_statistics.py --sheet docs/reports/scenes_sheet.png

DIR holds photographs without shadows. Of each, `--crops` squares at random places, half to all of its short
side, are reduced to `size` by averaging: as a procedural image, which is the whole of a frame.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from guided_diffusion.evaluation.bootstrap import bootstrap
from guided_diffusion.evaluation.image_statistics import statistics
from guided_diffusion.evaluation.shadow_datasets import scene_of
from guided_diffusion.images.formats import list_images, read_image
from guided_diffusion.scenes.render import render_free, scene_rng

SEED = 3000  # training draws from seed 0
Reduce = Callable[[np.ndarray], np.ndarray]  # the last axis is that of the images


def mean(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=-1)


def typical(values: np.ndarray) -> np.ndarray:
    """The geometric mean, for what a few images would rule otherwise."""
    return np.exp(np.log(values).mean(axis=-1))


def spread(values: np.ndarray) -> np.ndarray:
    return values.std(axis=-1)


ROWS: dict[str, tuple[str, Reduce]] = {
    "power-spectrum slope of log luminance": ("slope", mean),
    "gradient kurtosis of log luminance (geometric mean)": ("kurtosis", typical),
    "local contrast (std / mean within 8 x 8)": ("contrast", mean),
    "lightness L*": ("mean_l", mean),
    "spread of L* over images": ("mean_l", spread),
    "spread of L* within an image": ("within_l", mean),
    "saturation (chroma C*)": ("chroma", mean),
    "spread of a* over images": ("mean_a", spread),
    "spread of b* over images": ("mean_b", spread),
    "spread of a* within an image": ("within_a", mean),
    "spread of b* within an image": ("within_b", mean),
}


def crops(root: Path, n: int, size: int) -> dict[str, list[np.ndarray]]:
    """Scene -> its reduced crops, uint8 (size, size, 3), `n` from each scene whatever its photographs."""
    scenes: dict[str, list[np.ndarray]] = {}
    for name in list_images(root):
        scenes.setdefault(scene_of(Path(name).stem), []).append(read_image(root / name))
    rng = np.random.default_rng(SEED)
    return {
        scene: [crop(rng, photos[i % len(photos)], size) for i in range(n)]
        for scene, photos in scenes.items()
    }


def crop(rng: np.random.Generator, photo: np.ndarray, size: int) -> np.ndarray:
    height, width = photo.shape[:2]
    short = min(height, width)
    if short < size:
        raise SystemExit(f"a photograph is {width} x {height}; give --size of at most {short}")
    side = max(size, int(short * rng.uniform(0.5, 1)))
    left, top = (int(rng.integers(extent - side + 1)) for extent in (width, height))
    return np.asarray(
        Image.fromarray(photo).resize(
            (size, size), Image.Resampling.BOX, (left, top, left + side, top + side)
        )
    )


def procedural(n: int, size: int) -> list[np.ndarray]:
    render_free(scene_rng(SEED, 0), size)  # the noise tiles are made once
    start = time.process_time()
    images = [render_free(scene_rng(SEED, index), size) for index in tqdm(range(n), unit="image")]
    rate = n / (time.process_time() - start)
    print(f"{rate:.0f} procedural images of {size} x {size} per second of one core\n")
    return images


def sheet(images: list[np.ndarray], columns: int, gap: int = 4) -> np.ndarray:
    """Images of one size side by side, uint8."""
    size = len(images[0])
    rows = -(-len(images) // columns)
    whole = np.full((rows * (size + gap) - gap, columns * (size + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = (k * (size + gap) for k in divmod(i, columns))
        whole[top : top + size, left : left + size] = image
    return whole


def table(real: dict[str, np.ndarray], made: dict[str, np.ndarray]) -> None:
    """`real`: figure -> (scenes, crops); `made`: figure -> (images,). Scenes are drawn whole."""
    print("| | photographs | 90 % by scene | procedural | ratio |\n|---|---|---|---|---|")
    for row, (key, reduce) in ROWS.items():
        values = real[key]

        def redrawn(drawn: np.ndarray, axis: int, values=values, reduce=reduce) -> np.ndarray:
            return reduce(values[drawn.astype(int)].reshape(len(drawn), -1))

        truth, found = reduce(values.ravel()), reduce(made[key])
        low, high = bootstrap(range(len(values)), redrawn)
        print(f"| {row} | {truth:.2f} | {low:.2f} to {high:.2f} | {found:.2f} | {found / truth:.2f} |")


def gathered(images: list[np.ndarray]) -> dict[str, np.ndarray]:
    told = [statistics(image) for image in images]
    return {key: np.array([t[key] for t in told]) for key in told[0]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", type=Path, help="folder of photographs without shadows")
    parser.add_argument("--n", type=int, default=200, help="number of procedural images (default 200)")
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels (default 128)")
    parser.add_argument("--crops", type=int, default=24, help="squares from each real scene (default 24)")
    parser.add_argument("--sheet", type=Path, help="write the first 40 procedural images there, as one")
    options = parser.parse_args()
    made = procedural(options.n, options.size)
    if options.sheet:
        whole = Image.fromarray(sheet(made[:40], columns=8))
        whole.quantize(256).save(options.sheet, optimize=True)  # a quarter of the bytes
    if options.real:
        scenes = [gathered(images) for images in crops(options.real, options.crops, options.size).values()]
        table({key: np.stack([told[key] for told in scenes]) for key in scenes[0]}, gathered(made))


if __name__ == "__main__":
    main()
