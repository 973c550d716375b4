"""Settings of a training run: flat YAML keys in guided-diffusion's words, grouped in Python only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from guided_diffusion.config.builder import (
    AtLeast,
    CommaList,
    Count,
    Index,
    NonNegative,
    construct,
    unknown_key,
)
from guided_diffusion.config.schema import ModelConfig, ProcessConfig
from guided_diffusion.config.yaml_files import merge, parse_override, read_yaml
from guided_diffusion.errors import ConfigError
from guided_diffusion.evaluation import feature_network
from guided_diffusion.losses import LossWeighting
from guided_diffusion.shadow import detector
from guided_diffusion.training.clean_pixels import SMALLEST


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    task: a prior to paint with, the network that detects shadows, or the one that tells materials.
    data_dir: 'scenes' is the endless procedural stream, anything else a folder of images. scales: a
    procedural image is a window of a frame so many times its size, each as often as it is listed. out:
    state, weights, losses and samples; default runs/<name>. start_from: weights to begin with; else they are
    drawn. microbatch: images per backward pass, 0 = batch_size (the batch of one rank).
    lr_anneal_steps: the step at which the learning rate, falling linearly, is zero; 0 = it stays.
    loss_weighting: of the simple loss over times, see losses.time_weights. loss_factors: the loss also counts
    errors of means over squares of so many pixels, see losses.coarse_error. sample_interval: steps between
    grids of samples, 0 = one with every save. compact_state: the saved state holds the optimiser's moments in
    bfloat16 and the average in half precision, 10 bytes a weight rather than 16.
    bf16: autocast to bfloat16 where the device has it.
    """

    name: str
    task: Literal["prior", "detect", "classify"] = "prior"
    out: str = ""
    start_from: str | None = None
    data_dir: str = "scenes"
    scales: CommaList = "1"
    random_crop: bool = False
    random_flip: bool = False
    workers: Index = 1
    seed: Index = 0
    iterations: Count = 100_000
    batch_size: Count = 16
    microbatch: Index = 0
    lr: Annotated[float, AtLeast(1e-12)] = 1e-4
    warmup_steps: Index = 0
    lr_anneal_steps: Index = 0
    weight_decay: NonNegative = 0.0
    grad_clip: Annotated[float, AtLeast(1e-6)] = 1.0
    ema_rate: NonNegative = 0.9999
    schedule_sampler: Literal["uniform", "loss-aware"] = "uniform"
    loss_weighting: LossWeighting = "none"
    loss_factors: CommaList = ""
    bf16: bool = True
    log_interval: Count = 50
    save_interval: Count = 1000
    sample_interval: Index = 0
    compact_state: bool = False
    model: ModelConfig = field(default_factory=ModelConfig)
    process: ProcessConfig = field(default_factory=ProcessConfig)

    def __post_init__(self) -> None:
        if self.process.timestep_respacing:
            raise ConfigError("timestep_respacing has no place in training; it is chosen when sampling")
        if not self.name or "/" in self.name or self.name == "state":
            raise ConfigError(
                f"name {self.name!r} cannot name the folder runs/<name> and the weights in it; "
                "use a plain word other than state"
            )
        if self.ema_rate >= 1:
            raise ConfigError(f"ema_rate {self.ema_rate} is not below 1; use e.g. 0.9999")
        if 0 < self.lr_anneal_steps < self.iterations:
            raise ConfigError(
                f"lr_anneal_steps {self.lr_anneal_steps} is less than iterations {self.iterations}: the last "
                "steps would learn nothing; raise it, or set 0 for a constant lr"
            )
        if self.model.class_cond:
            raise ConfigError("class_cond: training knows no labels; leave it out")
        if self.process.use_kl:
            raise ConfigError("use_kl: training is on the simple loss plus the bound; leave it out")
        if self.model.per_pixel_time and self.model.image_size < SMALLEST:
            raise ConfigError(
                f"image_size {self.model.image_size}: per_pixel_time needs {SMALLEST} pixels for its strokes"
            )
        if self.task != "prior":
            self._check_truth()
        self._check_prior()

    def _check_truth(self) -> None:
        truth, multiple = _TRUTHS[self.task]
        if self.data_dir != "scenes":
            raise ConfigError(f"data_dir {self.data_dir!r}: task: {self.task} needs {truth}; use scenes")
        if self.model.image_size % multiple:
            raise ConfigError(
                f"image_size {self.model.image_size}: task: {self.task} needs a multiple of {multiple}, "
                "e.g. 128"
            )

    def _check_prior(self) -> None:
        if self.loss_weighting != "none" and self.process.predict_xstart:
            raise ConfigError(
                f"loss_weighting {self.loss_weighting!r} is for networks that predict the noise; "
                "use none with predict_xstart"
            )
        if not all(part.strip().isdecimal() and int(part) for part in self.scales.split(",")):
            raise ConfigError(f"scales {self.scales!r} is not a list of whole numbers such as '1,2,4'")
        if not all(part.strip().isdecimal() and int(part) for part in self.loss_factors.split(",") if part):
            raise ConfigError(
                f"loss_factors {self.loss_factors!r} is not a list of whole numbers such as '8,64'"
            )
        side = self.model.image_size
        if odd := [factor for factor in self.coarse if side % factor]:
            raise ConfigError(
                f"loss_factors {self.loss_factors!r}: {odd[0]} does not divide image_size {side}"
            )
        if self.data_dir != "scenes" and self.scales != "1":
            raise ConfigError(
                f"scales {self.scales!r}: only procedural images come in scales; use random_crop for "
                f"the folder {self.data_dir}"
            )

    @property
    def coarse(self) -> tuple[int, ...]:
        """`loss_factors` as numbers: sides of squares in pixels."""
        return tuple(int(part) for part in self.loss_factors.split(",") if part)

    @property
    def factors(self) -> tuple[int, ...]:
        """`scales` as numbers: sides of a frame in sides of an image."""
        return tuple(int(part) for part in self.scales.split(","))

    @property
    def folder(self) -> Path:
        return Path(self.out or f"runs/{self.name}")


_GROUPS = {"model": ModelConfig, "process": ProcessConfig}
_HOME = {
    **{f.name: "" for f in fields(TrainConfig) if f.name not in _GROUPS},
    **{f.name: group for group, cls in _GROUPS.items() for f in fields(cls)},
}

# Task -> what only scenes know, and what the sides of an image must be multiples of.
_TRUTHS = {"detect": ("mattes", detector.MULTIPLE), "classify": ("materials", feature_network.CELL)}
_PRIOR_ONLY = {"scales", "random_crop", "random_flip", "schedule_sampler", "loss_weighting", "loss_factors"}
_OTHERS = {key for key, group in _HOME.items() if not group} - _PRIOR_ONLY | {"image_size"}


def load_train(path: str | Path | None, overrides: Sequence[str] = ()) -> TrainConfig:
    """The TrainConfig of a YAML with `key=value` overrides. Raises ConfigError."""
    if not path:
        raise ConfigError("no configuration given; name one, e.g. --conf_path confs/train/scenes64.yml")
    mapping, where = read_yaml(path), f"{path} with --set" if overrides else str(path)
    for override in overrides:
        mapping = merge(mapping, parse_override(override))
    groups: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for key, value in mapping.items():
        if key not in _HOME:
            raise unknown_key(key, list(_HOME), where)
        groups[_HOME[key]][key] = value
    groups["process"].setdefault("timestep_respacing", "")
    if (task := str(mapping.get("task"))) in _TRUTHS:
        if spare := sorted(set(mapping) - _OTHERS):
            raise ConfigError(f"{spare[0]} in {where} has no place in task: {task}; leave it out")
        groups["model"]["channel_mult"] = "1"  # read by nobody, but not every image_size has a default
    parts: dict[str, Any] = {group: construct(cls, groups[group], where) for group, cls in _GROUPS.items()}
    return construct(TrainConfig, {**groups[""], **parts}, where)
