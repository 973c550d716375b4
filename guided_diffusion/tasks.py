"""Tasks: how the engine gets from an image and its mask to the outputs asked for.

A task is a class of its own module; the engine's table names it. It declares its outputs, prepares an image
in a worker thread (reading, detection, planning, hashing; no diffusion model), and runs what was prepared in
the main thread.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from numpy import ndarray

from guided_diffusion.codec import Codec
from guided_diffusion.config.schema import Config
from guided_diffusion.denoiser import Denoise
from guided_diffusion.errors import ImageError
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.images.masks import KeepMask
from guided_diffusion.images.pairs import Pair
from guided_diffusion.output.results import OutputSpec, Progress, Result
from guided_diffusion.runtime.seeds import ImageSeed
from guided_diffusion.samplers import Sampler

Events = Generator[Result | Progress, None, None]
"""Results of a run, and Progress in between."""

IsDone = Callable[[str, str, str], bool]
"""(image name, output name, key) -> True if that output is finished and need not be computed."""


@dataclass(frozen=True)
class Parts:
    """The parts that the engine hands to every task."""

    sampler: Sampler
    process: GaussianDiffusion
    denoiser: Callable[[Sequence[ImageSeed]], Denoise]
    """The images of a batch -> their denoiser, on `device`. Loads the weights when first called."""
    device: torch.device
    codec: Codec
    size: int
    """Side of the model's images, in image pixels."""
    multiple: int
    """Sides of other images that the model sees are multiples of this many image pixels."""
    batch_size: int
    expected_batch: Callable[[Sequence[int]], int]
    """Shape (rows, cols, 3) of what the model sees -> how many memory is expected to hold."""
    identity: Callable[[], Mapping[str, Any]]
    """Digests of the weights, and the precision. Reads the weights' files."""
    single_shape: bool
    """The model takes images of shape (size, size) only."""


class Prepared(Protocol):
    """An image that is ready to be run."""

    @property
    def result(self) -> Result:
        """The result so far: the input, its mask, and what is finished."""
        ...


class Task(Protocol):
    """One thing to do with images."""

    OUTPUTS: ClassVar[tuple[OutputSpec, ...]]
    """Everything it can make, the main output last."""
    finds_masks: ClassVar[bool]
    """`data.mask_path: auto` is allowed: it finds the regions itself."""
    settings: ClassVar[Sequence[str]]
    """Keys of the YAML that no other task reads."""

    @classmethod
    def build(cls, config: Config, parts: Parts, outputs: Sequence[str]) -> Task:
        """Assemble the task; `outputs` are the names of those asked for."""
        ...

    @property
    def needs_mask(self) -> bool:
        """Whether there is nothing to do without a mask."""
        ...

    @property
    def nfe(self) -> Mapping[str, int]:
        """Each output asked for -> network function evaluations (NFE) for one window."""
        ...

    @property
    def weights(self) -> Sequence[str]:
        """Paths of weights that it needs besides the diffusion model's."""
        ...

    @property
    def uses_model(self) -> bool:
        """Whether it needs the diffusion model."""
        ...

    def fingerprint(self, output: str) -> str:
        """Hash everything that decides an output, except the images."""
        ...

    def prepare(self, pair: Pair, seed: ImageSeed, done: IsDone) -> Prepared | Result:
        """Prepare one image, in any thread; a Result if nothing is left to run. Raises ImageError."""
        ...

    def prepare_image(
        self, name: str, image: ndarray, keep: KeepMask | None, seed: ImageSeed
    ) -> Prepared | Result:
        """Prepare an image in memory, uint8 (H, W, 3), with its mask bool (H, W), True = known."""
        ...

    def run(self, prepared: Iterable[Any], batch_size: int) -> Events:
        """Run what was prepared, up to `batch_size` images together; Results are handed on."""
        ...


def result_or_error(pair: Pair, get: Callable[[], Prepared | Result]) -> Prepared | Result:
    """Return what was prepared, or a Result with the reason why it could not be."""
    try:
        return get()
    except ImageError as error:
        return Result(pair.name, error=str(error))


def nbytes(prepared: Prepared | Result) -> int:
    """Memory of a prepared image, about: twice the input, for its mask and its views."""
    gt = (prepared if isinstance(prepared, Result) else prepared.result).gt
    return 0 if gt is None else 2 * gt.nbytes


def output_names(tasks: Mapping[str, type[Task]]) -> list[str]:
    """Return the names of everything that the tasks can make."""
    return list(dict.fromkeys(spec.name for task in tasks.values() for spec in task.OUTPUTS))


def check_task(config: Config, tasks: Mapping[str, type[Task]]) -> list[str]:
    """Return a warning for keys that only other tasks read."""
    outputs = {name: [spec.name for spec in task.OUTPUTS] for name, task in tasks.items()}
    defaults = Config(name=config.name, model_path=config.model_path)
    wanted = config.outputs if config.outputs != defaults.outputs else ()
    chooses = len(outputs[config.task]) > 1  # a task with a single output does not read `outputs`
    foreign = [name for name in wanted if not chooses or name not in outputs[config.task]]
    return [
        f"keys that only task {name} reads: {' and '.join(keys)}"
        for name, task in tasks.items()
        if name != config.task
        and (
            keys := [
                *(["outputs"] if set(foreign) & set(outputs[name]) else []),
                *(key for key in task.settings if getattr(config, key) != getattr(defaults, key)),
            ]
        )
    ]
