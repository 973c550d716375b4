"""Tests of runtime/background.py: order, limits and errors of work in other threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from guided_diffusion.runtime import background as module
from guided_diffusion.runtime.background import WORKERS, background_map, prefetch


def count_one(_item: object) -> int:
    return 1


def test_background_map_works_in_threads_and_reports_in_order() -> None:
    all_at_work, threads = threading.Barrier(WORKERS), set[int]()
    reported: list[tuple[int, int]] = []

    def work(item: int) -> int:
        threads.add(threading.get_ident())
        all_at_work.wait(10)
        return item**2

    with background_map(
        work, lambda answer: reported.append((answer, threading.get_ident())), count_one
    ) as submit:
        for item in range(5 * WORKERS):
            submit(item)
    assert [answer for answer, _ in reported] == [item**2 for item in range(5 * WORKERS)]
    [reporter] = {thread for _, thread in reported}
    assert len(threads | {reporter, threading.get_ident()}) == WORKERS + 2


def test_background_map_keeps_order_when_a_later_item_finishes_first() -> None:
    later, reported = threading.Event(), list[int]()

    def work(item: int) -> int:
        if item == 0:
            assert later.wait(10)
        else:
            later.set()
        return item

    with background_map(work, reported.append, count_one) as submit:
        submit(0)
        submit(1)
    assert reported == [0, 1]


@pytest.mark.parametrize("limit", [1, 2, 40])
def test_background_map_blocks_when_pending_items_are_too_large(limit: int) -> None:
    """The limit is in bytes, not items; one item is always accepted."""
    gate, done = threading.Event(), list[int]()

    def work(item: int) -> int:
        assert gate.wait(10)
        return item

    with background_map(work, done.append, lambda _item: module.MAX_PENDING_BYTES // limit) as submit:
        for item in range(limit):
            submit(item)
        assert done == []
        threading.Timer(0.05, gate.set).start()
        submit(limit)
        assert gate.is_set(), "it waited for the first item"
    assert done == list(range(limit + 1))


@pytest.mark.parametrize("fails_on_done", [False, True])
def test_background_map_raises_errors_of_work_and_on_done(fails_on_done: bool) -> None:
    def fail(item: int) -> int:
        raise OSError(f"disk full at {item}")

    work, on_done = (abs, fail) if fails_on_done else (fail, abs)
    with pytest.raises(OSError, match="disk full at 7"), background_map(work, on_done, count_one) as submit:
        submit(7)


def test_background_map_finishes_after_an_error_in_the_block() -> None:
    done: list[int] = []
    with (
        pytest.raises(KeyboardInterrupt),
        background_map(lambda item: item, done.append, count_one) as submit,
    ):
        submit(0)
        raise KeyboardInterrupt
    assert done == [0]


class CountingItems:
    """Ten items that count how many were drawn."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        for item in range(10):
            self.taken += 1
            yield item


@pytest.mark.parametrize("depth", [0, 1, 2, 5, 50])
def test_prefetch_yields_answers_in_order_and_respects_depth(depth: int) -> None:
    items = CountingItems()
    for count, (item, answer) in enumerate(prefetch(lambda item: item**2, items, depth, count_one)):
        assert items.taken == min(10, count + 1 + (depth if count else min(depth, 1)))
        assert (item, answer()) == (count, count**2)
    assert items.taken == 10


def test_prefetch_respects_max_pending_bytes() -> None:
    items = CountingItems()
    for count, (_, answer) in enumerate(
        prefetch(count_one, items, 50, lambda _answer: module.MAX_PENDING_BYTES // 3)
    ):
        answer()
        assert items.taken <= min(10, count + 1 + 3)
    assert items.taken == 10


def test_prefetch_stops_when_consumer_closes() -> None:
    begun, gate = list[int](), threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        assert item == 0 or gate.wait(10)
        return item

    answers = prefetch(work, range(1000), 500, count_one)
    assert next(answers)[1]() == 0
    next(answers)
    threading.Timer(0.05, gate.set).start()
    answers.close()
    assert begun == list(range(len(begun))) and len(begun) <= 3, "498 further items were dropped"


def test_prefetch_raises_an_error_only_from_its_own_answer() -> None:
    answers = [answer for _, answer in prefetch(lambda item: 1 / item, [1, 0, 2], 1, count_one)]
    assert answers[0]() == 1 and answers[2]() == 0.5
    with pytest.raises(ZeroDivisionError):
        answers[1]()
