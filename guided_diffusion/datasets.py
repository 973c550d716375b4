"""Pictures with their masks for inpainting, and a folder of pictures for training."""

import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch.utils.data import Dataset

from guided_diffusion.codec import PixelCodec
from guided_diffusion.draws import Draws
from guided_diffusion.files import AnyPath, is_remote, join_path, path_kind
from guided_diffusion.images import EXTENSIONS, list_pictures, read_picture, resize
from guided_diffusion.scenes import render, render_free, render_labelled, scene_rng


class DatasetError(ValueError):
    """The pictures asked for are not there, or do not fit together. The message is one line."""


@dataclass(frozen=True)
class Pair:
    """A picture to work on: its name (relative POSIX path without extension) and its files.

    draws: None = those of the config's seed and this name.
    """

    name: str
    gt: str | None
    mask: str | None
    draws: Draws | None = None


def find_pairs(
    gt_path: str | None, mask_path: str | None, offset: int = 0, max_len: int | None = None
) -> list[Pair]:
    """Pictures with their masks, sorted by name, then `max_len` of them from the `offset`-th on.

    Each path is a file or a folder (searched with its sub-folders), local or remote. Names are matched
    without extension; a mask that is one file serves all pictures; no mask path gives pairs without mask.
    Raises DatasetError when a path is missing or empty, when two pictures share a name, when pictures and
    masks do not match one to one, or when nothing is left between `offset` and `max_len`.
    """
    gts = pictures_by_stem(gt_path, "data.gt_path")
    if mask_path is None:
        pairs = [Pair(name, path, None) for name, path in gts.values()]
    elif _kind(mask_path, "data.mask_path") == "file":
        pairs = [Pair(name, path, mask_path) for name, path in gts.values()]
    else:
        masks = pictures_by_stem(mask_path, "data.mask_path")
        _check_match(gts, masks, spare_masks=path_kind(str(gt_path)) == "file")
        pairs = [Pair(name, path, masks[key][1]) for key, (name, path) in gts.items()]
    return _between(sorted(pairs, key=lambda pair: pair.name), offset, max_len)


def _kind(path: str, key: str) -> str:
    try:
        kind = path_kind(path)
    except Exception as error:  # remote only: no network, no credentials, an address blobfile does not know
        raise DatasetError(f"{key}: {path} cannot be reached: {' '.join(str(error).split())}") from error
    if kind == "missing":
        raise DatasetError(f"{key}: {path} does not exist; mend the path or put the pictures there")
    return kind


def pictures_by_stem(path: str | None, key: str) -> dict[str, tuple[str, str]]:
    """Key -> (name, path), for the file or all pictures of the folder at `path`.

    The name is the relative POSIX path without extension, the key its normal form, by which names of several
    folders are matched. Raises DatasetError, calling the path by its setting `key`, when it is missing or
    has no pictures, and when two pictures share a name.
    """
    if path is None:
        raise DatasetError(f"{key} is not set; name a picture or a folder of pictures")
    if _kind(path, key) == "file":
        file = str(path).rstrip("/").rsplit("/", 1)[-1] if is_remote(path) else Path(path).name
        return {_key(file): (_stem(file), str(path))}
    names = list_pictures(path)
    if not names:
        raise DatasetError(f"{key}: no pictures ({' '.join(EXTENSIONS)}) in {path}")
    found: dict[str, str] = {}
    for name in names:
        other = found.setdefault(_key(name), name)
        if other != name:
            raise DatasetError(f"{key}: {other} and {name} in {path} share one name; keep only one of them")
    return {stem: (_stem(name), join_path(path, name)) for stem, name in found.items()}


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _key(name: str) -> str:
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
            (lone_gts, len(gts), "pictures have no mask"),
            (lone_masks, len(masks), "masks have no picture"),
        )
        if names
    ]
    if faults:
        raise DatasetError(
            f"data.gt_path and data.mask_path do not match: {'; '.join(faults)}; "
            "name each mask as its picture, or give one mask file for all"
        )


def _between(pairs: list[Pair], offset: int, max_len: int | None) -> list[Pair]:
    stop = len(pairs) if max_len is None else max(offset, 0) + max_len
    chosen = pairs[max(offset, 0) : max(stop, 0)]
    if not chosen or offset < 0:
        raise DatasetError(
            f"offset {offset} and max_len {max_len} leave none of {len(pairs)} pictures; "
            f"offset is 0..{len(pairs) - 1}, max_len at least 1"
        )
    return chosen


class PictureFolder(Dataset[torch.Tensor]):
    """All pictures below a folder, as float32 (3, S, S) in [-1, 1]: item `i` is picture `i % len`.

    The shorter side is resized to S and the centre is cut out. With `random_crop` the shorter side is first
    drawn between S and 1.25 S and the place of the crop is random; with `random_flip` half are mirrored.
    Whatever is random in item `i` depends on (seed, i) alone, not on workers or order. Indices may run past
    the number of pictures, so that a later pass (i + len) sees other crops. The constructor raises
    DatasetError if there are no pictures; an item raises PictureError.
    """

    def __init__(
        self, root: AnyPath, image_size: int, random_crop: bool, random_flip: bool, seed: int
    ) -> None:
        self.root, self.image_size, self.seed = root, image_size, seed
        self.random_crop, self.random_flip = random_crop, random_flip
        self.names = list_pictures(root)
        if not self.names:
            raise DatasetError(f"no pictures ({' '.join(EXTENSIONS)}) in {root}; mend the path")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> torch.Tensor:
        rng = np.random.default_rng((self.seed, index))
        picture = read_picture(join_path(self.root, self.names[index % len(self.names)]))
        picture = self._crop(picture, rng)
        if self.random_flip and rng.random() < 0.5:
            picture = picture[:, ::-1]
        return PixelCodec().encode([picture])[0]

    def _crop(self, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        size = self.image_size
        short = int(rng.integers(size, size * 5 // 4 + 1)) if self.random_crop else size
        scale = short / min(picture.shape[:2])
        height, width = (max(short, round(side * scale)) for side in picture.shape[:2])
        picture = resize(picture, (height, width))
        top, left = (height - size) // 2, (width - size) // 2
        if self.random_crop:
            top, left = int(rng.integers(0, height - size + 1)), int(rng.integers(0, width - size + 1))
        return picture[top : top + size, left : left + size]


class SceneStream(Dataset[torch.Tensor]):
    """The endless procedural pictures, as float32 (3, S, S) in [-1, 1]: item `i` is scene `i` of `seed`."""

    def __init__(self, image_size: int, seed: int) -> None:
        self.image_size, self.seed = image_size, seed

    def __getitem__(self, index: int) -> torch.Tensor:
        picture = render_free(scene_rng(self.seed, index), self.image_size)
        return PixelCodec().encode([picture])[0]


class TripletStream(Dataset[torch.Tensor]):
    """Endless procedural pictures with shadow, without, and the matte: item `i` is scene `i` of `seed`.

    uint8 (7, S, S); the matte is 255 where all direct light is blocked.
    """

    def __init__(self, image_size: int, seed: int) -> None:
        self.image_size, self.seed = image_size, seed

    def __getitem__(self, index: int) -> torch.Tensor:
        scene = render(scene_rng(self.seed, index), self.image_size)
        matte = np.rint(255 * scene.matte).astype(np.uint8)[..., None]
        planes = np.concatenate([scene.shadow, scene.free, matte], axis=2)
        return torch.from_numpy(np.moveaxis(planes, 2, 0).copy())


class LabelledStream(Dataset[torch.Tensor]):
    """Endless procedural pictures and what their pixels show: item `i` is scene `i` of `seed`.

    uint8 (4, S, S), as `scenes.render_labelled`.
    """

    def __init__(self, image_size: int, seed: int) -> None:
        self.image_size, self.seed = image_size, seed

    def __getitem__(self, index: int) -> torch.Tensor:
        picture, kinds = render_labelled(scene_rng(self.seed, index), self.image_size)
        planes = np.concatenate([picture, kinds[..., None]], axis=2)
        return torch.from_numpy(np.moveaxis(planes, 2, 0).copy())
