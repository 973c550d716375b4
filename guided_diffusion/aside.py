"""Work beside the main thread: files are read before they are wanted and written while the next are made."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")

MOST = 2  # items that wait to be worked on


@contextmanager
def aside(work: Callable[[Item], None]) -> Iterator[Callable[[Item], None]]:
    """Gives a function that has `work` done on an item by one other thread, item after item.

    It waits where MOST items are not done yet, and at the end for all of them. What `work` raises is raised
    by a later call, or at the end.
    """
    waiting: deque[Future[None]] = deque()

    def hand_over(item: Item) -> None:
        while waiting and (len(waiting) >= MOST or waiting[0].done()):
            waiting.popleft().result()
        waiting.append(worker.submit(work, item))

    with ThreadPoolExecutor(1) as worker:
        yield hand_over
        for future in waiting:
            future.result()


def ahead(
    work: Callable[[Item], Answer], items: Iterable[Item], most: int
) -> Iterator[tuple[Item, Callable[[], Answer]]]:
    """Each item, and a function that returns (or raises) what `work` made of it.

    One other thread does the work, for up to `most` items ahead.
    """
    waiting: deque[tuple[Item, Future[Answer]]] = deque()
    with ThreadPoolExecutor(1) as worker:
        for item in items:
            waiting.append((item, worker.submit(work, item)))
            if len(waiting) > most:
                first, future = waiting.popleft()
                yield first, future.result
        for first, future in waiting:
            yield first, future.result
