"""Models: those of a Config with their weights, loaded when first asked for, and the denoiser they make."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from guided_diffusion import build, checkpoints
from guided_diffusion.config.schema import Config
from guided_diffusion.denoiser import Denoise, Denoiser
from guided_diffusion.errors import ConfigError
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.guidance import Guided
from guided_diffusion.runtime import graphs, hardware
from guided_diffusion.runtime.seeds import Draws
from guided_diffusion.unet import UNetModel


@dataclass(frozen=True)
class Models:
    """The network of `config` and, with guidance, its classifier.

    process, times: the respaced process, and for each of its indices the time the networks were trained with;
    precision: fp32, tf32, bf16 or fp16, as the device takes it. Loading raises CheckpointError.
    """

    config: Config
    process: GaussianDiffusion
    times: Tensor
    device: torch.device
    precision: str

    @property
    def classifier_path(self) -> str | None:
        """None when there is no guidance."""
        guide = self.config.classifier
        return guide.classifier_path if guide.classifier_scale != 0 else None

    @property
    def paths(self) -> list[str]:
        """Of the weights."""
        return [path for path in (self.config.model_path, self.classifier_path) if path]

    def empty(self) -> tuple[nn.Module, nn.Module | None]:
        """The network and its classifier: shapes on the meta device, without weights.

        Raises ConfigError for settings that no network fits.
        """
        model, guide = self.config.model, self.config.classifier
        try:
            with torch.device("meta"):
                network = build.build_network(model)
                if self.classifier_path is None:
                    return network, None
                return network, build.build_classifier(guide, model.image_size, model.channel_mult)
        except (ValueError, RuntimeError) as error:
            raise ConfigError(f"these settings describe no network: {error}") from error

    def expected(self, shape: Sequence[int]) -> int:
        """How many images of a shape (rows, cols, 3) memory is expected to hold: boundless but for
        `batch_size: auto` on a CPU, where it would be too late when memory is full."""
        if self.config.data.batch_size != "auto" or self.device.type != "cpu":
            return sys.maxsize
        return max(1, hardware.available_memory() // (2 * self.features(shape)))

    def features(self, shape: Sequence[int]) -> int:
        """Bytes of memory, at most, in which the network sees one image (rows, cols, 3): all that its
        convolutions are given. The measured peaks are half to three quarters of it."""
        rows, columns, _ = shape
        share = rows * columns / self.config.model.image_size**2
        return int(share * self._given * hardware.DTYPES[self.precision].itemsize)

    @cached_property
    def _given(self) -> int:
        """Numbers that the convolutions are given for an image of the model's size."""
        network, _ = self.empty()
        assert isinstance(network, UNetModel)
        shapes = build.convolution_inputs(network, self.config.model.image_size)
        return sum(map(math.prod, shapes.values()))

    @cached_property
    def network(self) -> nn.Module:
        empty, _ = self.empty()
        loaded = self._load(empty, self.config.model_path, as_stored=True)
        placed = build.place(loaded, self.device, self.precision, self.config.model.image_size)
        return graphs.quickened(placed, self.config.compile)

    @cached_property
    def classifier(self) -> nn.Module | None:
        _, empty = self.empty()
        if empty is None:
            return None
        return build.place(self._load(empty, str(self.classifier_path)), self.device, "fp32")

    def _load(self, empty: nn.Module, path: str, as_stored: bool = False) -> nn.Module:
        return checkpoints.load(empty, path, self.config.model.image_size, as_stored)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Of the weights, wherever they come from, and the arithmetic. Reads the files."""
        paths = [self.config.model_path, self.classifier_path]
        weights = [checkpoints.digest(path) if path else None for path in paths]
        return {"weights": weights, "precision": self.precision}

    def denoiser(self, images: Sequence[Draws]) -> Denoise:
        """The denoiser for these images (whose draws decide the labels of a class-conditional model)."""
        model, process, guide = self.config.model, self.config.process, self.config.classifier
        classifier = self.classifier
        labels = self.labels(images) if model.class_cond or classifier is not None else None
        times = self.times.to(self.device)
        plain = Denoiser(
            self.network,
            self.process,
            times,
            predict_xstart=process.predict_xstart,
            learn_sigma=model.learn_sigma,
            sigma_small=process.sigma_small,
            clip=self.config.clip_denoised,
            labels=labels if model.class_cond else None,
        )
        if classifier is None or labels is None:
            return plain
        dtype = hardware.DTYPES[self.precision]
        autocast = dtype if dtype.itemsize == 2 else None
        return Guided(plain, classifier, times, labels, guide.classifier_scale, autocast)

    def labels(self, images: Sequence[Draws]) -> Tensor:
        """Classes (B,): cond_y for all, else for each image one of its draws."""
        if self.config.cond_y is not None:
            return torch.full((len(images),), self.config.cond_y, device=self.device)
        draw = partial(torch.randint, build.NUM_CLASSES, (), device=self.device)
        draws = [draw(generator=each.generator("label", self.device)) for each in images]
        return torch.stack(draws)
