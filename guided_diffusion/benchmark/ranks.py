"""Runs of the command over a folder of synthetic images: by one process, or by several ranks of torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from guided_diffusion.benchmark.harness import EngineUnavailable, interleaved
from guided_diffusion.config.schema import ModelConfig
from guided_diffusion.runtime.processes import import_path

STEPS = 25  # network function evaluations for each image
COMMAND = "guided_diffusion.cli"


def run_command(command: list[str], folder: Path, variables: Mapping[str, str]) -> str:
    """Run a command in a folder; return its stderr if it failed, else ''."""
    environment = {**os.environ, **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""


@dataclass
class Runs:
    """Runs that inpaint the same images with the same weights, each into its own log folder."""

    folder: Path
    """Folder of the images, the YAML and the logs."""
    model: ModelConfig
    """Architecture of the network."""
    weights: str
    """Path of the network's weights."""
    device: str
    """The config's `device`: cpu or cuda."""
    names: list[str] = field(default_factory=list)
    """Names of the runs so far."""

    def write_inputs(self, images: int) -> None:
        """Write that many images, a mask for each, and the YAML."""
        rng, side = np.random.default_rng(0), self.model.image_size
        keep = np.full((side, side), 255, np.uint8)
        keep[side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 0
        for i in range(images):
            for kind, array in (("gts", rng.integers(0, 256, (side, side, 3), np.uint8)), ("masks", keep)):
                (self.folder / kind).mkdir(exist_ok=True)
                Image.fromarray(array).save(self.folder / kind / f"{i:03d}.png")
        data = {"gt_path": "gts", "mask_path": "masks", "batch_size": 1}
        schedule = {"timestep_respacing": str(STEPS), "schedule_jump_params": {"jump_n_sample": 1}}
        settings: dict[str, Any] = {**asdict(self.model), **schedule, "data": data, "device": self.device}
        settings |= {"model_path": self.weights, "compile": False, "show_progress": False}
        (self.folder / "conf.yml").write_text(yaml.safe_dump({"name": "run", **settings}))

    def seconds(self, ranks: int, cores: int) -> float:
        """Return the seconds that the images take, without the time of starting the program.

        The same command is run again: nothing is left to do, so that its time is that of starting.

        Args:
            ranks: Ranks of torchrun, one thread each; 0: one process without torchrun.
            cores: Cores that they may use together.

        Raises:
            EngineUnavailable: A run failed.
        """
        self.names.append(f"run{len(self.names)}")
        with limit_cores(cores):
            first, again = self._timed_run(ranks), self._timed_run(ranks)
        return max(first - again, 1e-9)

    def _timed_run(self, ranks: int) -> float:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        program = ["-m", COMMAND, "--conf_path", "conf.yml", "--set", f"name={self.names[-1]}"]
        command = [sys.executable, *(torchrun if ranks else []), *program]
        variables = {"PYTHONPATH": import_path(), "OMP_NUM_THREADS": "1"}
        begin = time.monotonic()
        error = run_command(command, self.folder, variables)
        if error:
            launch = f"{ranks} ranks" if ranks else "one process"
            raise EngineUnavailable(f"a run with {launch} does not work here: {error.splitlines()[-1]}")
        return time.monotonic() - begin

    def images(self) -> dict[str, bytes]:
        """Return file name -> bytes of the images that the last run saved."""
        paths = (self.folder / "log" / self.names[-1] / "inpainted").iterdir()
        return {path.name: path.read_bytes() for path in paths}


def compare(runs: Runs, images: int, counts: Sequence[int], available: int) -> list[list[object]]:
    """Return a table row for one process without torchrun, and for each number of ranks.

    The columns are: ranks, cores (or GPUs) used, minimum seconds of two rounds, images a second, the rate of
    each core relative to the first row, and whether the images are byte-equal to those of the first row.

    Args:
        runs: The runs to measure.
        images: Number of images of each run.
        counts: Numbers of ranks.
        available: Cores (or GPUs) of this machine.
    """
    runs.write_inputs(images)
    cores_of = {ranks: min(max(ranks, 1), available) for ranks in (0, *counts)}
    saved: dict[int, dict[str, bytes]] = {}

    def measure(ranks: int) -> float:
        seconds = runs.seconds(ranks, cores_of[ranks])
        saved[ranks] = runs.images()
        return seconds

    best = [times.best for times in interleaved([partial(measure, ranks) for ranks in cores_of], rounds=2)]
    return [
        [
            ranks or "no torchrun",
            cores,
            f"{seconds:.1f}",
            f"{images / seconds:.2f}",
            f"{best[0] / seconds / cores:.0%}",
            "yes" if saved[ranks] == saved[0] else "no",
        ]
        for (ranks, cores), seconds in zip(cores_of.items(), best, strict=True)
    ]


@contextmanager
def limit_cores(cores: int) -> Iterator[None]:
    """Let processes that are started inside use at most this many cores; on Linux only."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
