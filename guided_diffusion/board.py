"""The board that the ranks of one run share: which picture is next, and what became of each.

Pictures are taken one by one, so that a slow rank takes fewer. The board is torchrun's own store; it lives in
torchrun's agent and outlasts any rank. One process without torchrun has a board to itself. No rank waits for
another before it works, and none needs a process group.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist

from guided_diffusion import distributed

_PAUSE = 0.2  # seconds between two looks at the board


class Board:
    """total: how many pictures there are; they are numbered 0..total - 1."""

    def __init__(self, total: int) -> None:
        self.total, self.read = total, 0
        self.store: dist.Store = dist.HashStore()
        if distributed.is_launched():
            store, _, _ = next(dist.rendezvous("env://"))
            # After torchrun has started its ranks anew, what the board says of those before is stale.
            self.store = dist.PrefixStore(f"run {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)

    def take(self) -> Iterator[int]:
        """Numbers that no rank has taken yet, until there are none."""
        while (number := self.store.add("taken", 1) - 1) < self.total:
            yield number

    def post(self, report: Any) -> None:
        """Put up what became of a picture: plain values."""
        self.store.set(f"report {self.store.add('begun', 1) - 1}", json.dumps(report))

    def news(self) -> Iterator[Any]:
        """What was put up since the last look."""
        while self.read < self.total and self.store.check([key := f"report {self.read}"]):
            self.read += 1
            yield json.loads(self.store.get(key))

    def rest(self) -> Iterator[Any]:
        """All that is still to be put up, as it comes."""
        yield from self.news()
        while self.read < self.total:
            time.sleep(_PAUSE)
            yield from self.news()
