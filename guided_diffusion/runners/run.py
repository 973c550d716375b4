"""One run over many images: this process alone, the ranks of torchrun, or the workers of a Ray cluster."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from guided_diffusion.engine import Engine
from guided_diffusion.images.pairs import Pair
from guided_diffusion.output.log_folder import LogFolder
from guided_diffusion.output.reports import save_and_report
from guided_diffusion.output.results import Result
from guided_diffusion.runners import ray_cluster, work_queue
from guided_diffusion.runners.display import Display
from guided_diffusion.runtime import distributed
from guided_diffusion.runtime.background import background_map

log = logging.getLogger("penumbra")
POLL_SECONDS = 1.0  # how often the leader asks for the other ranks' reports

Report = dict[str, Any]


def run_images(engine: Engine, pairs: list[Pair], folder: LogFolder, display: Display) -> int:
    """Compute what is not finished, and save each image when it is done; returns the number that failed.

    The ranks of a run, or Ray's workers, share the images; each saves its own, the leader logs all.
    """
    counts: Counter[str] = Counter()

    def accept(reports: Iterable[Report]) -> None:
        for report in reports:
            folder.accept(report["name"], report["image"], report["shown"])
            log.log(report["level"] or display.level, report["line"])
            counts.update(report["counts"])
            display.image()

    if engine.config.ray:
        accept(ray_cluster.run_on_cluster(engine.config, pairs, folder.head))
    else:
        run_queue(engine, pairs, folder, display, accept)
    if counts["reused"]:
        log.info(
            f"{counts['reused']} of {len(pairs)} images were finished before with these settings and are kept"
        )
    return counts["failed"]


def run_queue(
    engine: Engine,
    pairs: list[Pair],
    folder: LogFolder,
    display: Display,
    accept: Callable[[Iterable[Report]], None],
) -> None:
    """Claim image after image from the work queue, as all ranks do; the leader accepts all reports.

    Files are written while the next images are sampled.
    """
    queue, leads, last_poll = work_queue.join(len(pairs)), distributed.is_leader(), time.monotonic()
    numbers = {pair.name: number for number, pair in enumerate(pairs)}

    def save(result: Result | None) -> tuple[int, Report] | None:
        return None if result is None else (numbers[result.name], save_and_report(result, folder))

    def report(saved: tuple[int, Report] | None) -> None:
        if saved is not None:
            queue.report(*saved)
        if leads:
            accept(queue.poll())

    def nbytes(result: Result | None) -> int:
        return 0 if result is None else result.nbytes

    with background_map(save, report, nbytes) as write:
        for event in engine.stream((pairs[i] for i in queue.claim()), folder.has, queue.max_claim_size):
            if isinstance(event, Result):
                write(event)
                continue
            display.step(event)
            if leads and time.monotonic() - last_poll > POLL_SECONDS:
                last_poll = time.monotonic()
                write(None)  # the reports of other ranks, while this one is at a long image
    if leads:
        accept(queue.drain())
