"""The pictures of one run shared out by Ray, for clusters that are not torchrun-shaped.

Every worker is a Ray actor with an Engine of its own. Whoever is free takes the next pictures, and an actor
that dies is started anew by Ray and goes on with what it had not finished. Pictures, weights and the log
folder lie where all machines reach them, under the same paths, as with torchrun.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from guided_diffusion import hardware
from guided_diffusion.config import Config
from guided_diffusion.construct import ConfigError
from guided_diffusion.datasets import Pair
from guided_diffusion.engine import Engine
from guided_diffusion.log_folder import LogFolder
from guided_diffusion.reports import saved
from guided_diffusion.results import Result

RESTARTS = 3  # of an actor, and of the pictures it was at when it died
_PROJECT = Path(__file__).resolve().parent.parent


class ClusterError(RuntimeError):
    """A cluster that is not there, or a worker that cannot go on; one line for the user."""


class Worker:
    """What runs on the cluster. head: of run.json; root: the folder that the run was started in."""

    def __init__(self, config: Config, head: Mapping[str, Any], root: str) -> None:
        os.chdir(root)
        hardware.keep_memory()
        self.engine = Engine(config)
        self.folder = LogFolder(config.log_dir, vars(config.folders), head, leads=False)

    def work(self, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
        """Make and save what of these pictures is not finished; a report of each."""
        events = self.engine.stream(pairs, self.folder.has)
        return [saved(event, self.folder) for event in events if isinstance(event, Result)]


def share(resources: Mapping[str, float], parts: int, device: str) -> tuple[int, dict[str, int]]:
    """How many workers there are to be for so many parts of the work, and what Ray shall give to each.

    resources: of the cluster, by Ray's names; device: the Config's. One worker a GPU; without GPUs the cores
    are dealt out, and Ray sets each worker's threads accordingly.
    """
    gpus, cpus = int(resources.get("GPU", 0)), max(1, int(resources.get("CPU", 1)))
    if gpus and device != "cpu":
        return min(parts, gpus), {"num_gpus": 1}
    workers = min(parts, cpus)
    return workers, {"num_cpus": cpus // workers}


def reports(config: Config, pairs: Sequence[Pair], head: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Have the cluster at `config.ray` make the pictures; what became of each, as it is told.

    Raises ConfigError without Ray, ClusterError for a cluster that cannot be reached or a worker that fails
    again and again.
    """
    try:
        import ray
        from ray.util import ActorPool
    except ImportError:
        raise ConfigError(f"ray: {config.ray} needs the extra `ray`: pip install -e '.[ray]'") from None
    size = hardware.batch_size(config.data.batch_size, torch.device("cpu"))
    parts = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    try:
        path = os.pathsep.join([str(_PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
        known = {"env_vars": {"PYTHONPATH": path}}
        ray.init(config.ray, runtime_env=known, logging_level="ERROR", log_to_driver=False)
        count, each = share(ray.cluster_resources(), len(parts), config.device)
        lasting = {"max_restarts": RESTARTS, "max_task_retries": RESTARTS}
        actor = ray.remote(Worker).options(**each, **lasting)
        workers = [actor.remote(config, head, os.getcwd()) for _ in range(count)]
        for made in ActorPool(workers).map_unordered(lambda worker, part: worker.work.remote(part), parts):
            yield from made
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
        last = str(error).strip().splitlines()[-1]
        raise ClusterError(f"ray {config.ray}: {last}") from None
    finally:
        ray.shutdown()
