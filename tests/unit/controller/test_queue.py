"""The queue: each key once, one worker per key, backoff per key, with a clock that the test turns."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from dagbundle.controller.queue import FIRST_BACKOFF, MAX_BACKOFF, Queue


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_key_that_is_queued_twice_is_handed_out_once() -> None:
    queue: Queue[str] = Queue(Clock())
    queue.add("a")
    queue.add("a")
    assert queue.take() == ["a"]
    assert len(queue) == 0


def test_a_key_that_is_queued_while_it_is_worked_on_is_handed_out_afterwards() -> None:
    queue: Queue[str] = Queue(Clock())
    queue.add("a")
    queue.take()
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert queue.take() == ["a"]


def test_the_earlier_of_two_times_counts() -> None:
    clock = Clock()
    queue: Queue[str] = Queue(clock)
    queue.add("a", delay=100)
    queue.add("b", delay=5)
    queue.add("a", delay=1)
    clock.now = 2
    assert queue.take() == ["a"]
    clock.now = 6
    assert queue.take() == ["b"]
    assert len(queue) == 0


def test_failures_back_off_and_success_forgets_them() -> None:
    clock = Clock()
    queue: Queue[str] = Queue(clock)
    queue.add("a")
    for expected in (FIRST_BACKOFF, FIRST_BACKOFF * 2, FIRST_BACKOFF * 4):
        queue.take()
        assert queue.failed("a") == expected
        clock.now += expected
    queue.take()
    queue.done("a", again_in=1)
    clock.now += 1
    queue.take()
    assert queue.failed("a") == FIRST_BACKOFF


def test_backoff_has_an_end() -> None:
    clock = Clock()
    queue: Queue[str] = Queue(clock)
    queue.add("a")
    for _ in range(30):
        queue.take()
        clock.now += queue.failed("a")
    queue.take()
    assert queue.failed("a") == MAX_BACKOFF


def test_a_failure_backs_off_no_longer_than_is_said() -> None:
    clock = Clock()
    queue: Queue[str] = Queue(clock)
    queue.add("a")
    for _ in range(10):
        queue.take()
        clock.now += queue.failed("a", within=3)
    queue.take()
    assert queue.failed("a", within=3) == 3


def test_keys_that_are_due_are_taken_together_and_no_others() -> None:
    clock = Clock()
    queue: Queue[str] = Queue(clock)
    for key, delay in (("a", 0), ("b", 0), ("c", 0), ("later", 5)):
        queue.add(key, delay)
    assert queue.take(2) == ["a", "b"]
    assert queue.take(9) == ["c"]
    clock.now = 5
    assert queue.take(9) == ["later"]


def test_a_key_that_was_put_back_comes_at_once_and_alone() -> None:
    queue: Queue[str] = Queue(Clock())
    for key in "abc":
        queue.add(key)
    assert queue.take(2) == ["a", "b"]
    queue.put_back("a")
    queue.done("b")
    queue.add("d")
    assert queue.take(9) == ["c"]
    assert queue.take(9) == ["a"]
    assert queue.take(9) == ["d"]
    queue.done("a")
    queue.add("a")
    queue.add("e")
    assert queue.take(9) == ["a", "e"]


def test_a_closed_queue_lets_waiting_workers_go() -> None:
    queue: Queue[str] = Queue()
    found: list[list[str]] = []
    worker = threading.Thread(target=lambda: found.append(queue.take()))
    worker.start()
    queue.close()
    worker.join(timeout=10)
    assert found == [[]]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=30))
def test_every_key_that_was_queued_is_handed_out_at_its_earliest_time(calls: list[tuple[str, int]]) -> None:
    clock = Clock()
    queue: Queue[str] = Queue(clock)
    due: dict[str, int] = {}
    for key, delay in calls:
        queue.add(key, delay)
        due[key] = min(due.get(key, delay), delay)
    for moment in range(4):
        clock.now = moment
        expected = sorted(key for key, when in due.items() if when == moment)
        assert sorted(key for _ in expected for key in queue.take()) == expected
    assert len(queue) == 0
