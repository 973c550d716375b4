"""Configuration of a training run: flat YAML keys with guided-diffusion's names, grouped in Python only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from guided_diffusion.config.builder import (
    AtLeast,
    CommaList,
    Count,
    Index,
    NonNegative,
    check_keys,
    flat_keys,
    load_flat,
)
from guided_diffusion.config.schema import ModelConfig, ProcessConfig
from guided_diffusion.config.yaml_files import merge, parse_override, read_yaml
from guided_diffusion.errors import ConfigError
from guided_diffusion.evaluation import feature_network
from guided_diffusion.losses import LossWeighting
from guided_diffusion.shadow import detector
from guided_diffusion.training.clean_pixels import SMALLEST


@dataclass(frozen=True)
class TaskRules:
    """Requirements of a training task on its configuration."""

    ground_truth: str = ""
    """Ground truth that only procedural images have; empty = none, the task is a prior."""
    size_multiple: int = 1
    """Number that image_size must be a multiple of."""

    @property
    def is_prior(self) -> bool:
        """The task trains the U-Net of `model` with the process of `process`."""
        return not self.ground_truth


TASK_RULES = {
    "prior": TaskRules(),
    "detect": TaskRules("mattes", detector.MULTIPLE),
    "classify": TaskRules("materials", feature_network.CELL),
}
"""Value of `task` -> its checks; `tasks.TRAINERS` has the classes that run them."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    name: str
    """Names the folder `runs/<name>` and the weights in it."""
    task: Literal["prior", "detect", "classify"] = "prior"
    """Network to train: a diffusion prior, the shadow detector, or the scene classifier. The last two
    take none of the keys of the network and the process but `image_size`, and not `scales`,
    `random_crop`, `random_flip`, `schedule_sampler`, `loss_weighting` and `loss_factors`."""
    out: str = ""
    """Folder for the state, weights, losses and samples; empty = `runs/<name>`."""
    start_from: str | None = None
    """Checkpoint with the initial weights, used if there is no saved state to resume; null = random, from
    `seed`."""
    data_dir: str = "scenes"
    """`scenes` = endless procedural images; otherwise a folder of images, searched with its subfolders."""
    image_size: Count = 256
    """Side of the training images in pixels; with a codec, of the encoded images."""
    scales: CommaList = "1"
    """Procedural images only: each image is a window of a frame this many times its size. A list such as
    `'1,2,4'`: each factor is used equally often; repeat a factor to use it more often."""
    random_crop: bool = False
    """Folders only: crop at a random position from the image at 1 to 1.25 times the size, instead of its
    centre."""
    random_flip: bool = False
    """Folders only: mirror half of the images."""
    workers: Index = 1
    """Processes that prepare images; 0 = the training process prepares them itself."""
    seed: Index = 0
    """Seed of the weights, images, timesteps and noise."""
    iterations: Count = 100_000
    """Total number of optimiser steps."""
    batch_size: Count = 16
    """Images per step and rank."""
    microbatch: Index = 0
    """Images per backward pass; fewer need less memory. 0 = `batch_size`."""
    lr: Annotated[float, AtLeast(1e-12)] = 1e-4
    """Learning rate of AdamW."""
    warmup_steps: Index = 0
    """Steps over which the learning rate rises linearly from zero to `lr`."""
    lr_anneal_steps: Index = 0
    """Step at which the linearly falling learning rate reaches zero, at least `iterations`; 0 = constant."""
    weight_decay: NonNegative = 0.0
    """Weight decay of AdamW."""
    grad_clip: Annotated[float, AtLeast(1e-6)] = 1.0
    """Gradients are scaled down to this L2 norm if theirs is larger."""
    ema_rate: NonNegative = 0.9999
    """Decay per step of the weight average (EMA), below 1; at step s at most (1 + s) / (10 + s)."""
    schedule_sampler: Literal["uniform", "loss-aware"] = "uniform"
    """Distribution of the training timesteps: `uniform`, or `loss-aware`, which draws timesteps with large
    losses more often."""
    loss_weighting: LossWeighting = "none"
    """Weighting of the simple loss over the timesteps: `none`, `min_snr` or `p2`; for networks that predict
    the noise."""
    loss_factors: CommaList = ""
    """Also count the errors of means over squares with these sides in pixels, such as `'8,64'`; they divide
    `image_size`."""
    bf16: bool = True
    """Compute in bfloat16 where the device supports it; weights and losses stay float32."""
    log_interval: Count = 50
    """Steps per row of `loss.csv`."""
    save_interval: Count = 1000
    """Steps between saves."""
    sample_interval: Index = 0
    """Steps between sample grids; 0 = one with each save."""
    compact_state: bool = False
    """Save the optimiser's moments in bfloat16 and the weight average in half precision: a rounded state of
    10 bytes per weight instead of 16."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The U-Net of a prior; the other tasks have networks of their own."""
    process: ProcessConfig = field(default_factory=partial(ProcessConfig, timestep_respacing=""))
    """The diffusion process of a prior."""

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
        self._check_task(TASK_RULES[self.task])
        self._check_loss()
        self._check_scales()

    def _check_task(self, rules: TaskRules) -> None:
        if rules.ground_truth and self.data_dir != "scenes":
            raise ConfigError(
                f"data_dir {self.data_dir!r}: task: {self.task} needs {rules.ground_truth}; use scenes"
            )
        if self.image_size % rules.size_multiple:
            raise ConfigError(
                f"image_size {self.image_size}: task: {self.task} needs a multiple of {rules.size_multiple}, "
                "e.g. 128"
            )
        if rules.is_prior and self.model.image_size != self.image_size:
            raise ConfigError(
                f"image_size {self.image_size} is not that of the network, {self.model.image_size}; "
                "give both the same"
            )
        if rules.is_prior and self.model.per_pixel_time and self.image_size < SMALLEST:
            raise ConfigError(
                f"image_size {self.image_size}: per_pixel_time needs {SMALLEST} pixels for its strokes"
            )

    def _check_loss(self) -> None:
        if self.loss_weighting != "none" and self.process.predict_xstart:
            raise ConfigError(
                f"loss_weighting {self.loss_weighting!r} is for networks that predict the noise; "
                "use none with predict_xstart"
            )
        if not all(part.strip().isdecimal() and int(part) for part in self.loss_factors.split(",") if part):
            raise ConfigError(
                f"loss_factors {self.loss_factors!r} is not a list of whole numbers such as '8,64'"
            )
        side = self.image_size
        if misfits := [factor for factor in self.coarse_factors if side % factor]:
            raise ConfigError(
                f"loss_factors {self.loss_factors!r}: {misfits[0]} does not divide image_size {side}"
            )

    def _check_scales(self) -> None:
        if not all(part.strip().isdecimal() and int(part) for part in self.scales.split(",")):
            raise ConfigError(f"scales {self.scales!r} is not a list of whole numbers such as '1,2,4'")
        if self.data_dir != "scenes" and self.scales != "1":
            raise ConfigError(
                f"scales {self.scales!r}: only procedural images come in scales; use random_crop for "
                f"the folder {self.data_dir}"
            )

    @property
    def coarse_factors(self) -> tuple[int, ...]:
        """`loss_factors` as numbers: sides of squares in pixels."""
        return tuple(int(part) for part in self.loss_factors.split(",") if part)

    @property
    def frame_scales(self) -> tuple[int, ...]:
        """`scales` as numbers: side of the frame / side of the image."""
        return tuple(int(part) for part in self.scales.split(","))

    @property
    def folder(self) -> Path:
        """Folder with all files of the run."""
        return Path(self.out or f"runs/{self.name}")


_GROUPS: dict[str, type] = {"model": ModelConfig, "process": ProcessConfig}
_KEYS = flat_keys(TrainConfig, _GROUPS)
_PRIOR_KEYS = {"scales", "random_crop", "random_flip", "schedule_sampler", "loss_weighting", "loss_factors"}
_PRIOR_KEYS |= {*_KEYS} - {f.name for f in fields(TrainConfig)}  # no other task takes these


def load_train(path: str | Path | None, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a TrainConfig from a YAML with `key=value` overrides. Raises ConfigError."""
    if not path:
        raise ConfigError("no configuration given; name one, e.g. --conf_path confs/train/scenes64.yml")
    mapping, where = read_yaml(path), f"{path} with --set" if overrides else str(path)
    for override in overrides:
        mapping = merge(mapping, parse_override(override))
    if mapping.pop("use_kl", False):
        raise ConfigError("use_kl: training is on the simple loss plus the bound; leave it out")
    check_keys(mapping, _KEYS, where=where)
    task = str(mapping.get("task", "prior"))
    if task not in TASK_RULES or TASK_RULES[task].is_prior:
        return load_flat(TrainConfig, {"timestep_respacing": "", **mapping}, where, flat=_GROUPS)
    if spare := sorted(set(mapping) & _PRIOR_KEYS):
        raise ConfigError(f"{spare[0]} in {where} has no place in task: {task}; leave it out")
    return load_flat(TrainConfig, mapping, where, flat={})
