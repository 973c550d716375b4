"""Fill the images of one YAML: `python test.py --conf_path confs/shadow.yml`.

Exit 0: every image is done; 1: some failed (each is named with its reason); 2: the configuration is wrong;
130: stopped by Ctrl-C. Where torchrun would start the ranks anew, images that failed leave 0: they would
fail again.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from guided_diffusion import __version__
from guided_diffusion.build import build_network, flops_per_evaluation, matrix_rate, place
from guided_diffusion.checkpoints import remedy
from guided_diffusion.config.schema import to_mapping
from guided_diffusion.engine import Engine, load_config
from guided_diffusion.errors import (
    CheckpointError,
    ClusterError,
    ConfigError,
    DatasetError,
    ImageError,
    LaunchError,
)
from guided_diffusion.images import inputs
from guided_diffusion.images.pairs import Pair
from guided_diffusion.output.log_folder import FILLED_COLUMNS, LIFTED_COLUMNS, LogFolder
from guided_diffusion.output.reports import duration, saved, unwritten
from guided_diffusion.output.results import Progress, Result, describe_run, printable
from guided_diffusion.runners import ray_cluster, work_queue
from guided_diffusion.runtime import distributed
from guided_diffusion.runtime.background import aside
from guided_diffusion.runtime.hardware import keep_memory, share_cores

log = logging.getLogger("penumbra")
SMALL = 50e9  # floating-point operations; a network that needs fewer is timed instead of estimated
NETWORK_SHARE = 0.75  # of the device's matrix rate that a large network reaches
HEARING_SECONDS = 1.0  # how often the leader asks what the other ranks have made
QUIET_SECONDS = 60.0  # without a terminal a long image tells this often where it stands


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fill the images of one YAML.")
    parser.add_argument("--conf_path", help="the YAML, e.g. confs/shadow.yml")
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="e.g. seed=1 data.max_len=2",
    )
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N; overrides the YAML")
    parser.add_argument("--dry_run", action="store_true", help="print the plan and what is missing, and stop")
    return parser.parse_args(arguments)


class Screen(logging.Handler):
    """Prints log lines above the progress bars instead of through them; what is wrong goes to stderr.

    A rank that does not lead is to be attached for errors alone, and says which it is.
    """

    def emit(self, record: logging.LogRecord) -> None:
        wrong = record.levelno >= logging.WARNING
        stream = sys.stderr if wrong else sys.stdout
        line = f"{record.levelname.lower()}: {record.getMessage()}" if wrong else record.getMessage()
        line, encoding = distributed.signed(line), stream.encoding or "utf-8"
        tqdm.write(line.encode(encoding, "backslashreplace").decode(encoding), file=stream)
        stream.flush()


def log_file(folder: str) -> logging.Handler:
    """Everything that is told, also each image's time, to run.log in the log folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(Path(folder, "run.log"), encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


def attach(handler: logging.Handler, until: ExitStack, level: int) -> None:
    handler.setLevel(level)
    log.addHandler(handler)
    until.callback(handler.close)
    until.callback(log.removeHandler, handler)


class Display:
    """Where a run stands: two bars on a terminal, elsewhere a line per image, nothing when not wanted."""

    def __init__(self, images: int, steps: int, wanted: bool) -> None:
        terminal = sys.stderr.isatty()
        self.level = logging.INFO if wanted and not terminal else logging.DEBUG  # of lines that say as much
        hide = not (wanted and terminal)
        self.images = tqdm(total=images, desc="images", unit="image", disable=hide)
        self.steps = tqdm(total=steps, desc="steps", unit="step", leave=False, disable=hide)
        self.told = time.monotonic()

    def step(self, progress: Progress) -> None:
        if progress.step == 1 or progress.steps != self.steps.total:
            self.steps.reset(progress.steps)
            part = f"window {progress.window} of {progress.windows}"
            self.steps.set_description(part if progress.windows > 1 else "steps", refresh=False)
        self.steps.update(progress.step - self.steps.n)
        if time.monotonic() - self.told > QUIET_SECONDS:
            self.told = time.monotonic()
            part = f"window {progress.window} of {progress.windows}, " if progress.windows > 1 else ""
            where = f"{part}step {progress.step} of {progress.steps}"
            log.log(self.level, f"{printable(progress.names[0])}: {where}")

    def image(self) -> None:
        self.images.update()
        self.told = time.monotonic()

    def close(self) -> None:
        self.steps.close()
        self.images.close()


def show_plan(engine: Engine) -> None:
    """--dry_run: images, evaluations, estimated time, missing files."""
    missing, config, data = engine.missing_files(), engine.config, engine.config.data
    for path in missing:
        images = path in (data.gt_path, data.mask_path, data.free_path)
        todo = "mend the path or put the images there" if images else remedy(path)
        log.info(f"missing: {path} ({todo})")
    pairs: list[Pair] = []
    try:
        pairs = engine.pairs()
    except DatasetError as error:
        if not {data.gt_path, data.mask_path} & set(missing):
            log.warning(str(error))
    for pair in pairs:
        log.info(f"  {printable(pair.name)}")
    each = engine.nfe * seconds_per_evaluation(engine) if engine.nfe else 0.0
    whole = f"{len(pairs)} images take about {duration(each * len(pairs))}" if pairs else "no images yet"
    shares = " + ".join(f"{cost} for {output}" for output, cost in engine.outputs.items())
    told = f" ({shares})" if config.method == "relight" else ""
    cost = f"{engine.nfe} network evaluations an image{told}, about {duration(each)}"
    log.info(f"{cost} on {engine.device}; {whole}")
    if "inpainted" in engine.outputs and config.windows != "whole" and config.data.mask_path:
        log.info(more_windows(engine))


def more_windows(engine: Engine) -> str:
    """What a plan that reads no mask cannot count."""
    size, cost, windows = engine.config.model.image_size, engine.painter.nfe, engine.config.windows
    more = f"holes that no single {size}x{size} window serves take {cost} evaluations each"
    if windows == "overlap":
        more += f", larger ones {2 * cost}, half of them of many windows"
    return f"{more} (windows: {windows})"


def seconds_per_evaluation(engine: Engine) -> float:
    """Of the network, one image at a time: timed with random weights if small, else from its arithmetic.

    Classifier guidance is left out; at 256x256 it adds a fifth.
    """
    model, device = engine.config.model, engine.device
    shape = (1, 3, model.image_size, model.image_size)
    flops = flops_per_evaluation(model, shape)
    with torch.no_grad():
        if flops > SMALL:
            return flops / (matrix_rate(device, engine.precision) * NETWORK_SHARE)
        with torch.device(device):
            fresh, x, t = build_network(model).eval(), torch.zeros(shape), torch.zeros(1)
            network = place(fresh, device, engine.precision, model.image_size)
            label = (torch.zeros(1, dtype=torch.long),) if model.class_cond else ()
        took = []
        for _ in range(6):
            begin = time.perf_counter()
            network(x, t, *label).sum().item()
            took.append(time.perf_counter() - begin)
    return sorted(took)[2]


def share_by_board(
    engine: Engine,
    pairs: list[Pair],
    folder: LogFolder,
    display: Display,
    hear: Callable[[Iterable[dict[str, Any]]], None],
) -> None:
    """Take image after image, as all ranks do; the leader hears what became of each. Files are written
    while the next images are sampled."""
    shared, leads, heard = work_queue.join(len(pairs)), distributed.is_leader(), time.monotonic()
    numbers = {pair.name: number for number, pair in enumerate(pairs)}

    def keep(result: Result | None) -> tuple[int, dict[str, Any]] | None:
        return None if result is None else (numbers[result.name], saved(result, folder))

    def tell(kept: tuple[int, dict[str, Any]] | None) -> None:
        if kept is not None:
            shared.post(*kept)
        if leads:
            hear(shared.news())

    def weigh(result: Result | None) -> int:
        return 0 if result is None else result.nbytes

    with aside(keep, tell, weigh) as write:
        for event in engine.stream((pairs[i] for i in shared.take()), folder.has, shared.share):
            if isinstance(event, Result):
                write(event)
                continue
            display.step(event)
            if leads and time.monotonic() - heard > HEARING_SECONDS:
                heard = time.monotonic()
                write(None)  # what others made while this rank is at one image
    if leads:
        hear(shared.rest())


def run(engine: Engine, pairs: list[Pair], folder: LogFolder, display: Display) -> int:
    """Sample what is not finished, save each image as it comes; returns the number that failed.

    The ranks of a run, or Ray's workers, share the images; each saves its own, one tells of all.
    """
    told: Counter[str] = Counter()

    def hear(reports: Iterable[dict[str, Any]]) -> None:
        for report in reports:
            folder.accept(report["name"], report["image"], report["shown"])
            log.log(report["level"] or display.level, report["line"])
            told.update(report["counts"])
            display.image()

    if engine.config.ray:
        hear(ray_cluster.reports(engine.config, pairs, folder.head))
    else:
        share_by_board(engine, pairs, folder, display, hear)
    if told["kept"]:
        log.info(
            f"{told['kept']} of {len(pairs)} images were finished before with these settings and are kept"
        )
    return told["failed"]


def execute(options: argparse.Namespace, command: str, logs: ExitStack) -> int:
    overrides = [*options.set, *([f"device={options.device}"] if options.device else [])]
    config = load_config(options.conf_path, overrides)
    if config.ray and distributed.is_launched():
        raise ConfigError(
            f"ray: {config.ray} shares the images by itself; start one process, without torchrun"
        )
    engine = Engine(config)
    if options.dry_run:
        engine.networks.empty()
        warn(engine)
        show_plan(engine)
        return 0
    pairs, begin = engine.pairs(), time.monotonic()
    where = engine.device, engine.precision
    head = describe_run(engine.run_fingerprint, to_mapping(config), *where, command, __version__)
    engine.networks.empty()  # the last thing that can be wrong with the settings, before anything is written
    columns = LIFTED_COLUMNS if config.method == "relight" else FILLED_COLUMNS
    leads = distributed.is_leader()
    folder = LogFolder(config.log_dir, vars(config.folders), head, columns, inputs.truths(config), leads)
    if leads:
        attach(log_file(config.log_dir), logs, logging.DEBUG)
    warn(engine)
    display = Display(len(pairs), engine.nfe, config.show_progress and leads)
    logs.callback(display.close)
    failed = run(engine, pairs, folder, display)
    display.close()
    if not leads:
        return 0
    names = [pair.name for pair in pairs]
    overview = folder.finish(names)
    if config.save_npz and overview and (warning := folder.save_npz(names)):
        log.warning(warning)
    took = duration(time.monotonic() - begin)
    log.info(f"{len(pairs) - failed} of {len(pairs)} images in {took}; see {overview or config.log_dir}")
    return 1 if failed and not distributed.would_restart() else 0


def warn(engine: Engine) -> None:
    for warning in engine.warnings:
        log.warning(warning)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    command = shlex.join(["python", "test.py", *(sys.argv[1:] if arguments is None else arguments)])
    log.setLevel(logging.DEBUG)
    keep_memory()
    share_cores()
    with ExitStack() as logs:
        attach(Screen(), logs, logging.INFO if distributed.is_leader() else logging.ERROR)
        try:
            distributed.check_launch()
            return execute(options, command, logs)
        except (ConfigError, DatasetError, CheckpointError, LaunchError) as error:
            log.error(printable(str(error)))
            return 2
        except ClusterError as error:
            log.error(f"{printable(str(error))}; finished images are kept, the same command goes on")
            return 1
        except (OSError, ImageError) as error:
            log.error(f"the log folder is not complete: {unwritten(error)}; finished images are kept")
            return 1
        except KeyboardInterrupt:
            log.error("stopped; finished images are kept, the same command goes on with the rest")
            return 130
