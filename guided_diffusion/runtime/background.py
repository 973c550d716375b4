"""Work in other threads: files are read before they are needed and written while sampling goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TypeVar

import torch

Item = TypeVar("Item")
Answer = TypeVar("Answer")

WORKERS = 4
"""Threads of `background_map`; compressing a PNG releases the interpreter lock.

A round figure: a batch's images are compressed while the next batch is sampled.
"""
MAX_PENDING_BYTES = 1 << 30
"""Bytes of items that wait to be written, and of answers that were prefetched.

A round figure: three photographs of 50 megapixels, counted as by `tasks.nbytes`.
"""


@contextmanager
def background_map(
    work: Callable[[Item], Answer], on_done: Callable[[Answer], None], size_of: Callable[[Item], int]
) -> Iterator[Callable[[Item], None]]:
    """Yield a function that submits an item to a pool of threads.

    Leaving the context waits for all items.

    Args:
        work: Runs on each item, in one of WORKERS threads.
        on_done: Gets each answer, in the order of the items, in one further thread.
        size_of: Returns the bytes of an item. Submitting waits while more than MAX_PENDING_BYTES are pending.

    Raises:
        Exception: Raised by `work` or `on_done`; it comes out of a later submission or of the exit.
    """
    pending: deque[tuple[int, Future[None]]] = deque()

    def submit(item: Item) -> None:
        size = size_of(item)
        while pending and (
            pending[0][1].done() or size + sum(other for other, _ in pending) > MAX_PENDING_BYTES
        ):
            pending.popleft()[1].result()
        answer = workers.submit(work, item)
        pending.append((size, reporter.submit(lambda: on_done(answer.result()))))

    with ThreadPoolExecutor(WORKERS) as workers, ThreadPoolExecutor(1) as reporter:
        yield submit
        for _, future in pending:
            future.result()


def prefetch(
    work: Callable[[Item], Answer], items: Iterable[Item], depth: int, size_of: Callable[[Answer], int]
) -> Generator[tuple[Item, Callable[[], Answer]], None, None]:
    """Yield each item with a function that returns the answer of `work`, or raises its error.

    One other thread works ahead: on one item until the first answer was asked for, then on up to `depth`
    items, fewer where their answers are expected to exceed MAX_PENDING_BYTES. Closing the generator waits
    for the item that is being worked on and drops the others.

    Args:
        work: Runs on each item.
        items: The items. They are drawn in the consumer's thread.
        depth: Largest number of items ahead of the one that was yielded last.
        size_of: Returns the bytes of an answer.
    """
    source, pending = iter(items), deque[tuple[Item, Future[Answer]]]()
    largest, capacity = 1, 1
    # A new thread would take torch's thread count from whatever the process set last.
    worker = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),))

    def answer_of(future: Future[Answer]) -> Answer:
        nonlocal largest, capacity
        answer = future.result()
        largest = max(largest, size_of(answer))
        capacity = max(1, MAX_PENDING_BYTES // largest)
        return answer

    try:
        while True:
            for item in islice(source, max(0, 1 + min(depth, capacity) - len(pending))):
                pending.append((item, worker.submit(work, item)))
            if not pending:
                return
            first, future = pending.popleft()
            yield first, partial(answer_of, future)
    finally:
        worker.shutdown(cancel_futures=bool(pending))
