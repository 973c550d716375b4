"""Run the images of one config on a Ray cluster, for machines that torchrun does not suit.

Every worker is a Ray actor with its own Engine. A free worker gets the next chunk of images. Ray restarts an
actor that dies, and the actor continues with the images it had not finished. As with torchrun, all machines
reach the images, the weights and the log folder under the same paths.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from guided_diffusion.config.schema import Config
from guided_diffusion.engine import Engine
from guided_diffusion.errors import ClusterError, ConfigError
from guided_diffusion.images.pairs import Pair
from guided_diffusion.output.log_folder import LogFolder
from guided_diffusion.output.reports import save_and_report
from guided_diffusion.output.results import Result
from guided_diffusion.runtime import distributed, memory
from guided_diffusion.runtime.device import batch_size
from guided_diffusion.runtime.processes import import_path

RESTARTS = 3  # of an actor, and retries of the chunk it computed when it died
START_TIMEOUT = 300.0  # seconds until the first worker has started; machines may have to be started for it


class Worker:
    """The Ray actor: computes and saves chunks of images."""

    def __init__(self, config: Config, head: Mapping[str, Any], root: str) -> None:
        """Build the engine.

        Args:
            config: Config of the run.
            head: Head of the run.json that the leader writes.
            root: Folder that the run was started in.
        """
        os.chdir(root)
        memory.tune_malloc()
        self.engine = Engine(config)
        self.folder = LogFolder(
            config.log_dir, vars(config.paths), head, self.engine.task.OUTPUTS, leads=False
        )

    def work(self, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
        """Compute and save the images that are not finished; return a report on each."""
        events = self.engine.stream(pairs, self.folder.has)
        return [save_and_report(event, self.folder) for event in events if isinstance(event, Result)]


def plan_workers(
    nodes: Sequence[Mapping[str, float]], chunks: int, device: str
) -> tuple[int, dict[str, int]]:
    """Return the number of workers, and the resources that Ray gives to each.

    There is one worker for each GPU. Without GPUs the cores are divided equally, so that every worker fits on
    one machine; Ray sets the threads of a worker accordingly.

    Args:
        nodes: Resources of each machine, by Ray's names.
        chunks: Largest useful number of workers.
        device: The config's `device`.
    """
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if gpus and device != "cpu":
        return min(chunks, gpus), {"num_gpus": 1}
    cores = [int(node.get("CPU", 0)) for node in nodes]
    workers = min(chunks, max(1, sum(cores)))
    threads = max(1, sum(cores) // workers)
    while threads > 1 and sum(count // threads for count in cores) < workers:
        threads -= 1
    return workers, {"num_cpus": threads}


def split_chunks(pairs: Sequence[Pair], workers: int, max_size: int) -> list[Sequence[Pair]]:
    """Split the images into chunks of up to `max_size`, small enough for two chunks a worker if possible."""
    size = min(max_size, distributed.max_claim_size(len(pairs), workers) or max_size)
    return [pairs[i : i + size] for i in range(0, len(pairs), size)]


def dispatch(ray: Any, workers: Sequence[Any], chunks: Sequence[Sequence[Pair]]) -> Iterator[dict[str, Any]]:
    """Yield the reports on all images; each worker gets a chunk whenever it is free.

    A worker that Ray cannot start yet gets nothing.

    Raises:
        TimeoutError: No worker started within START_TIMEOUT.
    """
    queue, remaining = deque(chunks), len(chunks)
    busy = {worker.work.remote([]): worker for worker in workers}
    timeout: float | None = START_TIMEOUT
    while remaining:
        done, _ = ray.wait([*busy], timeout=timeout)
        if not done:
            raise TimeoutError(f"no worker started within {START_TIMEOUT:.0f} s; is the cluster busy?")
        timeout = None
        worker = busy.pop(done[0])
        reports = ray.get(done[0])
        remaining -= bool(reports)  # an empty answer only says that the worker has started
        if queue:
            busy[worker.work.remote(queue.popleft())] = worker
        yield from reports


def run_on_cluster(
    config: Config, pairs: Sequence[Pair], head: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Compute the images on the cluster at `config.ray`; yield a report on each.

    Raises:
        ConfigError: Ray is not installed.
        ClusterError: The cluster cannot be reached, has no room for a worker, or a worker fails repeatedly.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError(f"ray: {config.ray} needs the extra `ray`: pip install 'penumbra[ray]'") from None
    try:
        environment = {"env_vars": {"PYTHONPATH": import_path()}}
        ray.init(config.ray, runtime_env=environment, logging_level=logging.ERROR, log_to_driver=False)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        count, resources = plan_workers(nodes, len(pairs), config.device)
        kind = torch.device("cuda" if "num_gpus" in resources else "cpu")
        max_size = batch_size(config.data.batch_size, kind, config.model.image_size)
        chunks = split_chunks(pairs, count, max_size)
        retries = {"max_restarts": RESTARTS, "max_task_retries": RESTARTS}
        actor = ray.remote(Worker).options(**resources, **retries)
        workers = [actor.remote(config, head, os.getcwd()) for _ in range(count)]
        yield from dispatch(ray, workers, chunks)
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        last = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise ClusterError(f"ray {config.ray}: {last}") from None
    finally:
        ray.shutdown()
