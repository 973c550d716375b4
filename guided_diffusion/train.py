"""Training of a prior: `python -m guided_diffusion.train --conf_path confs/train/scenes64.yml`.
`confs/train/shadow_detector.yml` trains the network that detects shadows, `scene_classifier.yml` the one that
tells materials.

Resumes by itself: the same command goes on from the last saved state, with the same images, times and
noises it would have drawn. Under torchrun each rank draws its own share of every batch.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from guided_diffusion.build import build_process
from guided_diffusion.codec import PixelCodec
from guided_diffusion.denoiser import Denoiser
from guided_diffusion.errors import (
    CheckpointError,
    ConfigError,
    DatasetError,
    DeviceError,
    ImageError,
    LaunchError,
    TrainingError,
)
from guided_diffusion.images.contact_sheet import contact_sheet
from guided_diffusion.images.files import write_bytes
from guided_diffusion.images.formats import write_image
from guided_diffusion.operators import NoObservation
from guided_diffusion.runtime import distributed
from guided_diffusion.runtime.device import split_cores_among_ranks
from guided_diffusion.runtime.memory import tune_malloc
from guided_diffusion.samplers.base import Noise, Problem, sample
from guided_diffusion.samplers.ddpm import DDPM
from guided_diffusion.training.classifier_trainer import ClassifierTrainer
from guided_diffusion.training.config import TrainConfig, load_train
from guided_diffusion.training.data import open_batches, open_source
from guided_diffusion.training.detector_trainer import DetectorTrainer
from guided_diffusion.training.loss_log import LossLog
from guided_diffusion.training.run_cost import Slice, summary
from guided_diffusion.training.supervised import LabelledTrainer
from guided_diffusion.training.trainer import Trainer

_AGREE = 10  # steps between two questions whether some rank wants to stop; each costs an exchange
_GRID_STEPS = 50


def train(config: TrainConfig, device: torch.device, stop: Callable[[], bool] = lambda: False) -> Trainer:
    """Train until `iterations` steps are done, or save and leave after a step where `stop` says so.

    Goes on from the state in the run's folder. Returns the trainer as it stands. Raises DatasetError or
    CheckpointError before the first step, ImageError, TrainingError or OSError later.
    """
    source = open_source(config)
    kinds = {"prior": Trainer, "detect": DetectorTrainer, "classify": ClassifierTrainer}
    trainer = kinds[config.task](config, device)
    trainer.restore()
    ranks = distributed.world_size()
    model: nn.Module = DistributedDataParallel(trainer.network) if ranks > 1 else trainer.network
    log = (
        LossLog(config.folder / "loss.csv", trainer.step, trainer.parts) if distributed.is_leader() else None
    )
    if trainer.step:  # the run may have been killed between the state and what follows it
        _write_figures(trainer)
        if not _grid_path(trainer).exists():
            _draw_grid(trainer)
    if trainer.step >= config.iterations:
        return trainer
    images, flops = config.batch_size * ranks, trainer.step_flops()
    figures = Slice(trainer.slices, trainer.step, images, flops, device, trainer.precision)
    batches = open_batches(source, config, trainer.step * config.batch_size * ranks)
    told: set[str] = set()
    stopped = False
    with _bar(trainer) as bar:
        while trainer.step < config.iterations and not stopped:
            x0, faults = next(batches)
            _tell(faults, told)
            trainer.train_step(model, x0.to(device, non_blocking=True))
            bar.update()
            stopped = _agreed(stop, trainer.step)
            trainer.slices = figures.rows(trainer.step)
            _log_and_save(trainer, log, bar, stopped)
    return trainer


def _bar(trainer: Trainer) -> tqdm[Any]:
    config = trainer.config
    hidden = not distributed.is_leader()
    return tqdm(total=config.iterations, initial=trainer.step, disable=hidden, desc=config.name, unit="step")


def _tell(faults: list[str], told: set[str]) -> None:
    for fault in faults:
        if fault not in told:
            tqdm.write(f"warning: another image in its place: {fault}", file=sys.stderr)
            told.add(fault)


def _agreed(stop: Callable[[], bool], step: int) -> bool:
    """Whether to stop now, the same answer on all ranks: their clocks differ, and one alone would hang."""
    if distributed.world_size() == 1:
        return stop()
    return step % _AGREE == 0 and distributed.any_rank(stop())


def _log_and_save(trainer: Trainer, log: LossLog | None, bar: tqdm[Any], stopped: bool) -> None:
    """Whatever is due after a step."""
    config, step = trainer.config, trainer.step
    logs = step % config.log_interval == 0
    saves = stopped or _is_due(trainer, config.save_interval)
    if logs or saves:
        trainer.check()
    if logs:
        images = trainer.counted * config.batch_size * distributed.world_size()
        means = trainer.report()
        if log is not None:
            rate = log.add(step, images, trainer.seconds, means)
            bar.set_postfix_str(f"loss {means['loss']:.4f}, {rate:.3g} images/s")
    if saves:
        trainer.save()
        _write_figures(trainer)
    _draw_grid(trainer)


def _is_due(trainer: Trainer, interval: int) -> bool:
    return trainer.step % interval == 0 or trainer.step == trainer.config.iterations


def _write_figures(trainer: Trainer) -> None:
    if distributed.is_leader():
        text = json.dumps(summary(trainer.slices), indent=2)
        write_bytes(trainer.config.folder / "figures.json", f"{text}\n".encode())


def _grid_path(trainer: Trainer) -> Path:
    return trainer.config.folder / "samples" / f"{trainer.step:06d}.png"


def _draw_grid(trainer: Trainer) -> None:
    config = trainer.config
    if distributed.is_leader() and _is_due(trainer, config.sample_interval or config.save_interval):
        grid = trainer.grid() if isinstance(trainer, LabelledTrainer) else sample_grid(trainer)
        write_image(_grid_path(trainer), grid)


def sample_grid(trainer: Trainer, rows: int = 4) -> np.ndarray:
    """rows x rows samples of the averaged network by DDPM, always from the same noise: uint8 (H, W, 3)."""
    config, device = trainer.config, trainer.device
    steps = min(_GRID_STEPS, config.process.diffusion_steps)
    process, times = build_process(replace(config.process, timestep_respacing=str(steps)))
    denoise = Denoiser(
        trainer.ema,
        process,
        times.to(device),
        predict_xstart=config.process.predict_xstart,
        learn_sigma=config.model.learn_sigma,
        autocast=trainer.autocast,
    )
    size = config.model.image_size
    generators = [torch.Generator(device).manual_seed(i) for i in range(rows * rows)]
    noise = Noise(generators, (3, size, size))
    x = torch.zeros(0)
    for step in sample(
        DDPM(), Problem(torch.zeros(1, device=device), NoObservation(), denoise, process, noise)
    ):
        x = step.x
    images = list(PixelCodec().decode(x))
    grid = [images[i * rows : (i + 1) * rows] for i in range(rows)]
    return contact_sheet(grid, [], None, max(size, 128))


class Stop:
    """Asked after each step: is the time over, or has the user or the system asked to end?

    The first Ctrl-C (or SIGTERM) lets the step end and the state be saved, the second does not wait.
    """

    def __init__(self, minutes: float | None) -> None:
        self.deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self.interrupted = False

    def __call__(self) -> bool:
        return self.interrupted or time.monotonic() > self.deadline

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals are for this object."""
        before = {
            number: signal.signal(number, self._interrupt) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _interrupt(self, _number: int, _frame: object) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        if distributed.is_leader():
            tqdm.write("stopping after this step; Ctrl-C again stops at once", file=sys.stderr)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m guided_diffusion.train",
        description="Train a diffusion prior, the shadow detector or the scene classifier. The same command "
        "goes on after a stop or a kill.",
        epilog="State, weights, loss.csv and sample grids go to runs/<name>. Exit 0: done, or the minutes "
        "are over; 1: failed on the way; 2: the configuration is wrong; 130: interrupted. The keys of the "
        "YAML are in docs/reference/training_keys.md.",
    )
    parser.add_argument("--conf_path", help="the YAML, e.g. confs/train/scenes64.yml")
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="override keys of the YAML, e.g. lr=1e-4 batch_size=8",
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument(
        "--minutes", type=float, help="save and leave after so many minutes; run again to go on"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    tune_malloc()
    split_cores_among_ranks()
    stop = Stop(options.minutes)
    try:
        distributed.check_launch()
        config = load_train(options.conf_path, options.set)
        device = distributed.find_device(options.device)
        distributed.setup(device)
        with stop.listening():
            trainer = train(config, device, stop)
    except (ConfigError, DatasetError, CheckpointError, DeviceError, LaunchError) as error:
        return _fail(str(error), 2)
    except (TrainingError, ImageError, OSError) as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("stopped at once; the state saved last is kept, the same command goes on from it", 130)
    finally:
        distributed.close()
    if distributed.is_leader():
        print(f"{trainer.step} of {config.iterations} steps are done and saved in {config.folder}")
    return 130 if stop.interrupted else 0


def _fail(message: str, code: int) -> int:
    # What a loader's worker raised arrives as its whole traceback; the message is at its end.
    line = f"error: {message.rpartition('ImageError: ')[2].strip()}"
    print(distributed.with_rank_prefix(line), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
