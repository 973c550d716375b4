"""Pair images with their masks by name."""

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from guided_diffusion.errors import DatasetError
from guided_diffusion.images.files import is_remote, join_path, path_kind
from guided_diffusion.images.formats import EXTENSIONS, list_images
from guided_diffusion.runtime.seeds import ImageSeed


@dataclass(frozen=True)
class Pair:
    """An image to work on, and its mask."""

    name: str
    """Relative POSIX path without extension."""
    gt: str | None
    """Path of the image; None = an image is generated."""
    mask: str | None
    """Path of the mask; None = there is none."""
    seed: ImageSeed | None = None
    """Seed of the image; None = that of the config's seed and this name."""


def find_pairs(
    gt_path: str | Sequence[str] | None, mask_path: str | None, offset: int = 0, max_len: int | None = None
) -> list[Pair]:
    """Pair images with masks, sorted by name.

    Names are matched without extension. Raises DatasetError when a path is missing or empty, when two images
    share a name, when images and masks do not match one to one, or when no pair is left.

    Args:
        gt_path: file, or folder (searched with its sub-folders), local or remote; or several of them.
        mask_path: file or folder; a file serves all images; None gives pairs without mask.
        offset: number of pairs to leave out at the beginning.
        max_len: number of pairs to return at most; None = all.
    """
    gts = images_by_stem(gt_path, "data.gt_path")
    if mask_path is None:
        pairs = [Pair(name, path, None) for name, path in gts.values()]
    elif _require(mask_path, "data.mask_path") == "file":
        pairs = [Pair(name, path, mask_path) for name, path in gts.values()]
    else:
        masks = images_by_stem(mask_path, "data.mask_path")
        _check_match(gts, masks, spare_masks=_only_files(gt_path))
        pairs = [Pair(name, path, masks[key][1]) for key, (name, path) in gts.items()]
    return _slice_pairs(sorted(pairs, key=lambda pair: pair.name), offset, max_len)


def _require(path: str, key: str) -> str:
    try:
        kind = path_kind(path)
    except OSError as error:
        raise DatasetError(f"{key}: {path} cannot be reached: {error}") from error
    if kind == "missing":
        raise DatasetError(f"{key}: {path} does not exist; mend the path or put the images there")
    return kind


def _only_files(paths: str | Sequence[str] | None) -> bool:
    return all(path_kind(path) == "file" for path in ([paths] if isinstance(paths, str) else paths or ()))


def images_by_stem(path: str | Sequence[str] | None, key: str) -> dict[str, tuple[str, str]]:
    """Map stem -> (name, path), for the file or all images of the folder at `path`, or at several paths.

    The name is the relative POSIX path without extension. The stem is its Unicode normal form, by which names
    of several folders are matched. Raises DatasetError when the path is missing or has no images, and when
    two images share a name.

    Args:
        path: file or folder, local or remote.
        key: the setting that holds the path, for error messages.
    """
    if path is None:
        raise DatasetError(f"{key} is not set; name an image or a folder of images")
    if not isinstance(path, str):
        return _merge_paths(path, key)
    if _require(path, key) == "file":
        file = str(path).rstrip("/").rsplit("/", 1)[-1] if is_remote(path) else Path(path).name
        return {_normal_stem(file): (_stem(file), str(path))}
    names = list_images(path)
    if not names:
        raise DatasetError(f"{key}: no images ({' '.join(EXTENSIONS)}) in {path}")
    by_stem: dict[str, str] = {}
    for name in names:
        other = by_stem.setdefault(_normal_stem(name), name)
        if other != name:
            raise DatasetError(f"{key}: {other} and {name} in {path} share one name; keep only one of them")
    return {stem: (_stem(name), join_path(path, name)) for stem, name in by_stem.items()}


def _merge_paths(paths: Sequence[str], key: str) -> dict[str, tuple[str, str]]:
    """Merge several paths; where two images share a name, all names begin with that of their folder."""
    listed = {path: list(images_by_stem(path, key).values()) for path in dict.fromkeys(paths)}
    images = [image for group in listed.values() for image in group]
    if len({name for name, _ in images}) < len(images) and not any(map(is_remote, paths)):
        folders = {
            path: os.path.abspath(path if Path(path).is_dir() else Path(path).parent) for path in paths
        }
        root = os.path.commonpath(folders.values())
        images = [
            (Path(os.path.relpath(folders[path], root), name).as_posix(), file)
            for path, group in listed.items()
            for name, file in group
        ]
    by_stem: dict[str, tuple[str, str]] = {}
    for name, file in images:
        other = by_stem.setdefault(unicodedata.normalize("NFC", name), (name, file))[1]
        if os.path.abspath(other) != os.path.abspath(file):
            raise DatasetError(f"{key}: {other} and {file} share one name; keep only one of them")
    return by_stem


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _normal_stem(name: str) -> str:
    # macOS writes accents as separate code points; the same name from elsewhere must still match.
    return unicodedata.normalize("NFC", _stem(name))


def _check_match(
    gts: dict[str, tuple[str, str]], masks: dict[str, tuple[str, str]], spare_masks: bool
) -> None:
    lone_gts = [name for key, (name, _) in gts.items() if key not in masks]
    lone_masks = [] if spare_masks else [name for key, (name, _) in masks.items() if key not in gts]
    faults = [
        f"{len(names)} of {total} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for names, total, what in (
            (lone_gts, len(gts), "images have no mask"),
            (lone_masks, len(masks), "masks have no image"),
        )
        if names
    ]
    if faults:
        raise DatasetError(
            f"data.gt_path and data.mask_path do not match: {'; '.join(faults)}; "
            "name each mask as its image, or give one mask file for all"
        )


def _slice_pairs(pairs: list[Pair], offset: int, max_len: int | None) -> list[Pair]:
    stop = len(pairs) if max_len is None else max(offset, 0) + max_len
    chosen = pairs[max(offset, 0) : max(stop, 0)]
    if not chosen or offset < 0:
        raise DatasetError(
            f"offset {offset} and max_len {max_len} leave none of {len(pairs)} images; "
            f"offset is 0..{len(pairs) - 1}, max_len at least 1"
        )
    return chosen
