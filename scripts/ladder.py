#!/usr/bin/env python3
"""Compare variants of a prior that were trained for the same computing time (docs/reports/prior.md).

    OMP_NUM_THREADS=1 python scripts/ladder.py --conf_path confs/train/scenes64.yml --minutes 9 \\
        --try num_channels=32 "num_channels=32 loss_weighting=min_snr" num_channels=64

1. The cost of a training step is measured for each variant: processor time on a CPU, wall time on a GPU.
   Other load on the machine therefore does not matter much. Preparing images is not counted.
2. Each variant is trained for as many steps as `--minutes` pays for; its learning rate falls to zero there.
3. The averaged networks are compared on the same held-out images, timesteps and noise.

Prints a Markdown table with a row per variant. "minus first" columns have 90 % intervals over images. The
same command resumes after a stop; a variant that is done is not trained again.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from guided_diffusion.build import flops_per_evaluation
from guided_diffusion.codec import PixelCodec
from guided_diffusion.errors import CheckpointError, ConfigError, DatasetError, DeviceError, TrainingError
from guided_diffusion.evaluation.bootstrap import bootstrap
from guided_diffusion.images.files import write_bytes
from guided_diffusion.runtime import distributed
from guided_diffusion.train import StopSignal, train
from guided_diffusion.training.config import TrainConfig, load_train
from guided_diffusion.training.held_out import HeldOutLosses, measure
from guided_diffusion.training.prior_trainer import PriorTrainer
from guided_diffusion.training.scene_windows import SceneWindows

CODEC = PixelCodec()
SEED = 1000  # of the held-out images; seeds below are for training
WARM_STEPS, ROUNDS, STEPS = 2, 5, 2  # unmeasured steps; rounds over all variants; steps of each per round
COLUMNS = (
    "variant | weights (M) | half (MB) | GFLOP | steps | images | minutes | little noise | middle | "
    "much noise | all | all, minus first | bound | bound, minus first"
)


@dataclass(frozen=True)
class Variant:
    """A training config with overrides, and the folder of its run."""

    overrides: str
    """Overrides of this variant, `key=value` separated by spaces; empty = the YAML as it is."""
    conf_path: str
    """YAML that all variants share."""
    minutes: float
    """Computing time for its training."""
    common: tuple[str, ...]
    """Overrides of all variants."""
    out: Path
    """Folder of the whole comparison."""

    @property
    def label(self) -> str:
        """Name in the table."""
        return self.overrides or "as it is"

    @property
    def folder(self) -> Path:
        """Folder of its run."""
        return self.out / re.sub(r"[^A-Za-z0-9.,=_]+", "-", self.label)

    @property
    def plan_path(self) -> Path:
        """File with the cost of a step and the number of steps."""
        return self.folder / "plan.json"

    @property
    def request(self) -> dict[str, object]:
        """Options that a plan depends on; it is valid only for the same ones."""
        words = [*self.common, *self.overrides.split()]
        return {"conf_path": self.conf_path, "words": words, "minutes": self.minutes}

    def config(self, iterations: int = 1) -> TrainConfig:
        """Return the training config with this many steps, saved four times on the way."""
        run = [f"iterations={iterations}", f"lr_anneal_steps={iterations}", f"sample_interval={iterations}"]
        run += [f"save_interval={-(-iterations // 4)}", "name=weights", f"out={self.folder}"]
        return load_train(self.conf_path, [*self.common, *self.overrides.split(), *run])

    def read_plan(self) -> dict[str, Any] | None:
        """The plan of an earlier run, None without one. Raises ConfigError if it was for another request."""
        if not self.plan_path.exists():
            return None
        plan = json.loads(self.plan_path.read_text())
        if plan["asked"] != self.request:
            raise ConfigError(f"{self.folder} is of another ladder ({plan['asked']}); choose another --out")
        return plan

    def write_plan(self, plan: dict[str, Any]) -> None:
        """Write the plan; its keys are `asked`, `cost`, `iterations` and `seconds`."""
        write_bytes(self.plan_path, f"{json.dumps(plan, indent=2)}\n".encode())


def read_clock(device: torch.device) -> float:
    """Seconds: this process's processor time on a CPU, wall time on a GPU."""
    return time.process_time() if device.type == "cpu" else time.monotonic()


class StepTimer:
    """A stop signal that also adds up the time of the steps; the first step is not counted."""

    def __init__(self, stop: StopSignal, device: torch.device) -> None:
        self.stop, self.device, self.seconds, self.last = stop, device, 0.0, math.inf

    def __call__(self) -> bool:
        now = read_clock(self.device)
        self.seconds += max(0.0, now - self.last)
        self.last = now
        return self.stop()


def measure_step_costs(configs: dict[object, TrainConfig], device: torch.device) -> dict[object, float]:
    """Median seconds of a training step of each config; they take turns, so that other load hits all."""
    trainers = {key: PriorTrainer(config, device, CODEC) for key, config in configs.items()}
    seconds: dict[object, list[float]] = {key: [] for key in trainers}
    for round_number in tqdm(range(ROUNDS + 1), desc="cost of a step", unit="round"):
        for key, trainer in trainers.items():
            size, side = trainer.config.batch_size, trainer.config.image_size
            x0 = torch.rand(size, 3, side, side, device=device) * 2 - 1
            for _ in range(STEPS if round_number else WARM_STEPS):
                begin = read_clock(device)
                trainer.train_step(trainer.network, x0)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds[key] += [read_clock(device) - begin] if round_number else []
    return {key: median(values) for key, values in seconds.items()}


def cost_key(config: TrainConfig) -> object:
    """Everything that decides the cost of a step; variants with the same key share a measurement."""
    return config.model, config.batch_size, config.microbatch, config.bf16


def make_plans(variants: Sequence[Variant], device: torch.device) -> None:
    """Measure and write the plans that are missing."""
    new = [variant for variant in variants if variant.read_plan() is None]
    costs = measure_step_costs({cost_key(v.config()): v.config() for v in new}, device) if new else {}
    for variant in new:
        cost = costs[cost_key(variant.config())]
        steps = max(1, round(60 * variant.minutes / cost))
        plan = {"asked": variant.request, "cost": cost, "iterations": steps, "seconds": 0.0}
        variant.write_plan(plan)


def train_variant(
    variant: Variant, device: torch.device, stop: StopSignal
) -> tuple[PriorTrainer, dict[str, Any]]:
    """Train the variant to its end, or resume; return its trainer and plan. Raises KeyboardInterrupt."""
    plan = variant.read_plan()
    assert plan is not None, "make_plans wrote it"
    timer = StepTimer(stop, device)
    trainer = train(variant.config(plan["iterations"]), device, timer, CODEC)
    assert isinstance(trainer, PriorTrainer), "check_variants refuses other tasks"
    plan["seconds"] += timer.seconds
    variant.write_plan(plan)
    if stop.interrupted:
        raise KeyboardInterrupt
    return trainer, plan


def measure_held_out(trainer: PriorTrainer, images: Sequence[Tensor]) -> HeldOutLosses:
    """Losses of the averaged network on the held-out images."""
    return measure(trainer.denoiser(trainer.ema), tqdm(images, "held out", unit="image"), SEED)


def format_row(
    trainer: PriorTrainer, plan: dict[str, Any], losses: HeldOutLosses, first: HeldOutLosses
) -> list[str]:
    """Cells of a variant's row, without its label."""
    config = trainer.config
    size = config.image_size
    weights = sum(parameter.numel() for parameter in trainer.network.parameters())
    half = (config.folder / "weights.pt").stat().st_size
    flops = flops_per_evaluation(config.model, (1, 3, size, size))
    row = [f"{weights / 1e6:.1f}", f"{half / 1e6:.1f}", f"{flops / 1e9:.2f}", f"{trainer.step}"]
    row += [f"{trainer.step * config.batch_size}", f"{plan['seconds'] / 60:.1f}"]
    row += [f"{error:.4f}" for error in (*losses.error_by_third.mean(0), losses.error.mean())]
    row += [format_difference(losses.error - first.error)]
    row += [f"{losses.bits.mean():.3f}", format_difference(losses.bits - first.bits)]
    return row


def format_difference(differences: np.ndarray) -> str:
    """Mean of the paired differences with a 90 % interval over images; a dash if all are zero."""
    if not differences.any():
        return "-"
    low, high = bootstrap(differences.tolist())
    return f"{differences.mean():+.4f} [{low:+.4f}, {high:+.4f}]"


def check_variants(variants: Sequence[Variant]) -> TrainConfig:
    """The config of the first variant. Raises ConfigError if the variants cannot be compared."""
    configs = [variant.config() for variant in variants]
    first = configs[0]
    for variant, config in zip(variants, configs, strict=True):
        if (config.image_size, config.process) != (first.image_size, first.process):
            raise ConfigError(
                f"--try {variant.label!r}: errors compare only within one image_size and one process; "
                "give those to all by --set"
            )
        if config.task != "prior" or config.data_dir != "scenes" or config.seed >= SEED:
            raise ConfigError(
                f"--try {variant.label!r}: a ladder is of priors of the procedural images; "
                f"use task: prior, data_dir: scenes and a seed below {SEED}"
            )
        if config.process.predict_xstart or not config.model.learn_sigma:
            raise ConfigError(
                f"--try {variant.label!r}: errors are of eps, and the bound needs a variance; use "
                "predict_xstart: false and learn_sigma: true"
            )
    if len({variant.folder for variant in variants}) < len(variants):
        raise ConfigError("two --try share a folder; give each variant once")
    return first


def compare(options: argparse.Namespace) -> None:
    """Train all variants, measure them and print the table."""
    device = distributed.find_device(options.device)
    out, common = options.out, tuple(options.set)
    variants = [Variant(words, options.conf_path, options.minutes, common, out) for words in options.variants]
    first = check_variants(variants)
    make_plans(variants, device)
    stop = StopSignal(None)
    with stop.handle_signals():
        runs = [(variant, *train_variant(variant, device, stop)) for variant in variants]
    source = SceneWindows(first.image_size, SEED, first.frame_scales, CODEC)
    images = [source[i] for i in tqdm(range(options.n), "drawing", unit="image")]
    losses = [measure_held_out(trainer, images) for _, trainer, _ in runs]
    print(f"| {COLUMNS} |\n{'|---' * len(COLUMNS.split('|'))}|")
    for (variant, trainer, plan), measured in zip(runs, losses, strict=True):
        print(f"| {variant.label} |", " | ".join(format_row(trainer, plan, measured, losses[0])), "|")


def parse_arguments() -> argparse.Namespace:
    """Options of the command line; leaves with exit code 2 where they make no sense."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--conf_path", required=True, help="training YAML of a prior, e.g. confs/train/scenes64.yml")
    add("--minutes", type=float, default=9, help="computing time for each variant (default 9)")
    add(
        "--try",
        dest="variants",
        action="extend",
        nargs="+",
        required=True,
        metavar="'KEY=VALUE ...'",
        help="variants: overrides of the YAML, each variant in quotes, '' for none; first = reference",
    )
    add(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="overrides for all variants",
    )
    add("--n", type=int, default=192, help="number of held-out images (default 192)")
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    out = Path("runs/ladder")
    add("--out", type=Path, default=out, help=f"folder for the runs, one folder per variant (default {out})")
    options = parser.parse_args()
    if options.n < 1 or not options.minutes > 0:
        parser.error(f"--n {options.n} --minutes {options.minutes}: need at least one image and some time")
    return options


def main() -> int:
    """Run the command; return its exit code: 1 failed while training, 2 wrong options, 130 interrupted."""
    options = parse_arguments()
    try:
        compare(options)
    except (ConfigError, DatasetError, CheckpointError, DeviceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; run the same command again to continue", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
