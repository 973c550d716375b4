"""Images for training: which ones, in which order, in batches, and what happens to broken files."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from guided_diffusion.errors import DatasetError, ImageError
from guided_diffusion.images.files import path_kind
from guided_diffusion.runtime import distributed
from guided_diffusion.training.config import TrainConfig
from guided_diffusion.training.datasets import ImageFolder, LabelledStream, TripletStream
from guided_diffusion.training.scene_windows import SceneWindows

Source: TypeAlias = "SceneWindows | TripletStream | LabelledStream | ImageFolder"
Item: TypeAlias = tuple[Tensor, tuple[str, ...]]
Batch: TypeAlias = tuple[Tensor, list[str]]

_TRIES = 100  # broken images in a row after which something else is wrong


class EndlessOrder(Sampler[int]):
    """Indices from image number `start` on, for one rank: 0, 1, 2 …, or all of `size` anew each epoch.

    size None means an endless source. Rank r of n takes every n-th index from r on. In epoch e a folder's
    image p has the index e * size + p, so that its crop differs from the last epoch's.
    """

    def __init__(self, size: int | None, start: int, seed: int) -> None:
        self.size, self.start, self.seed = size, start, seed

    def __iter__(self) -> Iterator[int]:
        position = self.start + distributed.rank()
        epoch, order = -1, np.empty(0, dtype=np.int64)
        while True:
            if self.size is None:
                yield position
            else:
                wanted, place = divmod(position, self.size)
                if wanted != epoch:
                    epoch, order = wanted, np.random.default_rng([self.seed, wanted]).permutation(self.size)
                yield epoch * self.size + int(order[place])
            position += distributed.world_size()


class Readable(Dataset[Item]):
    """The images of a source, the next one in the place of one that cannot be read.

    An item is an image and what was wrong with those it stands for, one line each. It raises ImageError
    when none of the next hundred can be read.
    """

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, index: int) -> Item:
        faults: list[str] = []
        while True:
            try:
                return self.source[index + len(faults)], tuple(faults)
            except ImageError as error:
                faults.append(str(error))
                if len(faults) == _TRIES:
                    raise ImageError(
                        f"{error}; nor could the {_TRIES - 1} before it; mend data_dir"
                    ) from None


def open_source(config: TrainConfig) -> Source:
    """The scenes or the folder that `data_dir` names. Raises DatasetError if there are no images."""
    size = config.model.image_size
    if config.data_dir == "scenes":
        if config.task == "detect":
            return TripletStream(size, config.seed)
        if config.task == "classify":
            return LabelledStream(size, config.seed)
        return SceneWindows(size, config.seed, config.factors)
    if path_kind(config.data_dir) != "folder":
        raise DatasetError(
            f"data_dir: {config.data_dir} is not a folder; name a folder of images, or 'scenes' for the "
            "procedural ones"
        )
    return ImageFolder(config.data_dir, size, config.random_crop, config.random_flip, config.seed)


def open_batches(source: Source, config: TrainConfig, start: int) -> Iterator[Batch]:
    """Endless batches for this rank, from image number `start` on: what `source` gives, batch_size of them,
    and what was wrong with images that had to be replaced."""
    size = len(source) if isinstance(source, ImageFolder) else None
    loader: DataLoader[Any] = DataLoader(
        Readable(source),
        batch_size=config.batch_size,
        sampler=EndlessOrder(size, start, config.seed),
        num_workers=config.workers,
        collate_fn=_collate,
        worker_init_fn=_start_worker,
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader)


def _collate(items: Sequence[Item]) -> Batch:
    return torch.stack([image for image, _ in items]), [fault for _, faults in items for fault in faults]


def _start_worker(_worker: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the trainer still needs this batch
