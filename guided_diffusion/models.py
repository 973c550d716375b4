"""Models: the networks of a Config with their weights, loaded when first needed, and their denoiser."""

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
from guided_diffusion.guidance import GuidedDenoiser
from guided_diffusion.runtime import graphs, memory
from guided_diffusion.runtime.device import DTYPES
from guided_diffusion.runtime.inference import convolution_inputs, place_network, prepare_for_inference
from guided_diffusion.runtime.seeds import ImageSeed
from guided_diffusion.unet import UNetModel


@dataclass(frozen=True)
class Models:
    """The network of `config` and, with guidance, its classifier. Loading raises CheckpointError."""

    config: Config
    process: GaussianDiffusion
    """The respaced process."""
    times: Tensor
    """(T,), the time the networks were trained with for each index of `process`."""
    device: torch.device
    precision: str
    """fp32, tf32, bf16 or fp16, as the device takes it."""
    channels: int = 3
    """Channels of model space."""
    factor: int = 1
    """Image pixels per model pixel along each side."""

    @property
    def classifier_path(self) -> str | None:
        """Path of the classifier's weights, None without guidance."""
        guide = self.config.classifier
        return guide.classifier_path if guide.classifier_scale != 0 else None

    @property
    def paths(self) -> list[str]:
        """Paths of all weights."""
        paths = (self.config.model_path, self.classifier_path)
        return [checkpoints.shipped_path(path) for path in paths if path]

    @property
    def single_shape(self) -> bool:
        """True if a classifier takes images of the model's size only."""
        return self.classifier_path is not None and self.config.classifier.classifier_pool == "attention"

    def build_on_meta(self) -> tuple[nn.Module, nn.Module | None]:
        """Build the network and its classifier on the meta device: shapes without weights.

        Raises ConfigError for settings that no network fits.
        """
        model, guide = self.config.model, self.config.classifier
        try:
            with torch.device("meta"):
                network = build.build_network(model, self.channels)
                if self.classifier_path is None:
                    return network, None
                return network, build.build_classifier(
                    guide, model.image_size, channel_mult=model.channel_mult, channels=self.channels
                )
        except (ValueError, RuntimeError) as error:
            raise ConfigError(f"these settings describe no network: {error}") from error

    def expected_batch(self, shape: Sequence[int]) -> int:
        """Estimate how many images of a shape (rows, cols, 3) memory holds.

        Limited only for `batch_size: auto` on a CPU: a GPU reports that memory is out, and the batch is
        halved; a CPU does not.
        """
        if self.config.data.batch_size != "auto" or self.device.type != "cpu":
            return sys.maxsize
        return max(1, memory.available_memory() // (2 * self.activation_bytes(shape)))

    def activation_bytes(self, shape: Sequence[int]) -> int:
        """Bound the memory of one image (rows, cols, 3) in the network by the inputs of all its convolutions.

        The measured peaks are half to three quarters of it (docs/reports/benchmarks.md).
        """
        rows, columns, _ = shape
        share = rows * columns / (self.factor * self.config.model.image_size) ** 2
        return int(share * self._convolution_inputs * DTYPES[self.precision].itemsize)

    @cached_property
    def _convolution_inputs(self) -> int:
        """Count the numbers that all convolutions take for an image of the model's size."""
        network, _ = self.build_on_meta()
        assert isinstance(network, UNetModel)
        shapes = convolution_inputs(network, self.config.model.image_size)
        return sum(map(math.prod, shapes.values()))

    @cached_property
    def network(self) -> nn.Module:
        """The diffusion model on its device."""
        empty, _ = self.build_on_meta()
        loaded = self._load(empty, self.config.model_path, as_stored=True)
        placed = prepare_for_inference(loaded, self.device, self.precision, self.config.model.image_size)
        return graphs.maybe_compile(placed, self.config.compile)

    @cached_property
    def classifier(self) -> nn.Module | None:
        """The classifier on its device, None without guidance."""
        _, empty = self.build_on_meta()
        if empty is None:
            return None
        return place_network(self._load(empty, str(self.classifier_path)), self.device, "fp32")

    def _load(self, empty: nn.Module, path: str, as_stored: bool = False) -> nn.Module:
        return checkpoints.load(empty, path, self.config.model.image_size, as_stored)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Digests of the weights, whatever their paths, and the precision. Reads the files."""
        paths = [self.config.model_path, self.classifier_path]
        weights = [checkpoints.digest(path) if path else None for path in paths]
        return {"weights": weights, "precision": self.precision}

    def denoiser(self, images: Sequence[ImageSeed]) -> Denoise:
        """Assemble the denoiser for these images; their seeds decide labels of a class-conditional model."""
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
        dtype = DTYPES[self.precision]
        autocast = dtype if dtype.itemsize == 2 else None
        return GuidedDenoiser(plain, classifier, times, labels, guide.classifier_scale, autocast)

    def labels(self, images: Sequence[ImageSeed]) -> Tensor:
        """Choose classes (B,): cond_y for all, or a random one for each image, from its seed."""
        if self.config.cond_y is not None:
            return torch.full((len(images),), self.config.cond_y, device=self.device)
        draw = partial(torch.randint, build.NUM_CLASSES, (), device=self.device)
        draws = [draw(generator=seed.generator("label", self.device)) for seed in images]
        return torch.stack(draws)
