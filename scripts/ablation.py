#!/usr/bin/env python3
"""Compare shadow-removal methods on the same images: the tables of docs/reports/shadow.md.

OMP_NUM_THREADS=1 .venv/bin/python scripts/ablation.py --n 200  fresh procedural images, with exact mattes
OMP_NUM_THREADS=1 .venv/bin/python scripts/ablation.py --real DIR  DIR/{shadow,mask,free}/NAME.png
"""

import argparse
import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from guided_diffusion import Engine, load_config
from guided_diffusion.config.shadow import RelightConfig
from guided_diffusion.evaluation.hole_metrics import blur
from guided_diffusion.evaluation.shadow_datasets import scene_of
from guided_diffusion.evaluation.shadow_metrics import bootstrap_by_scene, score
from guided_diffusion.images.formats import list_images, read_image
from guided_diffusion.images.masks import dilate, read_mask
from guided_diffusion.scenes.render import render, scene_rng
from guided_diffusion.shadow.light import to_linear, to_srgb

ROOT = Path(__file__).resolve().parent.parent
SEED, SIZE = 3000, 256  # training draws from seed 0
OVERRIDES: list[str] = []  # --set
COLUMNS = ("lab_s", "lab_ns", "lab_all", "psnr_s_true", "lab_band", "texture", "matte")


@dataclass(frozen=True)
class Case:
    name: str
    scene: str
    shadow: np.ndarray
    mask: np.ndarray  # bool, True = shadow
    free: np.ndarray
    matte: np.ndarray | None = None


def procedural(n: int) -> Iterator[Case]:
    for index in range(n):
        made = render(scene_rng(SEED, index), SIZE)
        yield Case(f"{index:04d}", f"{index:04d}", made.shadow, made.mask, made.free, made.matte)


def real(root: Path, n: int) -> Iterator[Case]:
    for name in list_images(root / "shadow")[:n]:
        shadow, free = (read_image(root / folder / name) for folder in ("shadow", "free"))
        yield Case(name, scene_of(Path(name).stem), shadow, read_mask(root / "mask" / name), free)


@cache
def engine(method: str, *changes: str) -> Engine:
    """With the shipped prior; an image that the method sees whole is seen at the prior's 64 pixels."""
    path = ROOT / "confs" / ("shadow_ilvr.yml" if method == "ilvr" else "shadow_intermediate.yml")
    return Engine(
        load_config(path, [f"method={method}", "data.offset=0", "save_npz=false", *OVERRIDES, *changes])
    )


def repaint(case: Case) -> np.ndarray:
    hole = dilate(case.mask, RelightConfig().reach(*case.mask.shape))
    jumps = ["timestep_respacing=50", "schedule_jump_params={jump_length: 10, jump_n_sample: 3}"]
    keep = Image.fromarray(~hole)
    return np.asarray(engine("repaint", *jumps).inpaint(Image.fromarray(case.shadow), keep, case.name))


def whole(method: str, *changes: str) -> Callable[[Case], np.ndarray]:
    def lift(case: Case) -> np.ndarray:
        painter = engine(method, "timestep_respacing=50", *changes)
        return np.asarray(painter.inpaint(Image.fromarray(case.shadow), None, case.name))

    return lift


def relit(**settings: str) -> Callable[[Case], tuple[np.ndarray, np.ndarray]]:
    def lift(case: Case) -> tuple[np.ndarray, np.ndarray]:
        relighter = engine(
            "relight", *(f"relight.{key}={value}" for key, value in settings.items())
        ).relighter
        shaded = relighter.shade("", case.name, case.shadow, case.mask)
        *_, lifted = relighter.lift(shaded)
        return lifted.free, lifted.matte

    return lift


def oracle_affine(case: Case) -> np.ndarray:
    """Per channel the best a x + b of sRGB values within the mask (SP+M's model, told the truth)."""
    out = case.shadow.astype(float)
    for c in range(3):
        x, y = (image[case.mask, c].astype(float) for image in (case.shadow, case.free))
        design = np.stack([x, np.ones_like(x)], axis=1)
        out[case.mask, c] = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return np.rint(out.clip(0, 255)).astype(np.uint8)


def oracle_field(case: Case, sigma: float = 2.0) -> np.ndarray:
    """The true gain of linear light, blurred by `sigma` pixels, near the mask."""
    shadow, free = (
        to_linear(torch.from_numpy(p / 255).permute(2, 0, 1)).numpy() for p in (case.shadow, case.free)
    )
    pairs = zip(free, shadow, strict=True)
    gain = np.stack([blur(f, sigma, "edge") / np.maximum(blur(s, sigma, "edge"), 1e-4) for f, s in pairs])
    lit = to_srgb(torch.from_numpy(shadow * gain)).permute(1, 2, 0).numpy()
    near = dilate(case.mask, 8)[..., None]
    return np.where(near, np.rint(255 * lit), case.shadow).astype(np.uint8)


ROWS = {
    "identity": lambda case: case.shadow,
    "RePaint, 130 evaluations": repaint,
    "intermediate, t = 200": whole("intermediate", "t_start=20"),
    "intermediate, t = 400": whole("intermediate", "t_start=35"),
    "ILVR, N = 8": whole("ilvr"),
    "one gain per channel": relit(fit="gain"),
    "ring (log-affine)": relit(fit="ring"),
    "relight": relit(),
    "relight, diffusion prior": relit(prior="diffusion"),
    "relight, prior, refined": relit(prior="diffusion", refine="true"),
    "oracle affine": oracle_affine,
    "oracle field": oracle_field,
}


def judge(case: Case, row: str) -> dict[str, float]:
    found = ROWS[row](case)
    free, matte = found if isinstance(found, tuple) else (found, None)
    told = score(free, case.free, case.mask, case.shadow)
    known = matte is not None and case.matte is not None
    return {**told, "matte": float(np.abs(matte - case.matte).mean()) if known else float("nan")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=200, help="number of images (default 200)")
    parser.add_argument("--real", type=Path, help="folder with shadow/, mask/ and free/")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), help="default: all")
    parser.add_argument("--csv", type=Path, help="every image's figures")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="e.g. another model_path")
    options = parser.parse_args()
    OVERRIDES.extend(options.set)
    found: dict[str, list[dict[str, float]]] = {row: [] for row in options.rows}
    names, scenes = [], []
    cases = real(options.real, options.n) if options.real else procedural(options.n)
    for case in tqdm(cases, unit="image"):
        names.append(case.name)
        scenes.append(case.scene)
        for row in options.rows:
            found[row].append(judge(case, row))
    print("| |", " | ".join(COLUMNS), "| S, 90 % by scene |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    for row, told in found.items():
        means = [
            np.nanmean([t[c] for t in told]) if not np.isnan(told[0][c]) else float("nan") for c in COLUMNS
        ]
        low, high = bootstrap_by_scene([t["lab_s"] for t in told], scenes)
        print(f"| {row} |", " | ".join(f"{mean:.3f}" for mean in means), f"| {low:.2f} to {high:.2f} |")
    if options.csv:
        with options.csv.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["row", "name", "scene", *COLUMNS])
            for row, told in found.items():
                for name, scene, t in zip(names, scenes, told, strict=True):
                    writer.writerow([row, name, scene, *(f"{t[c]:.4f}" for c in COLUMNS)])


if __name__ == "__main__":
    main()
