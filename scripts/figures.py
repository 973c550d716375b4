#!/usr/bin/env python3
"""Draw the figures of docs/ from runs of confs/{shadow,generate}.yml and docs/reports/scenes64_loss.csv.

Run it with the project's Python: .venv/bin/python scripts/figures.py  (needs the extra `plot`)
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from guided_diffusion.engine import Engine, load_config
from guided_diffusion.images.formats import contact_sheet, read_image, write_image
from guided_diffusion.scenes.render import render, scene_rng

WORST = (159, 86, 9, 3, 91)  # of docs/reports/shadow.md's 200 images, what `prior: none` leaves worst
ROOT = Path(__file__).resolve().parent.parent
LOG, SAMPLES, DOCS = ROOT / "log/shadow", ROOT / "data/samples", ROOT / "docs"


def strip() -> None:
    """docs/images/strip.png: input, inpainted, shadow-free and ground truth of the samples, a column each."""
    names = sorted(path.name for path in (SAMPLES / "shadow").glob("scene_*.png"))
    rows = (SAMPLES / "shadow", LOG / "inpainted", LOG / "shadow_free", SAMPLES / "shadow_free")
    sheet = contact_sheet([[read_image(folder / name) for name in names] for folder in rows], [], None, 192)
    write_image(DOCS / "images/strip.png", sheet)


def failures() -> None:
    """docs/images/shadow_failures.png: input, mask, result and ground truth of the worst ablation cases."""
    engine = Engine(load_config(ROOT / "confs/shadow.yml", ["data.mask_is=shadow"]))
    rows = []
    for index in WORST:
        scene = render(scene_rng(3000, index), 256)
        mask = Image.fromarray(scene.mask)
        free = engine.remove_shadow(Image.fromarray(scene.shadow), mask, f"{index:04d}")
        rows.append([scene.shadow, np.asarray(mask.convert("RGB")), np.asarray(free), scene.free])
    titles = ["input", "mask", "shadow-free", "truth"]
    write_image(DOCS / "images/shadow_failures.png", contact_sheet(rows, titles, None, 192))


def loss() -> None:
    """docs/reports/scenes64_loss.png: the two losses against images seen, stage by stage."""
    with (DOCS / "reports/scenes64_loss.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    stage = np.array([row["stage"] for row in rows])
    seen = np.array([float(row["images"]) for row in rows]) / 1000
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    for key, label in (("simple", "mean squared error of the noise"), ("bound", "bound, bits per dimension")):
        values = np.array([float(row[key]) for row in rows])
        values[1:][stage[1:] != stage[:-1]] = np.nan  # a gap where a stage begins
        axes.semilogy(seen, values, label=label, linewidth=1)
    for start in seen[1:][stage[1:] != stage[:-1]]:
        axes.axvline(start, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="images seen, thousands", ylabel="loss, mean of 50 steps")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(DOCS / "reports/scenes64_loss.png", dpi=110)


def samples() -> None:
    """docs/reports/scenes64_samples.png: what confs/generate.yml makes up."""
    images = [read_image(path) for path in sorted((ROOT / "log/generate/inpainted").glob("*.png"))]
    rows = [images[start : start + 8] for start in range(0, len(images), 8)]
    write_image(DOCS / "reports/scenes64_samples.png", contact_sheet(rows, [], None, 128))


FIGURES = {"strip": strip, "failures": failures, "loss": loss, "samples": samples}
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("figures", nargs="*", default=list(FIGURES), help=f"of {', '.join(FIGURES)}; default all")
DOCS.mkdir(exist_ok=True)
for figure in parser.parse_args().figures:
    FIGURES[figure]()
