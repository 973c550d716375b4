"""The board that the ranks of one run share: which image is next, and what became of each.

Images are taken one by one, so that a slow rank takes fewer. The board is torchrun's own store; it lives in
torchrun's agent and outlasts any rank. One process without torchrun has a board to itself. No rank waits for
another before it works, and none needs a process group.

When torchrun starts its ranks anew, all of the earlier ones have ended, on every machine; nothing else about
it is known to all (each machine counts its own restarts, none those for a machine that came or went). So the
board stays as it is, and every image has one rank that is to make it: the one that bears the number of its
taker, modulo the number of ranks. What a rank took and did not report, its successor makes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist

from guided_diffusion.runtime import distributed

_PAUSE = 0.2  # seconds between two looks at the board


class Board:
    """total: how many images there are, numbered 0..total - 1; rank: of this process, 0..ranks - 1."""

    def __init__(self, total: int, store: dist.Store, rank: int = 0, ranks: int = 1) -> None:
        self.total, self.store, self.rank, self.ranks = total, store, rank, ranks
        self.taken = 0  # images below this number are known to be taken
        self.unheard: list[int] = []  # of these, those without a report at the last look

    @property
    def share(self) -> int | None:
        """The most images that a rank is to take together."""
        return distributed.share(self.total, self.ranks)

    def take(self) -> Iterator[int]:
        """Numbers that are for this rank to make, until there are none: what it takes, or took before it was
        started anew."""
        for number in range(self.total):
            taker = int(self.store.compare_set(f"taker {number}", "", str(self.rank)))
            if taker % self.ranks == self.rank and not self.store.check([f"report {number}"]):
                yield number

    def post(self, number: int, report: Any) -> None:
        """Put up what became of an image: plain values."""
        self.store.set(f"report {number}", json.dumps(report))

    def news(self) -> Iterator[Any]:
        """What was put up since the last look."""
        while self.taken < self.total and self.store.check([f"taker {self.taken}"]):  # in their order, by all
            self.unheard.append(self.taken)
            self.taken += 1
        told = [number for number in self.unheard if self.store.check([f"report {number}"])]
        self.unheard = sorted({*self.unheard} - {*told})
        for number in told:
            yield json.loads(self.store.get(f"report {number}"))

    def rest(self) -> Iterator[Any]:
        """All that is still to be put up, as it comes."""
        yield from self.news()
        while self.taken < self.total or self.unheard:
            time.sleep(_PAUSE)
            yield from self.news()


def join(total: int) -> Board:
    """The board of this run."""
    if not distributed.is_launched():
        return Board(total, dist.HashStore())
    store, rank, ranks = next(dist.rendezvous("env://"))
    return Board(total, store, rank, ranks)
