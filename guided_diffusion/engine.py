"""Engine: the one place that assembles the parts from a Config, runs them over pictures, yields results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from guided_diffusion import assembly, checkpoints, distributed, jobs
from guided_diffusion import config as configuration
from guided_diffusion.config import Config
from guided_diffusion.construct import ConfigError, construct
from guided_diffusion.datasets import DatasetError, Pair, find_pairs
from guided_diffusion.denoiser import Denoise, Denoiser
from guided_diffusion.files import path_kind
from guided_diffusion.guidance import Guided
from guided_diffusion.images import PictureError, from_pil
from guided_diffusion.jobs import Job, generator
from guided_diffusion.masks import mask_from_pil
from guided_diffusion.painter import Painter
from guided_diffusion.results import Progress, Result
from guided_diffusion.samplers import SAMPLERS

# Name -> type: errors can then name keys inside a type too.
SAMPLER_KEYS = {key: hint for cls in SAMPLERS.values() for key, hint in get_type_hints(cls).items()}
MASKED_METHODS = ("repaint", "ddnm")  # without a mask these have nothing to do
GENERATORS = ("ddpm", "ddim")  # these can do without a picture


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The Config of a YAML; overrides are 'key.path=value'. Raises ConfigError."""
    return configuration.load(path, overrides, SAMPLER_KEYS)


class Engine:
    """Runs one Config. Checks everything that can be checked before a model is loaded.

    Raises ConfigError (bad settings) here, DatasetError from `pairs`, CheckpointError with the weights.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.warnings = list(config.warnings)
        try:
            self.process, self.times = assembly.build_process(config.process)
            self.sampler = self._sampler()
            self.walk_times = list(self.sampler.times(self.process))
            self.device = distributed.find_device(config.device)
            self._check_class()
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.precision = config.precision
        if config.precision == "fp16" and self.device.type == "cpu":
            self.precision = "fp32"  # the CPU has no fast half precision; the weights are the same
        self.painter = self._painter()
        self._warn_of_start()
        self._warn_of_unread()

    @property
    def evaluations(self) -> int:
        """Of the network, for each picture."""
        return self.painter.evaluations

    # assembling

    def _painter(self) -> Painter:
        """Holds no network: `denoiser` loads it when the first batch is painted."""
        config = self.config
        return Painter(
            self.sampler,
            self.process,
            self.denoiser,
            self.device,
            seed=config.seed,
            batch_size=config.data.batch_size,
            paste_known=config.paste_known,
        )

    def _sampler(self) -> Any:
        cls = SAMPLERS[self.config.method]
        known = {field.name for field in fields(cls)}
        own = {key: value for key, value in self.config.options.items() if key in known}
        foreign = sorted(set(self.config.options) - set(own))
        if foreign:
            self.warnings.append(f"keys that method {self.config.method} does not read: {', '.join(foreign)}")
        return construct(cls, own, f"method {self.config.method}")

    def _warn_of_start(self) -> None:
        """Warn if the walk enters the model at a level where the picture should still be visible."""
        first, last = self.walk_times[0], self.process.num_timesteps - 1
        signal = self.process.alpha_bar(first) ** 0.5
        if self.config.method in MASKED_METHODS and first < last:
            self.warnings.append(
                f"t_T {first + 1} is short of {last + 1} respaced steps: pure noise enters the model where "
                f"it expects {signal:.1%} signal; for fewer steps set timestep_respacing: '{first + 1}'"
            )

    def _warn_of_unread(self) -> None:
        """Warn of what was given and will not be looked at."""
        config, classifier = self.config, self.config.classifier.classifier_path
        if config.cond_y is not None and not config.model.class_cond and not classifier:
            self.warnings.append("cond_y is not read: there is neither class_cond nor a classifier_path")
        if not getattr(self.sampler, "inpa_inj_sched_prev", True):
            self.warnings.append("inpa_inj_sched_prev: false hides the known pixels from the model")
        if config.generate and (config.method not in GENERATORS or config.data.gt_path is not None):
            self.warnings.append(
                f"generate is not read: it is for {' and '.join(GENERATORS)}, without a data.gt_path"
            )

    def _check_class(self) -> None:
        y, classes = self.config.cond_y, assembly.NUM_CLASSES
        if y is not None and y >= classes:
            raise ConfigError(f"cond_y {y} is beyond the {classes} classes; use 0..{classes - 1}")

    @property
    def _classifier_path(self) -> str | None:
        """None when there is no guidance."""
        guide = self.config.classifier
        return guide.classifier_path if guide.classifier_scale != 0 else None

    def empty_networks(self) -> tuple[torch.nn.Module, torch.nn.Module | None]:
        """The network and, with guidance, its classifier: shapes on the meta device, without weights.

        Raises ConfigError for settings that no network fits.
        """
        model, guide = self.config.model, self.config.classifier
        try:
            with torch.device("meta"):
                network = assembly.build_network(model)
                if self._classifier_path is None:
                    return network, None
                return network, assembly.build_classifier(guide, model.image_size, model.channel_mult)
        except (ValueError, RuntimeError) as error:
            raise ConfigError(f"these settings describe no network: {error}") from error

    @cached_property
    def network(self) -> torch.nn.Module:
        empty, _ = self.empty_networks()
        network = checkpoints.load(empty, self.config.model_path, self.config.model.image_size)
        return network.to(self.device)

    @cached_property
    def classifier(self) -> torch.nn.Module | None:
        _, empty = self.empty_networks()
        path = self._classifier_path
        if empty is None or path is None:
            return None
        return checkpoints.load(empty, path, self.config.model.image_size).to(self.device)

    @cached_property
    def fingerprint(self) -> str:
        """Of everything that decides the pictures but the pictures themselves: settings and weights."""
        paths = [self.config.model_path, self._classifier_path]
        weights = [checkpoints.digest(path) if path else None for path in paths]
        return configuration.fingerprint(self.config, {"weights": weights, "precision": self.precision})

    def missing_files(self) -> list[str]:
        """Pictures, masks and checkpoints that the config names and that are not there."""
        data, weights = self.config.data, [self.config.model_path, self._classifier_path]
        return [
            *(path for path in (data.gt_path, data.mask_path) if path and _kind(path) == "missing"),
            *(path for path in weights if path and _kind(path) != "file"),
        ]

    # pictures

    def pairs(self) -> list[Pair]:
        """The pictures of the config, or names for those to generate. Raises DatasetError, ConfigError."""
        data, method = self.config.data, self.config.method
        if data.gt_path is None and self.config.generate and method not in GENERATORS:
            raise ConfigError(
                f"generate is for method {' or '.join(GENERATORS)}, not {method}; set data.gt_path"
            )
        if data.gt_path is None and self.config.generate:
            numbers = range(self.config.generate)[data.offset :][: data.max_len]
            if not numbers:
                raise DatasetError(f"offset {data.offset} leaves none of {self.config.generate} pictures")
            return [Pair(f"{i:06d}", None, None) for i in numbers]
        if data.mask_path is None and method in MASKED_METHODS:
            raise ConfigError(f"method {method} needs data.mask_path; name a mask or a folder of masks")
        return find_pairs(data.gt_path, data.mask_path, data.offset, data.max_len)

    def job(self, name: str, gt: np.ndarray | None, keep: np.ndarray | None) -> Job:
        """Prepare a picture uint8 (H, W, 3) and its keep-mask bool (H, W); both None to generate.

        Raises PictureError if the networks cannot take what they would have to see of it.
        """
        size = self.config.model.image_size
        multiple = 2 ** (len(self.config.model.channel_mults) - 1)
        job = jobs.prepare(self.fingerprint, name, gt, keep, size, multiple)
        rows, cols = job.seen_keep.shape
        pool = self.config.classifier.classifier_pool if self._classifier_path else ""
        if pool == "attention" and rows != cols:
            raise PictureError(
                f"the hole is longer than the picture's short side, so the model would see {cols}x{rows} "
                f"pixels, but the classifier takes {size}x{size} only; crop the picture, or set "
                "classifier_scale: 0"
            )
        return job

    # running

    def __call__(
        self, pairs: Iterable[Pair] | None = None, done: Callable[[str, str], bool] | None = None
    ) -> Iterator[Result]:
        """Results of `pairs` (default: those of the config), as they are finished; see `stream`."""
        return (event for event in self.stream(pairs, done) if isinstance(event, Result))

    def stream(
        self, pairs: Iterable[Pair] | None = None, done: Callable[[str, str], bool] | None = None
    ) -> Iterator[Result | Progress]:
        """Results as they are finished, and a Progress after every evaluation of the network.

        done: (name, key) -> True if that picture needs no computing. A picture that cannot be read or sampled
        gives a Result with an `error`; the others go on.
        """
        chosen = self.pairs() if pairs is None else pairs
        yield from self.painter.paint(self._prepared(pair, done) for pair in chosen)

    def _prepared(self, pair: Pair, done: Callable[[str, str], bool] | None) -> Job | Result:
        try:
            job = self.job(pair.name, *jobs.read(pair))
        except PictureError as error:
            return Result(pair.name, error=str(error))
        if done is not None and done(job.name, job.key):
            return Result(job.name, job.key, gt=job.gt, keep=job.keep, reused=True)
        return job

    def fill(
        self, names: Sequence[str], pictures: Sequence[np.ndarray], keeps: Sequence[np.ndarray]
    ) -> Iterator[Result | Progress]:
        """As `stream`, for pictures uint8 (H, W, 3) and their keep-masks bool (H, W); raises PictureError."""
        yield from self.painter.paint(self.job(*each) for each in zip(names, pictures, keeps, strict=True))

    def denoiser(self, names: Sequence[str]) -> Denoise:
        """The denoiser for pictures of these names (which decide the labels of a class-conditional model)."""
        model, process, guide = self.config.model, self.config.process, self.config.classifier
        classifier = self.classifier
        labels = self._labels(names) if model.class_cond or classifier is not None else None
        times = self.times.to(self.device)
        plain = Denoiser(
            self.network,
            self.process,
            times,
            predict_xstart=process.predict_xstart,
            learn_sigma=model.learn_sigma,
            sigma_small=process.sigma_small,
            clip=self.config.clip_denoised,
            precision=self.precision,
            labels=labels if model.class_cond else None,
        )
        if classifier is None or labels is None:
            return plain
        return Guided(plain, classifier, times, labels, guide.classifier_scale)

    def _labels(self, names: Sequence[str]) -> Tensor:
        """cond_y for all, else for each picture a class drawn from (seed, its name)."""
        if self.config.cond_y is not None:
            return torch.full((len(names),), self.config.cond_y, device=self.device)
        draw = partial(torch.randint, assembly.NUM_CLASSES, (), device=self.device)
        draws = [draw(generator=generator(self.config.seed, "label", name, self.device)) for name in names]
        return torch.stack(draws)

    def inpaint(
        self, picture: Image.Image, mask: Image.Image | None = None, name: str = "picture"
    ) -> Image.Image:
        """Fill one PIL picture where its mask is dark (255 = keep); returns a PIL picture of the same size.

        name: seeds the randomness, with the config's seed. Raises PictureError when it cannot be done.
        """
        keep = None if mask is None else mask_from_pil(mask)
        gt = from_pil(picture)
        if keep is not None and keep.shape != gt.shape[:2]:
            raise PictureError(
                f"the picture is {picture.size} and its mask {mask and mask.size}; make them equal"
            )
        if keep is None and self.config.method in MASKED_METHODS:
            raise PictureError(f"method {self.config.method} needs a mask; give one, 255 = keep")
        [result] = [r for r in self.painter.paint([self.job(name, gt, keep)]) if isinstance(r, Result)]
        if result.filled is None:
            raise PictureError(result.error)
        return Image.fromarray(result.filled)


def _kind(path: str) -> str:
    try:
        return path_kind(path)
    except Exception:  # remote only: no network, no credentials, an address blobfile does not know
        return "missing"
