"""Inpaint one image in several ways: python examples/inpaint.py IMAGE MASK OUT.png [--seeds 4].

The results, one per seed, are saved side by side in one file.
"""

from __future__ import annotations

import argparse

from PIL import Image

from guided_diffusion import Engine, load_config

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("image", help="the image")
parser.add_argument("mask", help="white (255) = keep, black (0) = inpaint; of the same size as the image")
parser.add_argument("out", help="file of the results")
parser.add_argument("--seeds", type=int, default=4, metavar="N", help="number of results (default: 4)")
parser.add_argument(
    "--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings laid over inpaint.yml"
)
arguments = parser.parse_args()

image, mask = Image.open(arguments.image).convert("RGB"), Image.open(arguments.mask)
results = []
for seed in range(arguments.seeds):
    engine = Engine(load_config("inpaint.yml", [*arguments.set, f"seed={seed}"]))
    results.append(engine.inpaint(image, mask))

sheet = Image.new("RGB", (image.width * len(results), image.height))
for column, result in enumerate(results):
    sheet.paste(result, (column * image.width, 0))
sheet.save(arguments.out)
