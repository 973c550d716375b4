"""Engine: the one place that assembles the parts from a Config, runs them over pictures, yields results."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from guided_diffusion import assembly, checkpoints, distributed, windows
from guided_diffusion import config as configuration
from guided_diffusion.codec import PixelCodec
from guided_diffusion.config import Config
from guided_diffusion.construct import ConfigError, construct
from guided_diffusion.datasets import Pair, find_pairs
from guided_diffusion.denoiser import Denoise, Denoiser
from guided_diffusion.files import path_kind
from guided_diffusion.guidance import Guided
from guided_diffusion.images import PictureError, from_pil, read_picture
from guided_diffusion.masks import mask_from_pil, read_mask
from guided_diffusion.operators import Mask, Nothing, Operator
from guided_diffusion.results import Result
from guided_diffusion.samplers import SAMPLERS, Noise, Problem, walk
from guided_diffusion.scheduler import count_evaluations

# Name -> type: errors can then name keys inside a type too.
SAMPLER_KEYS = {key: hint for cls in SAMPLERS.values() for key, hint in get_type_hints(cls).items()}
MASKED_METHODS = ("repaint", "ddnm")  # without a mask these have nothing to do
LONGEST_VIEW = 16  # model sizes: a view longer than this would take all memory


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The Config of a YAML; overrides are 'key.path=value'. Raises ConfigError."""
    return configuration.load(path, overrides, SAMPLER_KEYS)


@dataclass(frozen=True)
class Progress:
    """One evaluation of the network is done: step `step` of `steps` for the pictures `names`."""

    names: tuple[str, ...]
    step: int
    steps: int


@dataclass(frozen=True)
class Job:
    """A picture that is ready to be sampled: what the model sees of it, and what it goes back into."""

    name: str
    key: str
    gt: np.ndarray | None  # uint8 (H, W, 3), the input at its own size
    keep: np.ndarray | None  # bool (H, W), True = known; None without a mask
    window: windows.Window
    seen: np.ndarray  # uint8 (rows, cols, 3), the input's window at model size
    seen_keep: np.ndarray  # bool (rows, cols)


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
            self._check_classes()
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.evaluations, _ = count_evaluations(self.walk_times)
        self.precision = config.precision
        if config.precision == "fp16" and self.device.type == "cpu":
            self.precision = (
                "fp32"  # the CPU has no fast half precision; the checkpoint's weights are the same
            )
        self._warn_of_start()

    # assembling

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

    def _check_classes(self) -> None:
        y, classes = self.config.cond_y, assembly.NUM_CLASSES
        if y is not None and y >= classes:
            raise ConfigError(f"cond_y {y} is beyond the {classes} classes; use 0..{classes - 1}")
        if y is not None and not self.config.model.class_cond and not self.config.classifier.classifier_path:
            self.warnings.append("cond_y is not read: there is neither class_cond nor a classifier_path")

    def empty_networks(self) -> tuple[torch.nn.Module, torch.nn.Module | None]:
        """The network and, with guidance, its classifier: shapes on the meta device, without weights.

        Raises ConfigError for settings that no network fits.
        """
        model, guide = self.config.model, self.config.classifier
        guided = guide.classifier_path is not None and guide.classifier_scale != 0
        try:
            with torch.device("meta"):
                network = assembly.build_network(model)
                return network, assembly.build_classifier(
                    guide, model.image_size, model.channel_mult
                ) if guided else None
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
        path = self.config.classifier.classifier_path
        if empty is None or path is None:
            return None
        return checkpoints.load(empty, path, self.config.model.image_size).to(self.device)

    @cached_property
    def fingerprint(self) -> str:
        """Of everything that decides the pictures but the pictures themselves: settings and weights."""
        paths = [self.config.model_path, self.config.classifier.classifier_path]
        weights = [checkpoints.digest(path) if path else None for path in paths]
        return configuration.fingerprint(self.config, {"weights": weights, "precision": self.precision})

    def missing_files(self) -> list[str]:
        """Pictures, masks and checkpoints that the config names and that are not there."""
        data, weights = self.config.data, [self.config.model_path, self.config.classifier.classifier_path]
        return [
            *(path for path in (data.gt_path, data.mask_path) if path and path_kind(path) == "missing"),
            *(path for path in weights if path and path_kind(path) != "file"),
        ]

    # pictures

    def pairs(self) -> list[Pair]:
        """The pictures of the config, or names for those to generate. Raises DatasetError, ConfigError."""
        data, method = self.config.data, self.config.method
        if data.gt_path is None and self.config.generate and method in ("ddpm", "ddim"):
            return [Pair(f"{i:06d}", None, None) for i in range(self.config.generate)]
        if data.mask_path is None and method in MASKED_METHODS:
            raise ConfigError(f"method {method} needs data.mask_path; name a mask or a folder of masks")
        return find_pairs(data.gt_path, data.mask_path, data.offset, data.max_len)

    def _read(self, pair: Pair) -> tuple[np.ndarray | None, np.ndarray | None]:
        gt = None if pair.gt is None else read_picture(pair.gt)
        keep = None if pair.mask is None else read_mask(pair.mask)
        if gt is not None and keep is not None and gt.shape[:2] != keep.shape:
            raise PictureError(
                f"{pair.gt} is {gt.shape[1]}x{gt.shape[0]} and its mask {pair.mask} is "
                f"{keep.shape[1]}x{keep.shape[0]}; make them the same size"
            )
        return gt, keep

    def job(self, name: str, gt: np.ndarray | None, keep: np.ndarray | None) -> Job:
        """Prepare a picture uint8 (H, W, 3) and its keep-mask bool (H, W); both None to generate."""
        size = self.config.model.image_size
        whole = (size, size) if gt is None else gt.shape[:2]
        hole = np.zeros(whole, dtype=bool) if keep is None else keep
        window = windows.choose_window(hole, size, 2 ** (len(self.config.model.channel_mults) - 1))
        if max(window.rows, window.cols) > LONGEST_VIEW * size:
            raise PictureError(
                f"the hole in this {whole[1]}x{whole[0]} picture is so long and thin that the model would "
                f"see {window.cols}x{window.rows} pixels; fill it in shorter pieces"
            )
        picture = np.zeros((*whole, 3), dtype=np.uint8) if gt is None else gt
        seen, seen_keep = windows.cut(picture, hole, window)
        key = hashlib.sha256(_bytes(f"{self.fingerprint} {name}"))
        for part in (gt, keep):
            key.update(b"-" if part is None else repr(part.shape).encode() + part.tobytes())
        return Job(name, key.hexdigest(), gt, keep, window, seen, seen_keep)

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
        waiting: defaultdict[tuple[int, ...], list[Job]] = defaultdict(list)
        for pair in self.pairs() if pairs is None else pairs:
            try:
                job = self.job(pair.name, *self._read(pair))
            except PictureError as error:
                yield Result(pair.name, error=str(error))
                continue
            if done is not None and done(job.name, job.key):
                yield Result(job.name, job.key, gt=job.gt, keep=job.keep, reused=True)
            elif job.keep is not None and job.keep.all():
                note = "the mask keeps every pixel: nothing to fill, the picture was copied"
                yield Result(job.name, job.key, job.gt, job.gt, job.keep, note=note)
            else:
                batch = waiting[job.seen.shape]
                batch.append(job)
                if len(batch) == self.config.data.batch_size:
                    yield from self._run(waiting.pop(job.seen.shape))
        for batch in waiting.values():
            yield from self._run(batch)

    def fill(
        self, names: Sequence[str], pictures: Sequence[np.ndarray], keeps: Sequence[np.ndarray]
    ) -> Iterator[Result | Progress]:
        """As `stream`, for pictures uint8 (H, W, 3) of one size and their keep-masks bool (H, W)."""
        jobs = [self.job(*each) for each in zip(names, pictures, keeps, strict=True)]
        size = self.config.data.batch_size
        for start in range(0, len(jobs), size):
            yield from self._run(jobs[start : start + size])

    def _run(self, jobs: list[Job]) -> Iterator[Result | Progress]:
        """Sample a batch of equally shaped jobs."""
        begin = time.monotonic()
        names = tuple(job.name for job in jobs)
        x = torch.zeros(0)
        try:
            for i, step in enumerate(walk(self.sampler, self.problem(jobs)), start=1):
                x = step.x
                yield Progress(names, i, self.evaluations)
        except torch.OutOfMemoryError:
            why = f"out of memory on {self.device} with {len(jobs)} pictures at once; lower data.batch_size"
            yield from (Result(job.name, job.key, gt=job.gt, keep=job.keep, error=why) for job in jobs)
            return
        seconds = (time.monotonic() - begin) / len(jobs)
        for job, picture in zip(jobs, x, strict=True):
            yield self._result(job, picture, seconds)

    def _result(self, job: Job, x: Tensor, seconds: float) -> Result:
        plain = Result(job.name, job.key, gt=job.gt, keep=job.keep)
        try:
            filled = PixelCodec().decode(x[None])[0]
        except ValueError as error:
            return replace(plain, error=str(error))
        if job.gt is not None:
            hole = np.zeros(job.gt.shape[:2], dtype=bool) if job.keep is None else job.keep
            filled = windows.paste(job.gt, hole, job.window, filled, keep_known=self.config.paste_known)
        unknown = job.keep is not None and not job.keep.any()
        note = "the mask keeps no pixel: the picture was generated" if unknown else ""
        return replace(plain, filled=filled, evaluations=self.evaluations, seconds=seconds, note=note)

    def problem(self, jobs: Sequence[Job]) -> Problem:
        """What the sampler sees of a batch of equally shaped jobs."""
        y = PixelCodec().encode([job.seen for job in jobs]).to(self.device)
        keep = torch.from_numpy(np.stack([job.seen_keep for job in jobs])).float()[:, None].to(self.device)
        operator: Operator = Mask(keep) if any(job.keep is not None for job in jobs) else Nothing()
        noise = Noise([self._generator(job.name, "noise") for job in jobs], y.shape[1:])
        return Problem(y, operator, self.denoiser([job.name for job in jobs]), self.process, noise)

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
        draws = [
            torch.randint(
                assembly.NUM_CLASSES, (), generator=self._generator(name, "label"), device=self.device
            )
            for name in names
        ]
        return torch.stack(draws)

    def _generator(self, name: str, purpose: str) -> torch.Generator:
        """A generator that depends on (seed, name, purpose) alone, on the sampling device."""
        told = hashlib.sha256(_bytes(f"{self.config.seed}/{purpose}/{name}")).digest()
        return torch.Generator(self.device).manual_seed(int.from_bytes(told[:8], "little") >> 1)

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
        results = [r for r in self._run([self.job(name, gt, keep)]) if isinstance(r, Result)]
        if results[0].filled is None:
            raise PictureError(results[0].error)
        return Image.fromarray(results[0].filled)


def _bytes(text: str) -> bytes:
    """UTF-8, also of a file name that is not valid in it."""
    return text.encode("utf-8", "surrogateescape")
