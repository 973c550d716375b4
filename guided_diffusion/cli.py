"""The command `penumbra`, also `python test.py`: run one YAML, or remove the shadows of images.

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
from collections.abc import Sequence
from contextlib import ExitStack

from guided_diffusion import __version__
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
from guided_diffusion.output.log_folder import LogFolder
from guided_diffusion.output.reports import format_duration, write_error
from guided_diffusion.output.results import describe_run, one_line
from guided_diffusion.runners.arguments import expand, parse, program
from guided_diffusion.runners.display import Display, ScreenHandler, attach, file_handler
from guided_diffusion.runners.plan import show_plan
from guided_diffusion.runners.run import run_images
from guided_diffusion.runtime import distributed
from guided_diffusion.runtime.device import split_cores_among_ranks
from guided_diffusion.runtime.memory import tune_malloc

log = logging.getLogger("penumbra")
CONTINUE = "finished images are kept; run the same command again to continue"


def execute(options: argparse.Namespace, command: str, logs: ExitStack) -> int:
    """Run the images of a config, or print the plan; returns the exit status.

    Args:
        options: from `arguments.expand`.
        command: the command line, for run.json.
        logs: closes the handlers of the log when it is left.
    """
    overrides = [*options.set, *([f"device={options.device}"] if options.device else [])]
    config = load_config(options.conf_path, overrides)
    if config.ray and distributed.is_launched():
        raise ConfigError(
            f"ray: {config.ray} shares the images by itself; start one process, without torchrun"
        )
    engine = Engine(config)
    if options.dry_run:
        engine.models.build_on_meta()
        warn(engine)
        show_plan(engine)
        return 0
    pairs, begin = engine.pairs(), time.monotonic()
    head = describe_run(
        fingerprint=engine.run_fingerprint,
        config=to_mapping(config),
        device=engine.device,
        precision=engine.precision,
        command=command,
        version=__version__,
    )
    engine.models.build_on_meta()  # the last thing that can be wrong with the settings, before any write
    leads = distributed.is_leader()
    ground_truths = inputs.find_ground_truths(config)
    folder = LogFolder(config.log_dir, vars(config.paths), head, engine.task.OUTPUTS, ground_truths, leads)
    if leads:
        attach(file_handler(config.log_dir), logs, logging.DEBUG)
    warn(engine)
    display = Display(len(pairs), engine.nfe, config.show_progress and leads)
    logs.callback(display.close)
    failed = run_images(engine, pairs, folder, display)
    display.close()
    if not leads:
        return 0
    names = [pair.name for pair in pairs]
    overview = folder.finish(names)
    if config.save_npz and overview and (warning := folder.save_npz(names)):
        log.warning(warning)
    took = format_duration(time.monotonic() - begin)
    log.info(f"{len(pairs) - failed} of {len(pairs)} images in {took}; see {overview or config.log_dir}")
    return 1 if failed and not distributed.would_restart() else 0


def warn(engine: Engine) -> None:
    """Log what is doubtful about the settings."""
    for warning in engine.warnings:
        log.warning(warning)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = parse(arguments)
    command = shlex.join([*program(), *(sys.argv[1:] if arguments is None else arguments)])
    log.setLevel(logging.DEBUG)
    tune_malloc()
    split_cores_among_ranks()
    with ExitStack() as logs:
        attach(ScreenHandler(), logs, logging.INFO if distributed.is_leader() else logging.ERROR)
        try:
            distributed.check_launch()
            return execute(expand(options), command, logs)
        except (ConfigError, DatasetError, CheckpointError, LaunchError) as error:
            log.error(one_line(str(error)))
            return 2
        except ClusterError as error:
            log.error(f"{one_line(str(error))}; {CONTINUE}")
            return 1
        except (OSError, ImageError) as error:
            log.error(f"the log folder is not complete: {write_error(error)}; finished images are kept")
            return 1
        except KeyboardInterrupt:
            log.error(f"stopped; {CONTINUE}")
            return 130


if __name__ == "__main__":
    sys.exit(main())
