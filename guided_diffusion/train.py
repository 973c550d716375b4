"""Training: `python -m guided_diffusion.train --conf_path confs/train/scenes64.yml`.

`confs/train/shadow_detector.yml` trains the shadow detector, `scene_classifier.yml` the scene classifier.
The same command resumes from the last saved state, with the images, timesteps and noise that an uninterrupted
run would have drawn. Under torchrun each rank draws its own share of every batch.
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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset
from tqdm import tqdm

from guided_diffusion.codec import Codec, PixelCodec
from guided_diffusion.errors import (
    CheckpointError,
    ConfigError,
    DatasetError,
    DeviceError,
    ImageError,
    LaunchError,
    TrainingError,
)
from guided_diffusion.images.files import write_bytes
from guided_diffusion.images.formats import write_image
from guided_diffusion.runtime import distributed
from guided_diffusion.runtime.device import split_cores_among_ranks
from guided_diffusion.runtime.memory import tune_malloc
from guided_diffusion.training.config import TrainConfig, load_train
from guided_diffusion.training.data import open_batches
from guided_diffusion.training.loss_log import LossLog
from guided_diffusion.training.run_cost import RunCost, summarize
from guided_diffusion.training.tasks import TRAINERS
from guided_diffusion.training.trainer import Trainer

_STOP_INTERVAL = 10  # steps after which the ranks ask each other whether to stop; asking costs an exchange
_PIXELS = PixelCodec()


def train(
    config: TrainConfig,
    device: torch.device,
    stop: Callable[[], bool] = lambda: False,
    codec: Codec = _PIXELS,
) -> Trainer:
    """Train until `iterations` steps are done, or until `stop` says so; then the state is saved.

    Resumes from the state in the run's folder, if there is one.

    Args:
        stop: asked after each step; True = save and return.
        codec: converts between uint8 images and the space that a prior works in.

    Returns:
        The trainer after the last step.

    Raises:
        DatasetError, CheckpointError: before the first step.
        ImageError, TrainingError, OSError: later.
    """
    task = TRAINERS[config.task]
    source = task.open_source(config, codec)
    trainer = task(config, device, codec)
    trainer.restore()
    log = None
    if distributed.is_leader():
        log = LossLog(config.folder / "loss.csv", trainer.step, trainer.loss_names)
    if trainer.step:  # the run may have been killed after the state was saved, before the rest was
        _write_cost(trainer)
        if not _grid_path(trainer).exists():
            _draw_grid(trainer)
    if trainer.step < config.iterations:
        _run_steps(trainer, source, log, stop)
    return trainer


def _run_steps(
    trainer: Trainer, source: Dataset[Tensor], log: LossLog | None, stop: Callable[[], bool]
) -> None:
    config, device, ranks = trainer.config, trainer.device, distributed.world_size()
    model: nn.Module = DistributedDataParallel(trainer.network) if ranks > 1 else trainer.network
    images = config.batch_size * ranks
    cost = RunCost(trainer.cost_rows, trainer.step, images, trainer.step_flops(), device, trainer.precision)
    batches = open_batches(source, config, trainer.step * images)
    warned: set[str] = set()
    stopped = False
    with _progress_bar(trainer) as bar:
        while trainer.step < config.iterations and not stopped:
            batch, faults = next(batches)
            _warn_once(faults, warned)
            trainer.train_step(model, batch.to(device, non_blocking=True))
            bar.update()
            stopped = _any_rank_wants_stop(stop, trainer.step)
            trainer.cost_rows = cost.rows(trainer.step)
            _log_and_save(trainer, log, bar, stopped)


def _progress_bar(trainer: Trainer) -> tqdm[Any]:
    config = trainer.config
    hidden = not distributed.is_leader()
    return tqdm(total=config.iterations, initial=trainer.step, disable=hidden, desc=config.name, unit="step")


def _warn_once(faults: list[str], warned: set[str]) -> None:
    for fault in faults:
        if fault not in warned:
            tqdm.write(f"warning: another image in its place: {fault}", file=sys.stderr)
            warned.add(fault)


def _any_rank_wants_stop(stop: Callable[[], bool], step: int) -> bool:
    """True if the run is to stop now; the same on all ranks, since one that stops alone hangs the rest."""
    if distributed.world_size() == 1:
        return stop()
    return step % _STOP_INTERVAL == 0 and distributed.any_rank(stop())


def _log_and_save(trainer: Trainer, log: LossLog | None, bar: tqdm[Any], stopped: bool) -> None:
    """Write whatever is due after a step."""
    config, step = trainer.config, trainer.step
    logs = step % config.log_interval == 0
    saves = stopped or _is_due(trainer, config.save_interval)
    if logs or saves:
        trainer.check_finite()
    if logs:
        images = trainer.steps_in_totals * config.batch_size * distributed.world_size()
        means = trainer.report()
        if log is not None:
            rate = log.add(step, images, trainer.seconds, means)
            bar.set_postfix_str(f"loss {means['loss']:.4f}, {rate:.3g} images/s")
    if saves:
        trainer.save()
        _write_cost(trainer)
    _draw_grid(trainer)


def _is_due(trainer: Trainer, interval: int) -> bool:
    return trainer.step % interval == 0 or trainer.step == trainer.config.iterations


def _write_cost(trainer: Trainer) -> None:
    if distributed.is_leader():
        text = json.dumps(summarize(trainer.cost_rows), indent=2)
        write_bytes(trainer.config.folder / "cost.json", f"{text}\n".encode())
        # Earlier versions wrote the same facts, all of which are in the state, under this name.
        (trainer.config.folder / "figures.json").unlink(missing_ok=True)


def _grid_path(trainer: Trainer) -> Path:
    return trainer.config.folder / "samples" / f"{trainer.step:06d}.png"


def _draw_grid(trainer: Trainer) -> None:
    config = trainer.config
    if distributed.is_leader() and _is_due(trainer, config.sample_interval or config.save_interval):
        write_image(_grid_path(trainer), trainer.grid())


class StopSignal:
    """Called after each step: True once the time is over or the user or the system asked the run to end.

    The first Ctrl-C (or SIGTERM) lets the step end and the state be saved; the second stops at once.
    """

    def __init__(self, minutes: float | None) -> None:
        """minutes: time until the run is to stop; None = no limit."""
        self.deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self.interrupted = False

    def __call__(self) -> bool:
        return self.interrupted or time.monotonic() > self.deadline

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM here, and restore the handlers at the end."""
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
        "resumes after a stop or a kill.",
        epilog="Writes the state, weights, loss.csv, cost.json and sample grids to runs/<name>. Exit codes: "
        "0 done, or the minutes are over; 1 failed while training; 2 wrong configuration; 130 interrupted. "
        "The keys of the YAML are explained in docs/reference/config.md.",
    )
    parser.add_argument("--conf_path", help="YAML of the run, e.g. confs/train/scenes64.yml")
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
        "--minutes", type=float, help="save and stop after this many minutes; run again to resume"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parse(arguments)
    tune_malloc()
    split_cores_among_ranks()
    stop = StopSignal(options.minutes)
    try:
        distributed.check_launch()
        config = load_train(options.conf_path, options.set)
        device = distributed.find_device(options.device)
        distributed.setup(device)
        with stop.handle_signals():
            trainer = train(config, device, stop)
    except (ConfigError, DatasetError, CheckpointError, DeviceError, LaunchError) as error:
        return _fail(str(error), 2)
    except (TrainingError, ImageError, OSError) as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("stopped at once; the state saved last is kept; run the same command again to continue", 130)
    finally:
        distributed.close()
    if distributed.is_leader():
        print(f"{trainer.step} of {config.iterations} steps are done and saved in {config.folder}")
    return 130 if stop.interrupted else 0


def _fail(message: str, code: int) -> int:
    # An error of a loader's worker arrives with its traceback; the message is at the end.
    line = f"error: {message.rpartition('ImageError: ')[2].strip()}"
    print(distributed.with_rank_prefix(line), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
