"""Engine: the one place that assembles the parts from a Config and runs a task over images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from PIL import Image

from guided_diffusion import build, tasks
from guided_diffusion.codec import Codec, PixelCodec
from guided_diffusion.config import fingerprints, schema
from guided_diffusion.config.schema import Config
from guided_diffusion.errors import ConfigError, ImageError
from guided_diffusion.images import inputs
from guided_diffusion.images.masks import KeepMask
from guided_diffusion.images.pairs import Pair
from guided_diffusion.inpainting.task import InpaintTask
from guided_diffusion.models import Models
from guided_diffusion.output.results import Result, only_result
from guided_diffusion.runtime import device as devices
from guided_diffusion.runtime import distributed
from guided_diffusion.runtime.background import prefetch
from guided_diffusion.runtime.seeds import ImageSeed
from guided_diffusion.samplers import SAMPLERS
from guided_diffusion.shadow.task import RemoveShadowTask
from guided_diffusion.tasks import Events, IsDone, Parts, Prepared, Task, nbytes, result_or_error

TASKS: dict[str, type[Task]] = {"inpaint": InpaintTask, "remove_shadow": RemoveShadowTask}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read the Config of a YAML; overrides are 'key.path=value'. Raises ConfigError."""
    outputs = tasks.output_names(TASKS)
    return schema.load(path, overrides, build.SAMPLER_KEYS, methods=SAMPLERS, tasks=TASKS, outputs=outputs)


class Engine:
    """Runs one Config. Checks everything that can be checked before a model is loaded.

    Constructing one changes nothing outside it. Raises ConfigError (bad settings) here, DatasetError from
    `pairs`, CheckpointError with the weights.

    Args:
        config: the run.
        codec: between images and model space; pixels by default.
        models: networks with their weights; by default those of the config, loaded when first needed.
    """

    def __init__(self, config: Config, codec: Codec | None = None, models: Models | None = None) -> None:
        self.config, self.codec = config, codec or PixelCodec()
        try:
            self.process, self.times = build.build_process(config.process)
            self.sampler, warnings = build.build_sampler(config)
            self.visited_times = list(self.sampler.times(self.process))
            self.device = distributed.find_device(config.device)
            self.precision = devices.choose_precision(config.precision, self.device)
            warnings += build.check_settings(
                config, self.process, self.sampler, self.precision, str(self.device)
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.warnings = [*config.warnings, *warnings, *tasks.check_task(config, TASKS)]
        self.size = config.model.image_size * self.codec.factor
        self.batch_size = devices.batch_size(config.data.batch_size, self.device, config.model.image_size)
        space = {"channels": self.codec.channels, "factor": self.codec.factor}
        self.models = models or Models(config, self.process, self.times, self.device, self.precision, **space)
        self.task = self._build_task(config.task)

    def _build_task(self, name: str, outputs: Sequence[str] | None = None) -> Task:
        cls = TASKS[name]
        names = [spec.name for spec in cls.OUTPUTS]
        wanted = self.config.outputs if outputs is None else outputs
        return cls.build(self.config, self._parts, [n for n in names if not wanted or n in wanted] or names)

    @cached_property
    def _parts(self) -> Parts:
        return Parts(
            sampler=self.sampler,
            process=self.process,
            denoiser=self.models.denoiser,
            device=self.device,
            codec=self.codec,
            size=self.size,
            multiple=self.config.model.size_multiple * self.codec.factor,
            batch_size=self.batch_size,
            expected_batch=self.models.expected_batch,
            identity=lambda: self.models.identity,
            single_shape=self.models.single_shape,
        )

    @property
    def nfe(self) -> int:
        """Network function evaluations for each image, with all its outputs."""
        return sum(self.task.nfe.values())

    @cached_property
    def run_fingerprint(self) -> str:
        """Hash everything that decides the outputs asked for, except the images."""
        prints = [self.task.fingerprint(output) for output in self.task.nfe]
        return prints[0] if len(prints) == 1 else fingerprints.digest(prints)

    def missing_files(self) -> list[str]:
        """List the images, masks and checkpoints that the config names and that are not there."""
        weights = [*(self.models.paths if self.task.uses_model else ()), *self.task.weights]
        missing = (path for path in weights if inputs.kind(path) != "file")
        return [*inputs.missing_inputs(self.config.data), *missing]

    def pairs(self) -> list[Pair]:
        """Find the images of the config, or name those to generate. Raises DatasetError, ConfigError."""
        return inputs.find_inputs(
            self.config,
            needs_mask=self.task.needs_mask,
            mask_finders=[name for name, task in TASKS.items() if task.finds_masks],
            generators=[name for name, sampler in SAMPLERS.items() if sampler.generates],
        )

    def __call__(self, pairs: Iterable[Pair] | None = None, done: IsDone | None = None) -> Iterator[Result]:
        """Yield the Results of `pairs` (default: those of the config) as they are finished; see `stream`."""
        return (event for event in self.stream(pairs, done) if isinstance(event, Result))

    def stream(
        self, pairs: Iterable[Pair] | None = None, done: IsDone | None = None, max_batch: int | None = None
    ) -> Events:
        """Yield Results as they are finished, and a Progress after every network function evaluation.

        An image that cannot be worked on gives a Result with an `error`; the others go on.

        Args:
            pairs: images; those of the config by default.
            done: (name, output, key) -> True if that output needs no computing; called in another thread.
            max_batch: upper limit on the batch where other ranks draw from the same `pairs`; the prefetch
                depth is then half of it.
        """
        chosen = self.pairs() if pairs is None else pairs
        batch = self.batch_size if max_batch is None else min(self.batch_size, max_batch)
        depth = batch if max_batch is None else min(batch, max_batch // 2)
        prepare = partial(self._prepare, done or (lambda *_: False))
        with closing(prefetch(prepare, chosen, depth, size_of=nbytes)) as loaded:
            prepared = (result_or_error(pair, get) for pair, get in loaded)
            yield from self._enter(self.task.run(prepared, batch))

    def _prepare(self, done: IsDone, pair: Pair) -> Prepared | Result:
        return self.task.prepare(pair, pair.seed or self._seed(pair.name), done)

    def _seed(self, name: str) -> ImageSeed:
        return ImageSeed(self.config.seed, name)

    def _enter(self, events: Events) -> Events:
        """Apply torch's device and precision while an event is computed, never while it is handed out."""
        settings = partial(devices.compute_settings, self.device, self.precision)
        return devices.iterate_with_settings(settings, events)

    def inpaint(
        self, image: Image.Image, mask: Image.Image | None = None, name: str = "picture"
    ) -> Image.Image:
        """Inpaint one PIL image where its mask is dark (255 = keep); returns a PIL image of the same size.

        With data.mask_is: shadow the mask is bright there. name: seeds the noise, with the config's seed.
        Raises ImageError when it cannot be done.
        """
        if mask is None and self.sampler.needs_mask:
            raise ImageError(f"method {self.config.method} needs a mask; give one, 255 = keep")
        return self._run_image("inpaint", image, mask, name)

    def remove_shadow(
        self, image: Image.Image, mask: Image.Image | None = None, name: str = "picture"
    ) -> Image.Image:
        """Remove the shadow of one PIL image, keeping what lies beneath; returns 8 bits at the same size.

        mask, name: as for `inpaint`; without a mask the shadow is found, and where there is none the image
        comes back as it was. Raises ImageError when it cannot be done.
        """
        return self._run_image("remove_shadow", image, mask, name)

    def _run_image(self, task: str, image: Image.Image, mask: Image.Image | None, name: str) -> Image.Image:
        output = TASKS[task].OUTPUTS[-1].name
        runner = self._build_task(task, [output])
        pixels, keep = inputs.from_images(image, mask, self.config.data.mask_is)
        item = runner.prepare_image(name, pixels, keep, self._seed(name))
        result = only_result(self._enter(runner.run([item], self.batch_size)))
        computed = result.outputs[output].image
        assert computed is not None
        return Image.fromarray(computed)

    def inpaint_arrays(
        self, names: Sequence[str], images: Sequence[np.ndarray], keeps: Sequence[KeepMask]
    ) -> Events:
        """Inpaint images uint8 (H, W, 3) with masks bool (H, W), True = known; see `stream`."""
        runner = self._build_task("inpaint")
        triples = zip(names, images, keeps, strict=True)
        items = (runner.prepare_image(name, image, keep, self._seed(name)) for name, image, keep in triples)
        return self._enter(runner.run(items, self.batch_size))
