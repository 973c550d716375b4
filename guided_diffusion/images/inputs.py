"""Inputs: the images and masks that a Config names, checked before any is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from guided_diffusion.config.data import DataConfig
from guided_diffusion.config.schema import Config
from guided_diffusion.errors import ConfigError, DatasetError, ImageError
from guided_diffusion.images.files import path_kind
from guided_diffusion.images.formats import from_pil, read_deep, read_image
from guided_diffusion.images.masks import KeepMask, mask_from_pil, read_mask, to_keep
from guided_diffusion.images.pairs import Pair, find_pairs, images_by_stem
from guided_diffusion.runtime.seeds import ImageSeed

AUTO = "auto"  # the data.mask_path of a task that finds the regions itself


def find_inputs(
    config: Config, *, needs_mask: bool, mask_finders: Sequence[str], generators: Sequence[str]
) -> list[Pair]:
    """Find the images of the config, or name those to generate. Raises DatasetError, ConfigError.

    Args:
        config: the run.
        needs_mask: without a mask there is nothing to do.
        mask_finders: tasks for which `data.mask_path: auto` is allowed.
        generators: methods that can do without an image.
    """
    data = config.data
    if data.gt_path is None and config.generate:
        return _repeat_for_seeds(config, _names_to_generate(config, generators))
    auto = data.mask_path == AUTO
    if auto and config.task not in mask_finders:
        raise ConfigError(
            f"data.mask_path: auto is for task {' or '.join(mask_finders)}, not {config.task}; name masks "
            "instead"
        )
    if data.mask_path is None and needs_mask:
        finds = config.task in mask_finders
        subject, remedy = ("task " + config.task, ", or auto") if finds else ("method " + config.method, "")
        raise ConfigError(f"{subject} needs data.mask_path; name a mask or a folder of masks{remedy}")
    mask_path = None if auto else data.mask_path
    return _repeat_for_seeds(config, find_pairs(data.gt_path, mask_path, data.offset, data.max_len))


def _names_to_generate(config: Config, generators: Sequence[str]) -> list[Pair]:
    data = config.data
    if config.method not in generators:
        raise ConfigError(
            f"generate is for method {' or '.join(generators)}, not {config.method}; set data.gt_path"
        )
    numbers = range(config.generate)[data.offset :][: data.max_len]
    if not numbers:
        raise DatasetError(f"offset {data.offset} leaves none of {config.generate} images")
    return [Pair(f"{i:06d}", None, None) for i in numbers]


def _repeat_for_seeds(config: Config, pairs: list[Pair]) -> list[Pair]:
    """Repeat each image for each of the config's seeds; each is what a run of that seed alone would make."""
    if config.seeds == 1:
        return pairs
    return [
        replace(pair, name=_name_with_seed(pair.name, seed), seed=ImageSeed(seed, pair.name))
        for pair in pairs
        for seed in _seeds(config)
    ]


def _seeds(config: Config) -> Iterable[int]:
    return range(config.seed, config.seed + config.seeds)


def _name_with_seed(name: str, seed: int) -> str:
    return f"{name}_seed{seed}"


def find_ground_truths(config: Config) -> dict[str, str]:
    """Map names of results to shadow-free images in data.shadow_free_path. Raises DatasetError."""
    path = config.data.shadow_free_path
    files = {} if path is None else dict(images_by_stem(path, "data.shadow_free_path").values())
    if config.seeds == 1:
        return files
    return {_name_with_seed(name, seed): file for name, file in files.items() for seed in _seeds(config)}


def missing_inputs(data: DataConfig) -> list[str]:
    """List the paths of images and masks that are not there."""
    masks = None if data.mask_path == AUTO else data.mask_path
    paths = (*data.gt_paths, masks, data.shadow_free_path)
    return [path for path in paths if path and kind(path) == "missing"]


def read_pair(
    pair: Pair, mask_is: str = "keep", deep: bool = False
) -> tuple[np.ndarray | None, KeepMask | None]:
    """Read a pair's image uint8 (H, W, 3) and mask bool (H, W), True = known; None for what it lacks.

    Args:
        pair: the files.
        mask_is: what 255 stands for in the mask's file, keep or shadow.
        deep: read a 16-bit image as uint16.

    Raises ImageError if one of them cannot be read, or their sizes differ.
    """
    reader = read_deep if deep else read_image
    gt = None if pair.gt is None else reader(pair.gt)
    keep = None if pair.mask is None else to_keep(read_mask(pair.mask), mask_is)
    if gt is not None and keep is not None and gt.shape[:2] != keep.shape:
        raise ImageError(
            f"{pair.gt} is {gt.shape[1]}x{gt.shape[0]} and its mask {pair.mask} is "
            f"{keep.shape[1]}x{keep.shape[0]}; make them the same size"
        )
    return gt, keep


def from_images(
    image: Image.Image, mask: Image.Image | None, mask_is: str
) -> tuple[np.ndarray, KeepMask | None]:
    """Convert a PIL image to uint8 (H, W, 3) and its mask to bool (H, W), True = known.

    mask_is: what 255 stands for in the mask, keep or shadow. Raises ImageError if the sizes differ.
    """
    if mask is not None and mask.size != image.size:
        raise ImageError(f"the image is {image.size} and its mask {mask.size}; make them equal")
    keep = None if mask is None else to_keep(mask_from_pil(mask), mask_is)
    return from_pil(image), keep


def kind(path: str) -> str:
    """Return file, folder or missing; missing also where it cannot be asked."""
    try:
        return path_kind(path)
    except OSError:
        return "missing"
