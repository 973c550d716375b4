"""Checks of settings against each other, beyond what each key can be checked for by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from guided_diffusion.build import NUM_CLASSES
from guided_diffusion.config.schema import Config
from guided_diffusion.errors import ConfigError
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.samplers import SAMPLERS, Sampler
from guided_diffusion.tasks import Task


def check(
    config: Config, process: GaussianDiffusion, sampler: Sampler, precision: str, device: str
) -> list[str]:
    """Return warnings, one line each. Raises ConfigError for settings that exclude each other."""
    _check_class(config)
    _check_classifier(config, sampler)
    return [
        *_precision_warning(config, precision, device),
        *_start_warning(process, sampler),
        *_unread_warnings(config, sampler),
    ]


def output_names(tasks: Mapping[str, type[Task]]) -> list[str]:
    """Return the names of everything that the tasks can make."""
    return list(dict.fromkeys(spec.name for task in tasks.values() for spec in task.OUTPUTS))


def check_task(config: Config, tasks: Mapping[str, type[Task]]) -> list[str]:
    """Return a warning for keys that only other tasks read."""
    outputs = {name: [spec.name for spec in task.OUTPUTS] for name, task in tasks.items()}
    defaults = Config(name=config.name, model_path=config.model_path)
    wanted = config.outputs if config.outputs != defaults.outputs else ()
    foreign = [name for name in wanted if name not in outputs[config.task]]
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


def _check_class(config: Config) -> None:
    if config.cond_y is not None and config.cond_y >= NUM_CLASSES:
        raise ConfigError(
            f"cond_y {config.cond_y} is beyond the {NUM_CLASSES} classes; use 0..{NUM_CLASSES - 1}"
        )


def _check_classifier(config: Config, sampler: Sampler) -> None:
    guide = config.classifier
    if guide.classifier_path and guide.classifier_scale != 0 and not sampler.takes_classifier:
        raise ConfigError(
            f"method {config.method} shows clean pixels beside noisy ones, which no classifier knows; set "
            "classifier_scale: 0"
        )


def _precision_warning(config: Config, precision: str, device: str) -> Iterator[str]:
    if config.precision not in ("auto", precision):
        yield f"precision {config.precision} is for GPUs; on {device} it is {precision}"


def _start_warning(process: GaussianDiffusion, sampler: Sampler) -> Iterator[str]:
    """Warn if sampling enters the model at a level where the image should still be visible."""
    first, last = sampler.times(process)[0], process.num_timesteps - 1
    signal = process.alpha_bar(first) ** 0.5
    if sampler.needs_mask and first < last:
        yield (
            f"t_T {first + 1} is short of {last + 1} respaced steps: pure noise enters the model where "
            f"it expects {signal:.1%} signal; for fewer steps set timestep_respacing: '{first + 1}'"
        )


def _unread_warnings(config: Config, sampler: Sampler) -> Iterator[str]:
    """Warn of keys that are set and have no effect."""
    if sampler.needs_per_pixel_time and not config.model.per_pixel_time:
        yield (
            f"method {config.method} inpaints badly with a network that only knows images noisy all over; "
            "train one with per_pixel_time: true (docs/guide/training.md) and set it here too, or use method "
            "repaint"
        )
    if config.cond_y is not None and not config.model.class_cond and not config.classifier.classifier_path:
        yield "cond_y is not read: there is neither class_cond nor a classifier_path"
    if not getattr(sampler, "inpa_inj_sched_prev", True):
        yield "inpa_inj_sched_prev: false hides the known pixels from the model"
    if config.generate and (not sampler.generates or config.data.gt_path is not None):
        generators = " and ".join(name for name, cls in SAMPLERS.items() if cls.generates)
        yield f"generate is not read: it is for {generators}, without a data.gt_path"
