"""Work in other threads: its order, how far it runs ahead, and what becomes of its errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from guided_diffusion.runtime import background as module
from guided_diffusion.runtime.background import WORKERS, background_map, prefetch


def one(_item: object) -> int:
    return 1


def test_several_threads_work_and_one_tells_in_order_before_the_end() -> None:
    all_at_work, threads = threading.Barrier(WORKERS), set[int]()
    told: list[tuple[int, int]] = []

    def work(item: int) -> int:
        threads.add(threading.get_ident())
        all_at_work.wait(10)
        return item**2

    with background_map(work, lambda answer: told.append((answer, threading.get_ident())), one) as hand_over:
        for item in range(5 * WORKERS):
            hand_over(item)
    assert [answer for answer, _ in told] == [item**2 for item in range(5 * WORKERS)]
    [teller] = {thread for _, thread in told}
    assert len(threads | {teller, threading.get_ident()}) == WORKERS + 2


def test_the_order_is_kept_where_a_later_item_is_done_first() -> None:
    later, told = threading.Event(), list[int]()

    def work(item: int) -> int:
        if item == 0:
            assert later.wait(10)
        else:
            later.set()
        return item

    with background_map(work, told.append, one) as hand_over:
        hand_over(0)
        hand_over(1)
    assert told == [0, 1]


@pytest.mark.parametrize("held", [1, 2, 40])
def test_the_main_thread_goes_on_meanwhile_but_not_without_bound(held: int) -> None:
    """Until what waits weighs too much, however many they are; one is always taken."""
    gate, done = threading.Event(), list[int]()

    def work(item: int) -> int:
        assert gate.wait(10)
        return item

    with background_map(work, done.append, lambda _item: module.MAX_PENDING_BYTES // held) as hand_over:
        for item in range(held):
            hand_over(item)
        assert done == []
        threading.Timer(0.05, gate.set).start()
        hand_over(held)
        assert gate.is_set(), "it waited for the first to be done"
    assert done == list(range(held + 1))


@pytest.mark.parametrize("tells", [False, True])
def test_an_error_of_the_work_is_raised(tells: bool) -> None:
    def fail(item: int) -> int:
        raise OSError(f"disk full at {item}")

    work, tell = (abs, fail) if tells else (fail, abs)
    with pytest.raises(OSError, match="disk full at 7"), background_map(work, tell, one) as hand_over:
        hand_over(7)


def test_an_error_outside_leaves_nothing_undone() -> None:
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt), background_map(lambda item: item, done.append, one) as hand_over:
        hand_over(0)
        raise KeyboardInterrupt
    assert done == [0]


class Taking:
    """Ten items, and how many were taken of them."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        for item in range(10):
            self.taken += 1
            yield item


@pytest.mark.parametrize("most", [0, 1, 2, 5, 50])
def test_answers_come_with_their_items_and_no_more_is_taken_than_said(most: int) -> None:
    items = Taking()
    for count, (item, answer) in enumerate(prefetch(lambda item: item**2, items, most, one)):
        assert items.taken == min(10, count + 1 + (most if count else min(most, 1)))
        assert (item, answer()) == (count, count**2)
    assert items.taken == 10


def test_what_is_heavy_is_not_piled_up() -> None:
    items = Taking()
    for count, (_, answer) in enumerate(
        prefetch(one, items, 50, lambda _answer: module.MAX_PENDING_BYTES // 3)
    ):
        answer()
        assert items.taken <= min(10, count + 1 + 3)
    assert items.taken == 10


def test_whoever_stops_early_waits_for_one_item_alone() -> None:
    begun, gate = list[int](), threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        assert item == 0 or gate.wait(10)
        return item

    coming = prefetch(work, range(1000), 500, one)
    assert next(coming)[1]() == 0
    next(coming)
    threading.Timer(0.05, gate.set).start()
    coming.close()
    assert begun == list(range(len(begun))) and len(begun) <= 3, "499 more were to be worked on"


def test_an_answer_that_failed_fails_where_it_is_asked_for_and_the_others_do_not() -> None:
    answers = [answer for _, answer in prefetch(lambda item: 1 / item, [1, 0, 2], 1, one)]
    assert answers[0]() == 1 and answers[2]() == 0.5
    with pytest.raises(ZeroDivisionError):
        answers[1]()
