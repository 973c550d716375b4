"""Remove the shadow from one image: python examples/remove_shadow.py IMAGE OUT.png [--mask MASK].

Without a mask the shadow is found automatically.
"""

from __future__ import annotations

import argparse

from PIL import Image

from guided_diffusion import Engine, load_config

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("image", help="the image with a shadow")
parser.add_argument("out", help="file of the result")
parser.add_argument("--mask", help="white (255) = lit, black (0) = shadow; of the same size as the image")
parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings laid over shadow.yml")
arguments = parser.parse_args()

engine = Engine(load_config("shadow.yml", arguments.set))
mask = Image.open(arguments.mask) if arguments.mask else None
engine.remove_shadow(Image.open(arguments.image), mask).save(arguments.out)
