"""The images of one run shared out by Ray, for clusters that are not torchrun-shaped.

Every worker is a Ray actor with an Engine of its own. Whoever is free takes the next images, and an actor
that dies is started anew by Ray and goes on with what it had not finished. Images, weights and the log
folder lie where all machines reach them, under the same paths, as with torchrun.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from guided_diffusion.config.schema import Config
from guided_diffusion.engine import Engine
from guided_diffusion.errors import ClusterError, ConfigError
from guided_diffusion.images.pairs import Pair
from guided_diffusion.output.log_folder import LogFolder
from guided_diffusion.output.reports import saved
from guided_diffusion.output.results import Result
from guided_diffusion.runtime import distributed, hardware

RESTARTS = 3  # of an actor, and of the images it was at when it died
PATIENCE = 300.0  # seconds until the first worker has begun; machines may have to be started for it
_PROJECT = Path(__file__).resolve().parents[2]


class Worker:
    """What runs on the cluster. head: of run.json; root: the folder that the run was started in."""

    def __init__(self, config: Config, head: Mapping[str, Any], root: str) -> None:
        os.chdir(root)
        hardware.keep_memory()
        self.engine = Engine(config)
        self.folder = LogFolder(config.log_dir, vars(config.folders), head, leads=False)

    def work(self, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
        """Make and save what of these images is not finished; a report of each."""
        events = self.engine.stream(pairs, self.folder.has)
        return [saved(event, self.folder) for event in events if isinstance(event, Result)]


def share(nodes: Sequence[Mapping[str, float]], parts: int, device: str) -> tuple[int, dict[str, int]]:
    """How many workers there are to be for so many parts of the work, and what Ray shall give to each.

    nodes: what each machine has, by Ray's names; device: the Config's. One worker a GPU; without GPUs the
    cores are dealt out, as many to each worker as the machines hold of such workers, and Ray sets each
    worker's threads accordingly.
    """
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if gpus and device != "cpu":
        return min(parts, gpus), {"num_gpus": 1}
    cores = [int(node.get("CPU", 0)) for node in nodes]
    workers = min(parts, max(1, sum(cores)))
    threads = max(1, sum(cores) // workers)
    while threads > 1 and sum(each // threads for each in cores) < workers:
        threads -= 1
    return workers, {"num_cpus": threads}


def cut(pairs: Sequence[Pair], workers: int, most: int) -> list[Sequence[Pair]]:
    """Parts of the work, of up to so many images; two for each of several workers, if there are as many."""
    size = min(most, distributed.share(len(pairs), workers) or most)
    return [pairs[i : i + size] for i in range(0, len(pairs), size)]


def dealt(ray: Any, workers: Sequence[Any], parts: Sequence[Sequence[Pair]]) -> Iterator[dict[str, Any]]:
    """What becomes of the images: a worker is given a part once it has begun, and the next when it is free.

    Nothing is given to one that Ray has no place for yet. Raises TimeoutError if it finds none for any.
    """
    todo, left = deque(parts), len(parts)
    busy = {worker.work.remote([]): worker for worker in workers}
    patience: float | None = PATIENCE
    while left:
        done, _ = ray.wait([*busy], timeout=patience)
        if not done:
            raise TimeoutError(f"no worker was given a place within {PATIENCE:.0f} s; is the cluster busy?")
        patience = None
        worker = busy.pop(done[0])
        made = ray.get(done[0])
        left -= bool(made)  # nothing was made where it only began
        if todo:
            busy[worker.work.remote(todo.popleft())] = worker
        yield from made


def reports(config: Config, pairs: Sequence[Pair], head: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Have the cluster at `config.ray` make the images; what became of each, as it is told.

    Raises ConfigError without Ray, ClusterError for a cluster that cannot be reached, that has no place for a
    worker, or a worker that fails again and again.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError(f"ray: {config.ray} needs the extra `ray`: pip install -e '.[ray]'") from None
    try:
        path = os.pathsep.join([str(_PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
        known = {"env_vars": {"PYTHONPATH": path}}
        ray.init(config.ray, runtime_env=known, logging_level="ERROR", log_to_driver=False)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        count, each = share(nodes, len(pairs), config.device)
        side = config.model.image_size
        device = torch.device("cuda" if "num_gpus" in each else "cpu")
        parts = cut(pairs, count, hardware.batch_size(config.data.batch_size, device, side))
        lasting = {"max_restarts": RESTARTS, "max_task_retries": RESTARTS}
        actor = ray.remote(Worker).options(**each, **lasting)
        workers = [actor.remote(config, head, os.getcwd()) for _ in range(count)]
        yield from dealt(ray, workers, parts)
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        last = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise ClusterError(f"ray {config.ray}: {last}") from None
    finally:
        ray.shutdown()
