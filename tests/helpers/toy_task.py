"""A toy task, one module as a new task would be: the negative of each image, and its brightness."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from guided_diffusion.config import fingerprints
from guided_diffusion.config.schema import Config
from guided_diffusion.images.inputs import read_pair
from guided_diffusion.images.pairs import Pair
from guided_diffusion.output.keys import image_key
from guided_diffusion.output.results import Folder, Output, OutputSpec, Progress, Result
from guided_diffusion.runtime.seeds import ImageSeed
from guided_diffusion.tasks import Events, IsDone, Parts

NEGATIVE = OutputSpec(
    "negative", Folder("negative", title="negative"), {"brightness": Folder("brightness", title="brightness")}
)


@dataclass(frozen=True)
class Prepared:
    """An image that is ready, and its seed."""

    result: Result
    key: str
    seed: ImageSeed


@dataclass(frozen=True)
class NegativeTask:
    """Makes the negative of each image, with a little noise."""

    OUTPUTS: ClassVar[tuple[OutputSpec, ...]] = (NEGATIVE,)
    finds_masks: ClassVar[bool] = False
    settings: ClassVar[Sequence[str]] = ()

    config: Config

    @classmethod
    def build(cls, config: Config, parts: Parts, outputs: Sequence[str]) -> NegativeTask:
        """Assemble the task."""
        assert list(outputs) == [NEGATIVE.name]
        return cls(config)

    @property
    def needs_mask(self) -> bool:
        """Never."""
        return False

    @property
    def nfe(self) -> Mapping[str, int]:
        """No network is used."""
        return {NEGATIVE.name: 0}

    @property
    def weights(self) -> Sequence[str]:
        """None."""
        return ()

    @property
    def uses_model(self) -> bool:
        """Never."""
        return False

    def fingerprint(self, output: str) -> str:
        """Hash the settings."""
        return fingerprints.fingerprint(self.config, {})

    def prepare(self, pair: Pair, seed: ImageSeed, done: IsDone) -> Prepared | Result:
        """Read an image; see Task.prepare."""
        image, keep = read_pair(pair)
        assert image is not None
        item = self.prepare_image(pair.name, image, keep, seed)
        if done(pair.name, NEGATIVE.name, item.key):
            return replace(item.result, outputs={NEGATIVE.name: Output(item.key)})
        return item

    def prepare_image(
        self, name: str, image: np.ndarray, keep: np.ndarray | None, seed: ImageSeed
    ) -> Prepared:
        """Hash an image in memory; see Task.prepare_image."""
        key = image_key(self.fingerprint(NEGATIVE.name), name, image, keep)
        return Prepared(Result(name, image, keep), key, seed)

    def run(self, prepared: Iterable[Prepared | Result], batch_size: int) -> Events:
        """Make each negative; see Task.run."""
        for item in prepared:
            if isinstance(item, Result):
                yield item
                continue
            assert item.result.gt is not None
            yield Progress((item.result.name,), 1, 1)
            cpu = torch.device("cpu")
            noise = torch.randint(0, 9, item.result.gt.shape, generator=item.seed.generator("noise", cpu))
            image = 255 - np.minimum(item.result.gt, 255 - noise.numpy()).astype(np.uint8)
            extras = {"brightness": item.result.gt.mean(axis=2) / 255}
            output = Output(item.key, image, seconds=0.5, note="a negative", extras=extras)
            yield replace(item.result, outputs={NEGATIVE.name: output})
