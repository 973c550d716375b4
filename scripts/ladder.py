#!/usr/bin/env python3
"""The table of docs/reports/prior.md on size and weighting: variants of a prior, trained equally long.

OMP_NUM_THREADS=1 .venv/bin/python scripts/ladder.py --conf_path confs/train/scenes64.yml --minutes 9 \\
    --try num_channels=32 "num_channels=32 loss_weighting=min_snr" num_channels=64

What a variant may take is minutes of computing, so that other work on the machine spoils nothing: the cost of
a step is measured, in processor time on a CPU and by the clock on a GPU, and `iterations` follows, with the
learning rate falling to zero there. Drawing images, in a process of its own, does not count. Then all
averages are judged on the same images, times and noises, which training never sees. The same command goes
on after a stop; a variant that is done is not trained again.
"""

import argparse
import json
import math
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from guided_diffusion.build import flops_per_evaluation
from guided_diffusion.errors import CheckpointError, ConfigError, DatasetError, DeviceError, TrainingError
from guided_diffusion.evaluation.bootstrap import bootstrap
from guided_diffusion.images.files import write_bytes
from guided_diffusion.runtime import distributed
from guided_diffusion.train import Stop, train
from guided_diffusion.training.config import TrainConfig, load_train
from guided_diffusion.training.held_out import HeldOut, measure
from guided_diffusion.training.scene_windows import SceneWindows
from guided_diffusion.training.trainer import Trainer

SEED = 1000  # of the images judged on; seeds below are for training
WARM, ROUNDS, STEPS = 2, 5, 2  # steps thrown away; rounds through all variants; steps of each in a round
HEADS = (
    "variant | weights (M) | half (MB) | GFLOP | steps | images | minutes | little noise | middle | "
    "much noise | all | all, minus first | bound | bound, minus first"
)


@dataclass(frozen=True)
class Variant:
    """A config by its words; its plan is the file that keeps what a step costs, and so how many there are."""

    words: str
    conf_path: str
    minutes: float
    common: tuple[str, ...]
    out: Path

    @property
    def label(self) -> str:
        return self.words or "as it is"

    @property
    def folder(self) -> Path:
        return self.out / re.sub(r"[^A-Za-z0-9.,=_]+", "-", self.label)

    @property
    def plan(self) -> Path:
        return self.folder / "plan.json"

    @property
    def asked(self) -> dict[str, object]:
        return {
            "conf_path": self.conf_path,
            "words": [*self.common, *self.words.split()],
            "minutes": self.minutes,
        }

    def config(self, iterations: int = 1) -> TrainConfig:
        """The variant's config with so many steps, saved four times on the way."""
        ours = [f"iterations={iterations}", f"lr_anneal_steps={iterations}", f"sample_interval={iterations}"]
        ours += [f"save_interval={-(-iterations // 4)}", "name=weights", f"out={self.folder}"]
        return load_train(self.conf_path, [*self.common, *self.words.split(), *ours])


def planned(variant: Variant) -> dict[str, Any] | None:
    """What was planned for the variant in an earlier run. Raises ConfigError if it was something else."""
    if not variant.plan.exists():
        return None
    plan = json.loads(variant.plan.read_text())
    if plan["asked"] != variant.asked:
        raise ConfigError(f"{variant.folder} is of another ladder ({plan['asked']}); choose another --out")
    return plan


def clock(device: torch.device) -> float:
    """Seconds: of this process's work on a CPU, of the world beside a GPU."""
    return time.process_time() if device.type == "cpu" else time.monotonic()


class Meter:
    """Asked after each step whether to stop, it passes the question on; it adds up what steps take, the first
    not counted."""

    def __init__(self, stop: Stop, device: torch.device) -> None:
        self.stop, self.device, self.seconds, self.last = stop, device, 0.0, math.inf

    def __call__(self) -> bool:
        now = clock(self.device)
        self.seconds += max(0.0, now - self.last)
        self.last = now
        return self.stop()


def step_costs(configs: dict[object, TrainConfig], device: torch.device) -> dict[object, float]:
    """Seconds of a step of each config: the median, taken in turns since a busy machine is slower for all."""
    trainers = {key: Trainer(config, device) for key, config in configs.items()}
    seconds: dict[object, list[float]] = {key: [] for key in trainers}
    for turn in tqdm(range(ROUNDS + 1), desc="cost of a step", unit="round"):
        for key, trainer in trainers.items():
            size, side = trainer.config.batch_size, trainer.config.model.image_size
            x0 = torch.rand(size, 3, side, side, device=device) * 2 - 1
            for _ in range(STEPS if turn else WARM):
                begin = clock(device)
                trainer.train_step(trainer.network, x0)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds[key] += [clock(device) - begin] if turn else []
    return {key: median(told) for key, told in seconds.items()}


def arithmetic(config: TrainConfig) -> object:
    """What the cost of a step hangs on: variants that share it share one measurement and so all steps."""
    return config.model, config.batch_size, config.microbatch, config.bf16


def make_plans(variants: list[Variant], device: torch.device) -> None:
    new = [variant for variant in variants if planned(variant) is None]
    costs = step_costs({arithmetic(v.config()): v.config() for v in new}, device) if new else {}
    for variant in new:
        cost = costs[arithmetic(variant.config())]
        steps = max(1, round(60 * variant.minutes / cost))
        plan = {"asked": variant.asked, "cost": cost, "iterations": steps, "seconds": 0.0}
        write_plan(variant, plan)


def write_plan(variant: Variant, plan: dict[str, Any]) -> None:
    write_bytes(variant.plan, f"{json.dumps(plan, indent=2)}\n".encode())


def trained(variant: Variant, device: torch.device, stop: Stop) -> tuple[Trainer, dict[str, Any]]:
    """The variant's trainer, trained now as far as it was not, and its plan. Raises KeyboardInterrupt."""
    plan = planned(variant)
    assert plan is not None
    meter = Meter(stop, device)
    trainer = train(variant.config(plan["iterations"]), device, meter)
    plan["seconds"] += meter.seconds
    write_plan(variant, plan)
    if stop.interrupted:
        raise KeyboardInterrupt
    return trainer, plan


def judged(trainer: Trainer, images: list[Tensor]) -> HeldOut:
    return measure(trainer.denoiser(trainer.ema), tqdm(images, "held out", unit="image"), SEED)


def figures(trainer: Trainer, plan: dict[str, Any], told: HeldOut, first: HeldOut) -> list[str]:
    """A row of the table, without the variant's words."""
    config = trainer.config
    size = config.model.image_size
    weights = sum(parameter.numel() for parameter in trainer.network.parameters())
    half = (config.folder / "weights.pt").stat().st_size
    flops = flops_per_evaluation(config.model, (1, 3, size, size))
    row = [f"{weights / 1e6:.1f}", f"{half / 1e6:.1f}", f"{flops / 1e9:.2f}", f"{trainer.step}"]
    row += [f"{trainer.step * config.batch_size}", f"{plan['seconds'] / 60:.1f}"]
    row += [f"{error:.4f}" for error in (*told.error_by_third.mean(0), told.error.mean())]
    row += [paired(told.error - first.error), f"{told.bits.mean():.3f}", paired(told.bits - first.bits)]
    return row


def paired(differences: np.ndarray) -> str:
    """Their mean, with a 90 % interval over images; a dash where nothing differs."""
    if not differences.any():
        return "-"
    low, high = bootstrap(differences.tolist())
    return f"{differences.mean():+.4f} [{low:+.4f}, {high:+.4f}]"


def check(variants: list[Variant]) -> TrainConfig:
    """The first config, if all can be compared. Raises ConfigError."""
    configs = [variant.config() for variant in variants]
    first = configs[0]
    for variant, config in zip(variants, configs, strict=True):
        if (config.model.image_size, config.process) != (first.model.image_size, first.process):
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


def climb(options: argparse.Namespace) -> None:
    device = distributed.find_device(options.device)
    out, common = options.out, tuple(options.set)
    variants = [Variant(words, options.conf_path, options.minutes, common, out) for words in options.variants]
    first = check(variants)
    make_plans(variants, device)
    source = SceneWindows(first.model.image_size, SEED, first.factors)
    stop = Stop(None)
    with stop.listening():
        runs = [(variant, *trained(variant, device, stop)) for variant in variants]
    images = [source[i] for i in tqdm(range(options.n), "drawing", unit="image")]
    told = [judged(trainer, images) for _, trainer, _ in runs]
    print(f"| {HEADS} |\n{'|---' * len(HEADS.split('|'))}|")
    for (variant, trainer, plan), found in zip(runs, told, strict=True):
        print(f"| {variant.label} |", " | ".join(figures(trainer, plan, found, told[0])), "|")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--conf_path", required=True, help="the YAML of a prior, e.g. confs/train/scenes64.yml")
    add("--minutes", type=float, default=9, help="of computing for each variant (default 9)")
    add(
        "--try",
        dest="variants",
        action="extend",
        nargs="+",
        required=True,
        metavar="'KEY=VALUE ...'",
        help="variants, each the overrides of the YAML in quotes, '' for none; compared with the first",
    )
    add(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="overrides for all variants",
    )
    add("--n", type=int, default=192, help="images to judge on (default 192)")
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add(
        "--out",
        type=Path,
        default=Path("runs/ladder"),
        help="a folder for each variant (default runs/ladder)",
    )
    options = parser.parse_args()
    if options.n < 1 or not options.minutes > 0:
        parser.error(f"--n {options.n} --minutes {options.minutes}: need at least one image and some time")
    try:
        climb(options)
    except (ConfigError, DatasetError, CheckpointError, DeviceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
