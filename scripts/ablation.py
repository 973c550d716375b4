#!/usr/bin/env python3
"""Compare ways to remove a shadow on the same images: the tables of docs/reports/shadow.md.

Fresh procedural images, whose mattes are known exactly:
  OMP_NUM_THREADS=1 .venv/bin/python scripts/ablation.py --n 200

Photographs, with DIR/{shadow,mask,free}/NAME.png; 255 = shadow:
  OMP_NUM_THREADS=1 .venv/bin/python scripts/ablation.py --real DIR

It prints a Markdown table. The measures are those of docs/reports/evaluation.md; `matte` is the mean error of
the matte. The last column is the 90 % interval, over scenes, of the LAB error in the shadow.
"""

import argparse
import csv
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from guided_diffusion import Engine, load_config
from guided_diffusion.config.shadow import RelightConfig
from guided_diffusion.errors import ImageError, PenumbraError
from guided_diffusion.evaluation.bootstrap import bootstrap_by_scene
from guided_diffusion.evaluation.hole_metrics import blur
from guided_diffusion.evaluation.shadow_datasets import scene_of
from guided_diffusion.evaluation.shadow_metrics import score
from guided_diffusion.images.colour import to_linear, to_srgb
from guided_diffusion.images.formats import list_images, read_image, write_image
from guided_diffusion.images.masks import dilate, read_mask
from guided_diffusion.images.pairs import Pair
from guided_diffusion.output.results import Result
from guided_diffusion.scenes.render import render, scene_rng

ROOT = Path(__file__).resolve().parent.parent
SEED = 3000  # of the procedural images; training uses seed 0
COLUMNS = ("lab_s", "lab_ns", "lab_all", "psnr_s_true", "lab_band", "texture", "matte")


@dataclass(frozen=True)
class Case:
    """An image with a shadow, and its ground truth."""

    name: str
    scene: str
    shadow: np.ndarray
    """input, uint8 (H, W, 3)"""
    mask: np.ndarray
    """bool (H, W), True = shadow"""
    shadow_free: np.ndarray
    """ground truth, uint8 (H, W, 3)"""
    matte: np.ndarray | None = None
    """ground truth, float (H, W), if it is known"""


Images = tuple[
    np.ndarray, np.ndarray | None
]  # result uint8 (H, W, 3), and matte float (H, W) if there is one
Method = Callable[[Case, Sequence[str]], Images]  # of a case and config overrides


def procedural_cases(n: int, size: int) -> Iterator[Case]:
    """Render `n` scenes of `size` x `size` pixels."""
    for index in range(n):
        scene, name = render(scene_rng(SEED, index), size), f"{index:04d}"
        yield Case(name, name, scene.shadow, scene.mask, scene.free, scene.matte)


def photo_cases(root: Path, n: int) -> Iterator[Case]:
    """Read the first `n` photographs of a folder."""
    for name in list_images(root / "shadow")[:n]:
        shadow, shadow_free = (read_image(root / folder / name) for folder in ("shadow", "free"))
        yield Case(name, scene_of(Path(name).stem), shadow, read_mask(root / "mask" / name), shadow_free)


@cache
def open_engine(method: str, *overrides: str) -> Engine:
    """Open an engine with the shipped prior; methods without mask see the image at the prior's 64 pixels."""
    path = ROOT / "confs" / ("shadow_ilvr.yml" if method == "ilvr" else "shadow_intermediate.yml")
    return Engine(load_config(path, [f"method={method}", "data.offset=0", "save_npz=false", *overrides]))


def identity(case: Case, overrides: Sequence[str]) -> Images:
    """Return the input."""
    return case.shadow, None


def repaint(case: Case, overrides: Sequence[str]) -> Images:
    """Inpaint the dilated mask with RePaint: 50 steps, r = 3."""
    hole = dilate(case.mask, RelightConfig().reach(*case.mask.shape))
    jumps = ("timestep_respacing=50", "schedule_jump_params={jump_length: 10, jump_n_sample: 3}")
    engine = open_engine("repaint", *overrides, *jumps)
    return np.asarray(engine.inpaint(Image.fromarray(case.shadow), Image.fromarray(~hole), case.name)), None


def maskless(method: str, *keys: str) -> Method:
    """Make a method that generates the whole image from the input, without a mask."""

    def run(case: Case, overrides: Sequence[str]) -> Images:
        engine = open_engine(method, *overrides, "timestep_respacing=50", *keys)
        return np.asarray(engine.inpaint(Image.fromarray(case.shadow), None, case.name)), None

    return run


def relight(**settings: str) -> Method:
    """Make a method that removes the shadow with these keys of the group `relight`."""
    keys = [f"relight.{key}={value}" for key, value in settings.items()]

    def run(case: Case, overrides: Sequence[str]) -> Images:
        task = ("task=remove_shadow", "outputs=shadow_free", "data.mask_is=shadow")
        engine = open_engine("repaint", *overrides, *task, *keys)
        with tempfile.TemporaryDirectory() as folder:
            image, mask = Path(folder, "image.png"), Path(folder, "mask.png")
            write_image(image, case.shadow)
            write_image(mask, np.where(case.mask[..., None], 255, np.zeros(3)).astype(np.uint8))
            events = list(engine.stream([Pair(case.name, str(image), str(mask))]))
        [result] = [event for event in events if isinstance(event, Result)]
        return read_result(result)

    return run


def read_result(result: Result) -> Images:
    """Take the shadow-free image and the matte from a result. Raises ImageError."""
    output = result.outputs.get("shadow_free")
    if output is None or output.image is None:
        raise ImageError(f"{result.name}: {result.error}")
    return output.image, output.extras["matte"]


def oracle_affine(case: Case, overrides: Sequence[str]) -> Images:
    """Fit the best a x + b of sRGB values to the ground truth, per channel in the mask (SP+M's model)."""
    out = case.shadow.astype(float)
    for c in range(3):
        x, y = (image[case.mask, c].astype(float) for image in (case.shadow, case.shadow_free))
        design = np.stack([x, np.ones_like(x)], axis=1)
        out[case.mask, c] = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return np.rint(out.clip(0, 255)).astype(np.uint8), None


def oracle_field(case: Case, overrides: Sequence[str], sigma: float = 2.0) -> Images:
    """Apply the true gain of linear light, blurred by `sigma` pixels, in and near the mask."""
    shadow, shadow_free = (
        to_linear(torch.from_numpy(image / 255).permute(2, 0, 1)).numpy()
        for image in (case.shadow, case.shadow_free)
    )
    pairs = zip(shadow_free, shadow, strict=True)
    gain = np.stack([blur(f, sigma, "edge") / np.maximum(blur(s, sigma, "edge"), 1e-4) for f, s in pairs])
    lit = to_srgb(torch.from_numpy(shadow * gain)).permute(1, 2, 0).numpy()
    near = dilate(case.mask, 8)[..., None]
    return np.where(near, np.rint(255 * lit), case.shadow).astype(np.uint8), None


METHODS: dict[str, Method] = {
    "identity": identity,
    "RePaint, 130 NFE": repaint,
    "intermediate, t = 200": maskless("intermediate", "t_start=20"),
    "intermediate, t = 400": maskless("intermediate", "t_start=35"),
    "ILVR, N = 8": maskless("ilvr"),
    "one gain per channel": relight(fit="gain"),
    "ring (log-affine)": relight(fit="ring"),
    "relight": relight(),
    "relight, diffusion prior": relight(prior="diffusion"),
    "relight, prior, refined": relight(prior="diffusion", refine="true"),
    "oracle affine": oracle_affine,
    "oracle field": oracle_field,
}


def score_case(case: Case, method: str, overrides: Sequence[str]) -> dict[str, float]:
    """Remove a case's shadow and compute all measures; NaN where undefined."""
    image, matte = METHODS[method](case, overrides)
    measures = score(image, case.shadow_free, case.mask, case.shadow)
    error = float("nan") if matte is None or case.matte is None else float(np.abs(matte - case.matte).mean())
    return {**measures, "matte": error}


def print_table(scores: dict[str, list[dict[str, float]]], scenes: Sequence[str]) -> None:
    """Print the Markdown table: a row per method."""
    print("| |", " | ".join(COLUMNS), "| S, 90 % by scene |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    for method, entries in scores.items():
        means = [
            float("nan") if np.isnan(entries[0][c]) else np.nanmean([entry[c] for entry in entries])
            for c in COLUMNS
        ]
        low, high = bootstrap_by_scene([entry["lab_s"] for entry in entries], scenes)
        print(f"| {method} |", " | ".join(f"{mean:.3f}" for mean in means), f"| {low:.2f} to {high:.2f} |")


def write_csv(
    path: Path, scores: dict[str, list[dict[str, float]]], names: Sequence[str], scenes: Sequence[str]
) -> None:
    """Write a line per method and image."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["row", "name", "scene", *COLUMNS])
        for method, entries in scores.items():
            for name, scene, entry in zip(names, scenes, entries, strict=True):
                writer.writerow([method, name, scene, *(f"{entry[c]:.4f}" for c in COLUMNS)])


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, rows = parser.add_argument, f"rows of the table (default: all): {'; '.join(METHODS)}"
    add("--n", type=int, default=200, help="number of images (default 200)")
    add("--size", type=int, default=256, help="side of the procedural images, pixels (default 256)")
    add("--real", type=Path, metavar="DIR", help="folder with shadow/, mask/ and free/")
    add("--rows", nargs="+", default=list(METHODS), choices=METHODS, metavar="ROW", help=rows)
    add("--csv", type=Path, metavar="FILE", help="write the scores of every image to this file")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override keys, such as model_path")
    return parser.parse_args()


def main() -> int:
    """Run the command line; exit code 2 if a setting, the weights or an image is wrong."""
    options = parse()
    scores: dict[str, list[dict[str, float]]] = {row: [] for row in options.rows}
    names, scenes = [], []
    photographs = options.real is not None
    cases = photo_cases(options.real, options.n) if photographs else procedural_cases(options.n, options.size)
    try:
        for case in tqdm(cases, unit="image"):
            names.append(case.name)
            scenes.append(case.scene)
            for row in options.rows:
                scores[row].append(score_case(case, row, options.set))
    except PenumbraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_table(scores, scenes)
    if options.csv:
        write_csv(options.csv, scores, names, scenes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
