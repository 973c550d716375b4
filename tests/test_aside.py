"""Work in another thread: its order, how far it runs ahead, and what becomes of its errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from guided_diffusion import aside as module
from guided_diffusion.aside import ahead, aside


def test_all_is_done_in_order_by_one_other_thread_before_the_end() -> None:
    done: list[tuple[int, int]] = []
    with aside(lambda item: done.append((item, threading.get_ident()))) as hand_over:
        for item in range(20):
            hand_over(item)
    assert [item for item, _ in done] == list(range(20))
    assert len({thread for _, thread in done} | {threading.get_ident()}) == 2


def test_the_main_thread_goes_on_meanwhile_but_not_without_bound() -> None:
    gate, done = threading.Event(), []

    def work(item: int) -> None:
        assert gate.wait(10)
        done.append(item)

    with aside(work) as hand_over:
        for item in range(module.MOST):
            hand_over(item)
        assert done == []
        late = threading.Timer(0.05, gate.set)
        late.start()
        hand_over(module.MOST)
        assert gate.is_set(), "it waited for the first to be done"
    assert done == list(range(module.MOST + 1))


def test_an_error_of_the_work_is_raised() -> None:
    def work(item: int) -> None:
        raise OSError(f"disk full at {item}")

    with pytest.raises(OSError, match="disk full at 0"), aside(work) as hand_over:
        hand_over(0)


def test_an_error_outside_leaves_nothing_undone() -> None:
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt), aside(done.append) as hand_over:
        hand_over(0)
        raise KeyboardInterrupt
    assert done == [0]


@pytest.mark.parametrize("most", [1, 2, 5, 50])
def test_answers_come_with_their_items_and_no_more_is_taken_than_said(most: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(10):
            taken.append(item)
            yield item

    for count, (item, answer) in enumerate(ahead(lambda item: item**2, items(), most)):
        assert (item, answer()) == (count, count**2)
        assert len(taken) == min(10, count + 1 + most)


def test_an_answer_that_failed_fails_where_it_is_asked_for_and_the_others_do_not() -> None:
    answers = [answer for _, answer in ahead(lambda item: 1 / item, [1, 0, 2], 1)]
    assert answers[0]() == 1 and answers[2]() == 0.5
    with pytest.raises(ZeroDivisionError):
        answers[1]()
