"""Training data of a prior; order of the items, batches, and replacement of unreadable files."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence, Sized
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from guided_diffusion.codec import Codec
from guided_diffusion.errors import DatasetError, ImageError
from guided_diffusion.images.files import path_kind
from guided_diffusion.runtime import distributed
from guided_diffusion.training.config import TrainConfig
from guided_diffusion.training.datasets import ImageFolder
from guided_diffusion.training.scene_windows import SceneWindows

Item: TypeAlias = tuple[Tensor, tuple[str, ...]]
Batch: TypeAlias = tuple[Tensor, list[str]]

_TRIES = 100  # unreadable images in a row after which the whole source counts as broken


class EndlessOrder(Sampler[int]):
    """Indices of the items that this rank trains on.

    Rank r of n takes every n-th index, from start + r on. In epoch e image p of a folder has the index
    e * size + p, so that its crop differs from that of the epoch before.

    Args:
        size: number of images, shuffled anew in each epoch; None = an endless source, in order.
        start: number of items that were drawn before, over all ranks.
        seed: seed of the shuffling.
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
                wanted, offset = divmod(position, self.size)
                if wanted != epoch:
                    epoch, order = wanted, np.random.default_rng([self.seed, wanted]).permutation(self.size)
                yield epoch * self.size + int(order[offset])
            position += distributed.world_size()


class SkipUnreadable(Dataset[Item]):
    """Items of a source; an image that cannot be read is replaced by the next one.

    An item is a tensor and a tuple of faults, one line for each image that it replaces. Raises ImageError if
    a hundred images in a row cannot be read.
    """

    def __init__(self, source: Dataset[Tensor]) -> None:
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


def open_source(config: TrainConfig, codec: Codec) -> Dataset[Tensor]:
    """The training images of a prior that `data_dir` names. Raises DatasetError if there are none.

    codec: encodes the images into the space that the network works in; they have `image_size` times its
        factor pixels along each side.
    """
    size = config.image_size * codec.factor
    if config.data_dir == "scenes":
        return SceneWindows(size, config.seed, config.frame_scales, codec)
    if path_kind(config.data_dir) != "folder":
        raise DatasetError(
            f"data_dir: {config.data_dir} is not a folder; name a folder of images, or 'scenes' for the "
            "procedural ones"
        )
    return ImageFolder(config.data_dir, size, config.random_crop, config.random_flip, config.seed, codec)


def open_batches(source: Dataset[Tensor], config: TrainConfig, start: int) -> Iterator[Batch]:
    """Endless batches for this rank: `batch_size` items, and the faults of the images that they replace.

    start: number of items that were drawn before, over all ranks.
    """
    size = len(source) if isinstance(source, Sized) else None
    loader: DataLoader[Any] = DataLoader(
        SkipUnreadable(source),
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
    # Ctrl-C reaches all processes; the trainer still needs this batch.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
