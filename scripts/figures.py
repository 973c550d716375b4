#!/usr/bin/env python3
"""Draw the figures of the documentation.

.venv/bin/python scripts/figures.py                    all of them, into docs/
.venv/bin/python scripts/figures.py loss --out /tmp    one of them, elsewhere

strip     images/strip.png              input, inpainted, shadow removed, ground truth of the samples
                                        (first run: python test.py --conf_path confs/shadow.yml)
failures  images/shadow_failures.png    the worst procedural scenes of docs/reports/shadow.md
loss      reports/scenes64_loss.png     training losses, from reports/scenes64_loss.csv
                                        (needs the extra `plot`)
samples   reports/scenes64_samples.png  generated images
                                        (first run: python test.py --conf_path confs/generate.yml)
"""

import argparse
import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from guided_diffusion.engine import Engine, load_config
from guided_diffusion.images.contact_sheet import contact_sheet
from guided_diffusion.images.formats import read_image, write_image
from guided_diffusion.scenes.render import render, scene_rng

ROOT = Path(__file__).resolve().parent.parent
WORST = (159, 86, 9, 3, 91)  # of the 200 procedural scenes in docs/reports/shadow.md, without the prior
ABLATION_SEED = 3000  # as in scripts/ablation.py


def draw_strip(options: argparse.Namespace) -> None:
    """Draw input, inpainted image, result and ground truth of the sample scenes, one column each."""
    log, samples = options.log / "shadow", ROOT / "data/samples"
    names = sorted(path.name for path in (samples / "shadow").glob("scene_*.png"))
    rows = (samples / "shadow", log / "inpainted", log / "shadow_free", samples / "shadow_free")
    images = [[read_image(folder / name) for name in names] for folder in rows]
    write_image(options.out / "images/strip.png", contact_sheet(images, [], None, 192))


def draw_failures(options: argparse.Namespace) -> None:
    """Draw input, mask, result and ground truth of the scenes where scripts/ablation.py errs most."""
    engine = Engine(load_config(ROOT / "confs/shadow.yml", ["data.mask_is=shadow", *options.set]))
    rows = []
    for index in options.worst:
        scene = render(scene_rng(ABLATION_SEED, index), options.size)
        mask = Image.fromarray(scene.mask)
        result = engine.remove_shadow(Image.fromarray(scene.shadow), mask, f"{index:04d}")
        rows.append([scene.shadow, np.asarray(mask.convert("RGB")), np.asarray(result), scene.free])
    titles = ["input", "mask", "shadow-free", "ground truth"]
    write_image(options.out / "images/shadow_failures.png", contact_sheet(rows, titles, None, 192))


def draw_loss(options: argparse.Namespace) -> None:
    """Plot the two losses against images seen, with a gap between stages."""
    from matplotlib.figure import Figure

    with options.losses.open(newline="") as file:
        rows = list(csv.DictReader(file))
    stage = np.array([row["stage"] for row in rows])
    seen = np.array([float(row["images"]) for row in rows]) / 1000
    new_stage = stage[1:] != stage[:-1]
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    for key, label in (("simple", "mean squared error of the noise"), ("bound", "bound, bits per dimension")):
        values = np.array([float(row[key]) for row in rows])
        values[1:][new_stage] = np.nan
        axes.semilogy(seen, values, label=label, linewidth=1)
    for start in seen[1:][new_stage]:
        axes.axvline(start, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="images seen, thousands", ylabel="loss, mean of 50 steps")
    axes.grid(alpha=0.3)
    axes.legend()
    path = options.out / "reports/scenes64_loss.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def draw_samples(options: argparse.Namespace) -> None:
    """Draw the images that confs/generate.yml generates, eight in a row."""
    images = [read_image(path) for path in sorted((options.log / "generate/inpainted").glob("*.png"))]
    rows = [images[start : start + 8] for start in range(0, len(images), 8)]
    write_image(options.out / "reports/scenes64_samples.png", contact_sheet(rows, [], None, 128))


FIGURES: dict[str, Callable[[argparse.Namespace], None]] = {
    "strip": draw_strip,
    "failures": draw_failures,
    "loss": draw_loss,
    "samples": draw_samples,
}


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("figures", nargs="*", metavar="FIGURE", help=f"{', '.join(FIGURES)} (default: all)")
    add("--out", type=Path, default=ROOT / "docs", help="folder to write into (default: docs)")
    add("--log", type=Path, default=ROOT / "log", help="folder of the runs (default: log)")
    add(
        "--losses",
        type=Path,
        default=ROOT / "docs/reports/scenes64_loss.csv",
        help="CSV for `loss` (default: docs/reports/scenes64_loss.csv)",
    )
    add("--worst", type=int, nargs="+", default=WORST, metavar="INDEX", help="scenes for `failures`")
    add("--size", type=int, default=256, help="side of these scenes, pixels (default 256)")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of confs/shadow.yml")
    options = parser.parse_args()
    unknown = [name for name in options.figures if name not in FIGURES]
    if unknown:
        parser.error(f"figure {unknown[0]!r} is unknown; choose among {', '.join(FIGURES)}")
    return options


def main() -> int:
    """Run the command line; exit code 1 without matplotlib."""
    options = parse()
    try:
        for name in options.figures or FIGURES:
            FIGURES[name](options)
    except ImportError:
        print("The figure `loss` needs matplotlib: pip install -e '.[plot]'", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
