"""Inputs: the images and masks that a Config names, and what can be said of them before any is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from PIL import Image

from guided_diffusion.config.schema import Config
from guided_diffusion.errors import ConfigError, DatasetError, ImageError
from guided_diffusion.images.files import path_kind
from guided_diffusion.images.formats import from_pil
from guided_diffusion.images.masks import mask_from_pil
from guided_diffusion.images.pairs import Pair, find_pairs, images_by_stem
from guided_diffusion.runtime.seeds import Draws

MASKED_METHODS = ("repaint", "ddnm", "td_paint", "relight")  # without a mask these have nothing to do
GENERATORS = ("ddpm", "ddim")  # these can do without an image
AUTO = "auto"  # the data.mask_path of those who have no masks


def pairs(config: Config) -> list[Pair]:
    """The images of the config, or names for those to generate. Raises DatasetError, ConfigError."""
    data, method = config.data, config.method
    if data.gt_path is None and config.generate:
        return _each_seed(config, _names_to_generate(config))
    auto = data.mask_path == AUTO
    if auto and method != "relight":
        raise ConfigError(f"data.mask_path: auto is for method relight, not {method}; name masks instead")
    if data.mask_path is None and method in MASKED_METHODS:
        raise ConfigError(f"method {method} needs data.mask_path; name a mask or a folder of masks")
    mask_path = None if auto else data.mask_path
    return _each_seed(config, find_pairs(data.gt_path, mask_path, data.offset, data.max_len))


def _names_to_generate(config: Config) -> list[Pair]:
    data = config.data
    if config.method not in GENERATORS:
        raise ConfigError(
            f"generate is for method {' or '.join(GENERATORS)}, not {config.method}; set data.gt_path"
        )
    numbers = range(config.generate)[data.offset :][: data.max_len]
    if not numbers:
        raise DatasetError(f"offset {data.offset} leaves none of {config.generate} images")
    return [Pair(f"{i:06d}", None, None) for i in numbers]


def _each_seed(config: Config, single: list[Pair]) -> list[Pair]:
    """Each image once for each of the config's seeds, filled as a run of that seed alone would fill it."""
    if config.seeds == 1:
        return single
    return [
        replace(pair, name=_of_seed(pair.name, seed), draws=Draws(seed, pair.name))
        for pair in single
        for seed in _seeds(config)
    ]


def _seeds(config: Config) -> Iterable[int]:
    return range(config.seed, config.seed + config.seeds)


def _of_seed(name: str, seed: int) -> str:
    return f"{name}_seed{seed}"


def truths(config: Config) -> dict[str, str]:
    """Names of results -> images without shadows, in data.free_path. Raises DatasetError."""
    path = config.data.free_path
    single = {} if path is None else dict(images_by_stem(path, "data.free_path").values())
    if config.seeds == 1:
        return single
    return {_of_seed(name, seed): file for name, file in single.items() for seed in _seeds(config)}


def from_images(
    image: Image.Image, mask: Image.Image | None, mask_is: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """The image uint8 (H, W, 3) and its keep-mask bool (H, W). Raises ImageError if sizes differ.

    mask_is: what 255 stands for in the mask, keep or shadow.
    """
    if mask is not None and mask.size != image.size:
        raise ImageError(f"the image is {image.size} and its mask {mask.size}; make them equal")
    keep = None if mask is None else mask_from_pil(mask) != (mask_is == "shadow")
    return from_pil(image), keep


def kind(path: str) -> str:
    """As `path_kind`; missing also where it cannot be asked."""
    try:
        return path_kind(path)
    except Exception:  # remote only: no network, no credentials, an address blobfile does not know
        return "missing"
