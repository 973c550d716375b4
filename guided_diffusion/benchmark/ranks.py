"""Runs of test.py over a folder of made-up images: by one process, or by several ranks under torchrun."""

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

from guided_diffusion.benchmark.harness import ROOT, Absent, in_turn
from guided_diffusion.config.schema import ModelConfig

STEPS = 25  # evaluations of the network for each image


def call(command: list[str], folder: Path, variables: Mapping[str, str]) -> str:
    """Run a command in a folder; what it said to stderr if it failed, else ''."""
    environment = {**os.environ, **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""


@dataclass
class Runs:
    """Runs that fill the same images with the same weights, each into a log folder of its own.

    folder: where all of it lies; names: of the runs so far.
    """

    folder: Path
    model: ModelConfig
    weights: str
    device: str
    names: list[str] = field(default_factory=list)

    def lay_out(self, images: int) -> None:
        """Write the images, a mask each, and the YAML."""
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
        """What the images take so many ranks on so many cores, a thread each; 0 ranks: without torchrun.

        The same command again has nothing left to do: what that takes, starting, is no part of it. Raises
        Absent if a run fails.
        """
        self.names.append(f"run{len(self.names)}")
        with only(cores):
            first, again = self._timed(ranks), self._timed(ranks)
        return max(first - again, 1e-9)

    def _timed(self, ranks: int) -> float:
        under = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks else []
        told = ["--conf_path", "conf.yml", "--set", f"name={self.names[-1]}"]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        begin = time.monotonic()
        command = [sys.executable, *under, str(ROOT / "test.py"), *told]
        wrong = call(command, self.folder, {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"})
        if wrong:
            under_what = f"{ranks} ranks" if ranks else "one process"
            raise Absent(f"test.py by {under_what} does not run here: {wrong.splitlines()[-1]}")
        return time.monotonic() - begin

    def images(self) -> dict[str, bytes]:
        """What the last run made."""
        made = (self.folder / "log" / self.names[-1] / "inpainted").iterdir()
        return {path.name: path.read_bytes() for path in made}


def compare(runs: Runs, images: int, counts: Sequence[int], here: int) -> list[list[object]]:
    """A row for one process without torchrun, and for each of these numbers of ranks: it, the cores (or GPUs)
    it has of those here, the least seconds of two rounds, images a second, how much of the first row's rate
    each core has, and whether the images are the first row's to the byte."""
    runs.lay_out(images)
    given = {ranks: min(max(ranks, 1), here) for ranks in (0, *counts)}
    made: dict[int, dict[str, bytes]] = {}

    def measure(ranks: int) -> float:
        seconds = runs.seconds(ranks, given[ranks])
        made[ranks] = runs.images()
        return seconds

    best = [taken.best for taken in in_turn([partial(measure, ranks) for ranks in given], rounds=2)]
    return [
        [
            *(ranks or "no torchrun", cores, f"{seconds:.1f}", f"{images / seconds:.2f}"),
            *(f"{best[0] / seconds / cores:.0%}", "yes" if made[ranks] == made[0] else "no"),
        ]
        for (ranks, cores), seconds in zip(given.items(), best, strict=True)
    ]


@contextmanager
def only(cores: int) -> Iterator[None]:
    """What is started here has no more than so many cores."""
    if not hasattr(os, "sched_setaffinity"):  # not Linux
        yield
        return
    all_of_them = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(all_of_them)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_of_them)
