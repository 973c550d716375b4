"""Work beside the main thread: files are read before they are wanted and written while the next are made."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")

WRITERS = 4  # threads; to compress a PNG needs no interpreter
AT_HAND = 1 << 30  # bytes, about, of what waits to be written, and of what was read and waits


@contextmanager
def aside(
    work: Callable[[Item], Answer], tell: Callable[[Answer], None], weigh: Callable[[Item], int]
) -> Iterator[Callable[[Item], None]]:
    """Gives a function that has `work` done on an item by one of several other threads, and what came of it
    told by one, in the order of the items.

    weigh: bytes of an item. It waits where more than AT_HAND of them wait, and at the end for all. What
    `work` or `tell` raises is raised by a later call, or at the end.
    """
    waiting: deque[tuple[int, Future[None]]] = deque()

    def hand_over(item: Item) -> None:
        weight = weigh(item)
        while waiting and (waiting[0][1].done() or weight + sum(other for other, _ in waiting) > AT_HAND):
            waiting.popleft()[1].result()
        made = workers.submit(work, item)
        waiting.append((weight, teller.submit(lambda: tell(made.result()))))

    with ThreadPoolExecutor(WRITERS) as workers, ThreadPoolExecutor(1) as teller:
        yield hand_over
        for _, future in waiting:
            future.result()


def ahead(
    work: Callable[[Item], Answer], items: Iterable[Item], most: int, weigh: Callable[[Answer], int]
) -> Generator[tuple[Item, Callable[[], Answer]], None, None]:
    """Each item, and a function that returns (or raises) what `work` made of it.

    One other thread does the work: for one item until the first answer has been asked for, then for up to
    `most` items ahead, as long as they are not likely to weigh more than AT_HAND bytes. Closed early, it
    waits for no more than the item that is being worked on.
    """
    rest, waiting = iter(items), deque[tuple[Item, Future[Answer]]]()
    heaviest, room, worker = 1, 1, ThreadPoolExecutor(1)

    def answer(future: Future[Answer]) -> Answer:
        nonlocal heaviest, room
        made = future.result()
        heaviest = max(heaviest, weigh(made))
        room = max(1, AT_HAND // heaviest)
        return made

    try:
        while True:
            for item in islice(rest, max(0, 1 + min(most, room) - len(waiting))):
                waiting.append((item, worker.submit(work, item)))
            if not waiting:
                return
            first, future = waiting.popleft()
            yield first, partial(answer, future)
    finally:
        worker.shutdown(cancel_futures=bool(waiting))
