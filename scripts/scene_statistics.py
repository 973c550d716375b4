#!/usr/bin/env python3
"""Compare the image statistics of procedural images and photographs (docs/reports/scenes.md).

    OMP_NUM_THREADS=1 python scripts/scene_statistics.py --real DIR --n 200 --size 128
    OMP_NUM_THREADS=1 python scripts/scene_statistics.py --real DIR --sheet docs/reports/scenes_sheet.png

DIR holds photographs without shadows. From each scene, `--crops` random squares of half to all of the shorter
side are reduced to `--size` by averaging. Prints a Markdown table with a row per statistic: its value for the
photographs with a 90 % interval over scenes, its value for the procedural images, and their ratio.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
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
SHEET_IMAGES, SHEET_COLUMNS = 40, 8
Reduce = Callable[[np.ndarray], np.ndarray]
"""Reduction of the last axis, over images."""


def mean(values: np.ndarray) -> np.ndarray:
    """Arithmetic mean over images."""
    return values.mean(axis=-1)


def geometric_mean(values: np.ndarray) -> np.ndarray:
    """Geometric mean over images, so that a few extreme images do not decide it."""
    return np.exp(np.log(values).mean(axis=-1))


def standard_deviation(values: np.ndarray) -> np.ndarray:
    """Standard deviation over images."""
    return values.std(axis=-1)


ROWS: dict[str, tuple[str, Reduce]] = {
    "power-spectrum slope of log luminance": ("slope", mean),
    "gradient kurtosis of log luminance (geometric mean)": ("kurtosis", geometric_mean),
    "local contrast (std / mean within 8 x 8)": ("contrast", mean),
    "lightness L*": ("mean_l", mean),
    "spread of L* over images": ("mean_l", standard_deviation),
    "spread of L* within an image": ("within_l", mean),
    "saturation (chroma C*)": ("chroma", mean),
    "spread of a* over images": ("mean_a", standard_deviation),
    "spread of b* over images": ("mean_b", standard_deviation),
    "spread of a* within an image": ("within_a", mean),
    "spread of b* within an image": ("within_b", mean),
}
"""Label of a row -> statistic of an image, and its reduction over images."""


def read_crops(root: Path, n: int, size: int) -> dict[str, list[np.ndarray]]:
    """Scene -> n crops of its photographs, uint8 (size, size, 3), however many photographs it has."""
    scenes: dict[str, list[np.ndarray]] = {}
    for name in list_images(root):
        scenes.setdefault(scene_of(Path(name).stem), []).append(read_image(root / name))
    rng = np.random.default_rng(SEED)
    return {
        scene: [crop(rng, photos[i % len(photos)], size) for i in range(n)]
        for scene, photos in scenes.items()
    }


def crop(rng: np.random.Generator, photo: np.ndarray, size: int) -> np.ndarray:
    """Cut a random square of half to all of the shorter side and reduce it to (size, size, 3)."""
    height, width = photo.shape[:2]
    short = min(height, width)
    if short < size:
        raise SystemExit(f"a photograph is {width} x {height}; give --size of at most {short}")
    side = max(size, int(short * rng.uniform(0.5, 1)))
    left, top = (int(rng.integers(extent - side + 1)) for extent in (width, height))
    box = (left, top, left + side, top + side)
    return np.asarray(Image.fromarray(photo).resize((size, size), Image.Resampling.BOX, box))


def render_images(n: int, size: int) -> list[np.ndarray]:
    """Render n procedural images, uint8 (size, size, 3), and print how fast that was."""
    render_free(scene_rng(SEED, 0), size)  # the first call also builds the noise tiles
    start = time.process_time()
    images = [render_free(scene_rng(SEED, index), size) for index in tqdm(range(n), unit="image")]
    rate = n / (time.process_time() - start)
    print(f"{rate:.0f} procedural images of {size} x {size} per second of one core\n")
    return images


def arrange(images: Sequence[np.ndarray], columns: int, gap: int = 4) -> np.ndarray:
    """Arrange images of one size in a grid on white, uint8; gap in pixels."""
    size = len(images[0])
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (size + gap) - gap, columns * (size + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = (k * (size + gap) for k in divmod(i, columns))
        sheet[top : top + size, left : left + size] = image
    return sheet


def measure(images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Statistic -> its value for each image, (images,)."""
    values = [statistics(image) for image in images]
    return {key: np.array([image[key] for image in values]) for key in values[0]}


def print_table(real: dict[str, np.ndarray], procedural: dict[str, np.ndarray]) -> None:
    """Print the table; the bootstrap draws whole scenes.

    Args:
        real: statistic -> values (scenes, crops).
        procedural: statistic -> values (images,).
    """
    print("| | photographs | 90 % by scene | procedural | ratio |\n|---|---|---|---|---|")
    for label, (key, reduce) in ROWS.items():
        low, high = scene_interval(real[key], reduce)
        photos, scenes = float(reduce(real[key].ravel())), float(reduce(procedural[key]))
        print(f"| {label} | {photos:.2f} | {low:.2f} to {high:.2f} | {scenes:.2f} | {scenes / photos:.2f} |")


def scene_interval(values: np.ndarray, reduce: Reduce) -> tuple[float, float]:
    """90 % bootstrap interval of a statistic when whole scenes are drawn; values: (scenes, crops)."""

    def resample(drawn: np.ndarray, axis: int) -> np.ndarray:
        return reduce(values[drawn.astype(int)].reshape(len(drawn), -1))

    return bootstrap(range(len(values)), resample)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", type=Path, help="folder of photographs without shadows")
    parser.add_argument("--n", type=int, default=200, help="number of procedural images (default 200)")
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels (default 128)")
    parser.add_argument("--crops", type=int, default=24, help="crops from each real scene (default 24)")
    parser.add_argument(
        "--sheet", type=Path, help=f"write the first {SHEET_IMAGES} procedural images to this file, as a grid"
    )
    options = parser.parse_args()
    images = render_images(options.n, options.size)
    if options.sheet:
        sheet = Image.fromarray(arrange(images[:SHEET_IMAGES], SHEET_COLUMNS))
        sheet.quantize(256).save(options.sheet, optimize=True)  # 256 colours take a quarter of the bytes
    if options.real:
        crops = read_crops(options.real, options.crops, options.size)
        scenes = [measure(photos) for photos in crops.values()]
        real = {key: np.stack([scene[key] for scene in scenes]) for key in scenes[0]}
        print_table(real, measure(images))


if __name__ == "__main__":
    main()
