"""Fill the pictures of one YAML: `python test.py --conf_path confs/shadow.yml`.

Exit 0: every picture is done; 1: some failed (each is named with its reason); 2: the configuration is wrong.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from guided_diffusion.assembly import flops_per_evaluation, matrix_rate
from guided_diffusion.checkpoints import CheckpointError
from guided_diffusion.config import Config, to_mapping
from guided_diffusion.construct import ConfigError
from guided_diffusion.datasets import DatasetError, Pair
from guided_diffusion.engine import Engine, Progress, load_config
from guided_diffusion.results import LogFolder, Result

log = logging.getLogger("penumbra")
NETWORK_SHARE = 0.55  # of the device's matrix rate that the network reaches in practice; only for estimates


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fill the pictures of one YAML.")
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


def start_log(config: Config) -> None:
    """Log to the screen, through the bars, and to run.log in the log folder."""
    Path(config.log_dir).mkdir(parents=True, exist_ok=True)
    to_file = logging.FileHandler(Path(config.log_dir, "run.log"), encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(to_file)


class ThroughBars(logging.StreamHandler):
    """Prints log lines above the progress bars instead of through them."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(f"{'' if record.levelno == logging.INFO else record.levelname.lower() + ': '}{record.msg}")


def show_plan(engine: Engine) -> None:
    """--dry_run: pictures, evaluations, estimated time, missing files."""
    pairs: list[Pair] = []
    try:
        pairs = engine.pairs()
    except DatasetError as error:
        log.info(f"missing: {error}")
    for path in engine.missing_files():
        log.info(f"missing: {path} (run download.sh, or set the path in the YAML)")
    size = engine.config.model.image_size
    seconds = flops_per_evaluation(engine.config.model, (1, 3, size, size)) / (
        matrix_rate(engine.device) * NETWORK_SHARE
    )
    each = seconds * engine.evaluations
    log.info(
        f"{len(pairs)} pictures, {engine.evaluations} network evaluations each, on {engine.device}: "
        f"about {duration(each)} a picture, {duration(each * len(pairs))} in all"
    )
    for pair in pairs:
        log.info(f"  {pair.name}")


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def run(engine: Engine, pairs: list[Pair], folder: LogFolder) -> int:
    """Sample what is not finished, save each picture as it comes; returns the number that failed."""
    config, failed = engine.config, 0
    command = shlex.join(["python", *sys.argv])
    quiet = not config.show_progress
    with (
        tqdm(total=len(pairs), desc="pictures", unit="picture", disable=quiet) as pictures,
        tqdm(total=engine.evaluations, desc="steps", unit="step", leave=False, disable=quiet) as steps,
    ):
        for event in engine.stream(pairs, folder.has):
            if isinstance(event, Progress):
                if event.step == 1:
                    steps.reset()
                steps.update()
                continue
            folder.save(event)
            folder.write_run(to_mapping(config), engine.device, engine.precision, command)
            failed += bool(event.error)
            tell(event)
            pictures.update()
    return failed


def tell(result: Result) -> None:
    if result.error:
        log.error(f"{result.name} failed: {result.error}")
    elif result.note:
        log.info(f"{result.name}: {result.note}")
    elif result.reused:
        log.info(f"{result.name}: already finished with these settings, kept")


def main(arguments: Sequence[str] | None = None) -> int:
    log.setLevel(logging.INFO)
    log.addHandler(ThroughBars())
    options = parse(arguments)
    overrides = [*options.set, *([f"device={options.device}"] if options.device else [])]
    try:
        config = load_config(options.conf_path, overrides)
        engine = Engine(config)
        for warning in engine.warnings:
            log.warning(warning)
        if options.dry_run:
            show_plan(engine)
            return 0
        pairs = engine.pairs()
        folder = LogFolder(config.log_dir, vars(config.folders), engine.fingerprint)
    except (ConfigError, DatasetError, CheckpointError) as error:
        log.error(str(error))
        return 2
    start_log(config)
    begin = time.monotonic()
    try:
        failed = run(engine, pairs, folder)
    except CheckpointError as error:
        log.error(str(error))
        return 2
    except KeyboardInterrupt:
        log.error("stopped; finished pictures are kept, the same command goes on with the rest")
        return 130
    overview = folder.write_overview([pair.name for pair in pairs])
    took = duration(time.monotonic() - begin)
    log.info(f"{len(pairs) - failed} of {len(pairs)} pictures in {took}; see {overview}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
