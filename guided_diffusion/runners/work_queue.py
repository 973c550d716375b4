"""The work queue that the ranks of one run share: which image is next, and the report on each.

Images are claimed one by one, so that a slow rank gets fewer. The queue lives in torchrun's store, which runs
in torchrun's agent and outlives any rank. One process without torchrun has a queue of its own. No rank waits
for another before it works, and none needs a process group.

After torchrun has restarted the ranks, on all machines, the store still holds all claims. (Restart counters
do not help: each machine counts its own, and not those for a machine that came or went.) Image i belongs to
rank `claimer(i) % number of ranks`. The new process of that rank computes the images that were claimed and
not reported.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist

from guided_diffusion.runtime import distributed

_POLL_SECONDS = 0.2  # between two polls of `drain`


class WorkQueue:
    """Images 0..total - 1, of which each is claimed by one rank and reported by it."""

    def __init__(self, total: int, store: dist.Store, rank: int = 0, ranks: int = 1) -> None:
        """Attach to the queue in a store.

        Args:
            total: Number of images of the run.
            store: Key-value store that all ranks share.
            rank: Number of this process, 0..ranks - 1.
            ranks: Number of processes.
        """
        self.total, self.store, self.rank, self.ranks = total, store, rank, ranks
        self.claimed = 0  # images below this number are known to be claimed
        self.unreported: list[int] = []  # claimed images that had no report at the last poll

    @property
    def max_claim_size(self) -> int | None:
        """The largest number of images that a rank may claim together; None: no limit."""
        return distributed.max_claim_size(self.total, self.ranks)

    def claim(self) -> Iterator[int]:
        """Yield images for this rank: newly claimed ones, and those it claimed before it was restarted."""
        for number in range(self.total):
            claimer = int(self.store.compare_set(f"claimer {number}", "", str(self.rank)))
            if claimer % self.ranks == self.rank and not self.store.check([f"report {number}"]):
                yield number

    def report(self, number: int, report: Any) -> None:
        """Publish the report on an image: plain values, as JSON has them."""
        self.store.set(f"report {number}", json.dumps(report))

    def poll(self) -> Iterator[Any]:
        """Yield the reports of all ranks since the last poll."""
        while self.claimed < self.total and self.store.check([f"claimer {self.claimed}"]):  # claimed in order
            self.unreported.append(self.claimed)
            self.claimed += 1
        ready = [number for number in self.unreported if self.store.check([f"report {number}"])]
        self.unreported = sorted({*self.unreported} - {*ready})
        for number in ready:
            yield json.loads(self.store.get(f"report {number}"))

    def drain(self) -> Iterator[Any]:
        """Yield all remaining reports as they come; wait until every image has one."""
        yield from self.poll()
        while self.claimed < self.total or self.unreported:
            time.sleep(_POLL_SECONDS)
            yield from self.poll()


def join(total: int) -> WorkQueue:
    """Return the work queue of this run, which has `total` images."""
    if not distributed.is_launched():
        return WorkQueue(total, dist.HashStore())
    store, rank, ranks = next(dist.rendezvous("env://"))
    return WorkQueue(total, store, rank, ranks)
