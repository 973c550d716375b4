"""Engine: the one place that assembles the parts from a Config, runs them over images, yields results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import numpy as np
from PIL import Image

from guided_diffusion import build, checkpoints
from guided_diffusion.config import schema as configuration
from guided_diffusion.config.builder import construct
from guided_diffusion.config.schema import Config
from guided_diffusion.config.shadow import RelightConfig
from guided_diffusion.errors import ConfigError, ImageError
from guided_diffusion.images import inputs
from guided_diffusion.images.formats import eight_bits
from guided_diffusion.images.pairs import Pair
from guided_diffusion.inpainting import views
from guided_diffusion.inpainting.inpainter import Painter
from guided_diffusion.inpainting.views import Job
from guided_diffusion.models import Models
from guided_diffusion.output.results import Lifted, Progress, Result
from guided_diffusion.runtime import distributed, hardware
from guided_diffusion.runtime.background import ahead
from guided_diffusion.runtime.seeds import Draws
from guided_diffusion.samplers import SAMPLERS
from guided_diffusion.shadow import detect
from guided_diffusion.shadow.remover import Relighter, Shaded, with_black

# Name -> type: errors can then name keys inside a type too.
SAMPLER_KEYS = {key: hint for cls in SAMPLERS.values() for key, hint in get_type_hints(cls).items()}
Done = Callable[[str, str, str], bool]  # (name, output, key) -> that output needs no computing


class Ready(NamedTuple):
    """An image read and prepared: the bytes that it holds, about, and what is to be done of it."""

    weight: int
    events: Iterator[Job | Result | Progress]


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
            self.process, self.times = build.build_process(config.process)
            self.sampler = self._sampler()
            self.walk_times = list(self.sampler.times(self.process))
            self.device = distributed.find_device(config.device)
            self._check_class()
        except ValueError as error:
            raise ConfigError(str(error)) from error
        distributed.make_current(self.device)
        self.precision = hardware.choose_precision(config.precision, self.device)
        hardware.round_products(self.precision)
        if config.precision not in ("auto", self.precision):
            self.warnings.append(
                f"precision {config.precision} is for GPUs; on {self.device} it is {self.precision}"
            )
        self.networks = Models(config, self.process, self.times, self.device, self.precision)
        shared = self.process, self.networks.denoiser, self.device
        size = config.model.image_size
        self.batch_size = hardware.batch_size(config.data.batch_size, self.device, size)
        most = self.batch_size, self.networks.expected
        self.painter = Painter(self.sampler, *shared, size, *most, config.paste_known)
        multiple = 2 ** (len(config.model.channel_mults) - 1)  # of which a seen image's sides are
        self.sight = views.Sight(size, multiple, config.windows)
        self.relighter = Relighter(config.relight, *shared, size, multiple)
        self._warn_of_start()
        self._warn_of_unread()

    # assembling

    @property
    def outputs(self) -> dict[str, int]:
        """What is to be made of each image, and of how many evaluations of the network in each window."""
        costs = {"inpainted": self.painter.nfe, "shadow_free": self.relighter.nfe}
        wanted = self.config.outputs if self.config.method == "relight" else ("inpainted",)
        return {output: cost for output, cost in costs.items() if output in wanted}

    @property
    def nfe(self) -> int:
        """Of the network, for each image and all its outputs."""
        return sum(self.outputs.values())

    @property
    def _needs_network(self) -> bool:
        lifting = "shadow_free" in self.outputs and self.config.relight.uses_network
        return "inpainted" in self.outputs or lifting

    @property
    def _finds_shadows(self) -> bool:
        if self.config.method != "relight":
            return False
        again = "shadow_free" in self.outputs and self.config.relight.look_twice
        return again or self.config.data.mask_path == inputs.AUTO

    def _sampler(self) -> Any:
        cls = SAMPLERS["repaint" if self.config.method == "relight" else self.config.method]
        known = {field.name for field in fields(cls)}
        own = {key: value for key, value in self.config.options.items() if key in known}
        foreign = sorted(set(self.config.options) - set(own))
        if foreign:
            self.warnings.append(f"keys that method {self.config.method} does not read: {', '.join(foreign)}")
        return construct(cls, own, f"method {self.config.method}")

    def _warn_of_start(self) -> None:
        """Warn if the walk enters the model at a level where the image should still be visible."""
        first, last = self.walk_times[0], self.process.num_timesteps - 1
        signal = self.process.alpha_bar(first) ** 0.5
        if self.config.method in inputs.MASKED_METHODS and first < last:
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
        if config.generate and (config.method not in inputs.GENERATORS or config.data.gt_path is not None):
            self.warnings.append(
                f"generate is not read: it is for {' and '.join(inputs.GENERATORS)}, without a data.gt_path"
            )
        own = {"outputs": config.outputs != Config.outputs, "relight": config.relight != RelightConfig()}
        if config.method != "relight" and any(own.values()):
            given = " and ".join(key for key, is_given in own.items() if is_given)
            self.warnings.append(f"keys that only method relight reads: {given}")

    def _check_class(self) -> None:
        y, classes = self.config.cond_y, build.NUM_CLASSES
        if y is not None and y >= classes:
            raise ConfigError(f"cond_y {y} is beyond the {classes} classes; use 0..{classes - 1}")

    @cached_property
    def fingerprint(self) -> str:
        """Of everything that decides what is painted, but the images themselves: settings and weights."""
        return configuration.fingerprint(self.config, self.networks.identity)

    @cached_property
    def lift_fingerprint(self) -> str:
        """Of everything that decides what lies beneath a shadow, but the images themselves."""
        prior = self.networks.identity if self.config.relight.uses_network else None
        finder = checkpoints.digest(detect.weights()) if self.config.relight.look_twice else None
        return configuration.relight_fingerprint(self.config, prior, finder)

    @property
    def run_fingerprint(self) -> str:
        """Of all that is asked for."""
        each = {"inpainted": lambda: self.fingerprint, "shadow_free": lambda: self.lift_fingerprint}
        prints = [each[output]() for output in self.outputs]
        return prints[0] if len(prints) == 1 else configuration.digest(prints)

    def missing_files(self) -> list[str]:
        """Images, masks and checkpoints that the config names and that are not there."""
        data = self.config.data
        masks = None if data.mask_path == inputs.AUTO else data.mask_path
        return [
            *(
                path
                for path in (data.gt_path, masks, data.free_path)
                if path and inputs.kind(path) == "missing"
            ),
            *(path for path in self.networks.paths if self._needs_network and inputs.kind(path) != "file"),
            *([str(detect.WEIGHTS)] if self._finds_shadows and not detect.WEIGHTS.exists() else []),
        ]

    # images

    def pairs(self) -> list[Pair]:
        """The images of the config, or names for those to generate. Raises DatasetError, ConfigError."""
        return inputs.pairs(self.config)

    def _draws(self, name: str) -> Draws:
        return Draws(self.config.seed, name)

    def job(
        self, name: str, gt: np.ndarray | None, keep: np.ndarray | None, draws: Draws | None = None
    ) -> Job:
        """Prepare an image uint8 (H, W, 3) and its keep-mask bool (H, W); both None to generate.

        draws: None = those of the config's seed and this name. Raises ImageError if the networks cannot
        take what they would have to see of it.
        """
        draws = draws or self._draws(name)
        job = self.sight.prepare(self.fingerprint, name, gt, keep, draws)
        pool = self.config.classifier.classifier_pool if self.networks.classifier_path else ""
        size = self.sight.size
        for view in (view.sketch if view.native else view for view in job.views):
            rows, cols = (size, size) if view is None else view.seen.shape[:2]
            if pool == "attention" and rows != cols:
                raise ImageError(
                    f"the hole is longer than the image's short side, so the model would see {cols}x{rows} "
                    f"pixels, but the classifier takes {size}x{size} only; crop the image, or set "
                    "classifier_scale: 0"
                )
        return job

    # running

    def __call__(self, pairs: Iterable[Pair] | None = None, done: Done | None = None) -> Iterator[Result]:
        """Results of `pairs` (default: those of the config), as they are finished; see `stream`."""
        return (event for event in self.stream(pairs, done) if isinstance(event, Result))

    def stream(
        self, pairs: Iterable[Pair] | None = None, done: Done | None = None, share: int | None = None
    ) -> Iterator[Result | Progress]:
        """Results as they are finished, and a Progress after every evaluation of the network.

        done: (name, output, key) -> True if that output needs no computing; another thread asks. share: the
        most images to be taken together where other ranks take from the same `pairs`; half as many are
        read ahead. An image that cannot be worked on gives a Result with an `error`; the others go on.
        """
        chosen = self.pairs() if pairs is None else pairs
        most = self.batch_size if share is None else min(self.batch_size, share)
        painter = replace(self.painter, batch_size=most)
        work = partial(self._ready, done or (lambda *_: False))
        further = most if share is None else min(most, share // 2)
        with closing(ahead(work, chosen, further, weigh=lambda ready: ready.weight)) as coming:
            yield from painter.paint(event for each in coming for event in self._prepared(*each))

    def _ready(self, done: Done, pair: Pair) -> Ready:
        """All that takes no network, for another thread. Raises ImageError."""
        lifts = self.config.method == "relight"
        gt, keep = views.read(pair, self.config.data.mask_is, deep=lifts)
        weight = 0 if gt is None else 2 * gt.nbytes  # with its mask and its views
        if lifts:
            assert gt is not None
            return Ready(weight, self._lifted(pair, gt, None if keep is None else ~keep, done))
        job = self.job(pair.name, gt, keep, pair.draws)
        return Ready(weight, iter([job.unfilled if done(job.name, "inpainted", job.key) else job]))

    def _prepared(self, pair: Pair, ready: Callable[[], Ready]) -> Iterator[Job | Result | Progress]:
        try:
            yield from ready().events
        except ImageError as error:
            yield Result(pair.name, error=str(error))

    def _lifted(
        self, pair: Pair, image: np.ndarray, shadow: np.ndarray | None, done: Done
    ) -> Iterator[Job | Result | Progress]:
        """Method relight: lifts the shadow here and leaves the hole around it to the painter.

        image: uint8 or uint16 (H, W, 3); shadow: bool (H, W), True = shadow, None = to be found.
        """
        name, draws = pair.name, pair.draws or self._draws(pair.name)
        shaded = self.relighter.shade(self.lift_fingerprint, name, image, shadow, draws)
        gt, lifted = eight_bits(image), None
        job = self.job(name, gt, shaded.keep, draws) if "inpainted" in self.outputs else None
        if "shadow_free" in self.outputs and done(name, "shadow_free", shaded.key):
            lifted = Lifted(shaded.key)
        elif "shadow_free" in self.outputs:
            for event in self._lift(shaded):
                if isinstance(event, Progress):
                    yield event
                else:
                    lifted = event
        if job is None:
            yield Result(name, gt=gt, keep=shaded.keep, lifted=lifted)
        elif done(name, "inpainted", job.key):
            yield replace(job.unfilled, lifted=lifted)
        elif shaded.note:
            yield replace(job.unfilled, lifted=lifted, filled=gt, note=shaded.note)
        else:
            yield replace(job, lifted=lifted)

    def _lift(self, shaded: Shaded) -> Iterator[Progress | Lifted]:
        """As the relighter's; what is too dark to be lifted is painted if that is asked for."""
        for event in self.relighter.lift(shaded):
            if isinstance(event, Lifted) and self.config.relight.paint_black:
                event = self._painted(shaded.draws, event)
            yield event

    def _painted(self, draws: Draws, lifted: Lifted) -> Lifted:
        """With its black painted by the sampler, in the light of what is around, if that can be done."""
        free, black = lifted.free, lifted.black
        assert free is not None and black is not None
        if not black.any():
            return lifted
        begin = time.monotonic()
        try:
            filled, nfe = self._filled(draws, eight_bits(free), ~black)
        except ImageError as error:
            return replace(lifted, note=f"what is black was not painted: {error}")
        seconds = lifted.seconds + time.monotonic() - begin
        cost = lifted.nfe + nfe
        return replace(with_black(lifted, filled), nfe=cost, seconds=seconds)

    def fill(
        self, names: Sequence[str], images: Sequence[np.ndarray], keeps: Sequence[np.ndarray]
    ) -> Iterator[Result | Progress]:
        """As `stream`, for images uint8 (H, W, 3) and their keep-masks bool (H, W); raises ImageError."""
        yield from self.painter.paint(self.job(*each) for each in zip(names, images, keeps, strict=True))

    def inpaint(
        self, image: Image.Image, mask: Image.Image | None = None, name: str = "picture"
    ) -> Image.Image:
        """Fill one PIL image where its mask is dark (255 = keep); returns a PIL image of the same size.

        With data.mask_is: shadow the mask is bright there. name: seeds the randomness, with the config's
        seed. Raises ImageError when it cannot be done.
        """
        gt, keep = inputs.from_images(image, mask, self.config.data.mask_is)
        if keep is None and self.config.method in inputs.MASKED_METHODS:
            raise ImageError(f"method {self.config.method} needs a mask; give one, 255 = keep")
        filled, _ = self._filled(self._draws(name), gt, keep)
        return Image.fromarray(filled)

    def _filled(self, draws: Draws, gt: np.ndarray, keep: np.ndarray | None) -> tuple[np.ndarray, int]:
        """The image filled, uint8 (H, W, 3), and the evaluations of the network. Raises ImageError."""
        [result] = [
            r for r in self.painter.paint([self.job(draws.name, gt, keep, draws)]) if isinstance(r, Result)
        ]
        if result.filled is None:
            raise ImageError(result.error)
        return result.filled, result.nfe

    def remove_shadow(
        self, image: Image.Image, mask: Image.Image | None = None, name: str = "picture"
    ) -> Image.Image:
        """Lift the shadow off one PIL image, keeping what lies beneath; returns 8 bits at the same size.

        mask, name: as for `inpaint`; without a mask the shadow is found, and where there is none the image
        comes back as it was. Raises ImageError when it cannot be done.
        """
        gt, keep = inputs.from_images(image, mask, self.config.data.mask_is)
        shadow = None if keep is None else ~keep
        shaded = self.relighter.shade(self.lift_fingerprint, name, gt, shadow, self._draws(name))
        [lifted] = [event for event in self._lift(shaded) if isinstance(event, Lifted)]
        assert lifted.free is not None
        return Image.fromarray(lifted.free)
