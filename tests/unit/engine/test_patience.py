"""When a judgement that failed is tried again."""

from __future__ import annotations

from dagbundle.engine import patience
from dagbundle.engine.patience import Patience


class Clock:
    """Tells what it is set to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_each_failure_doubles_the_wait_up_to_an_hour() -> None:
    clock, waits = Clock(), []
    found = Patience(clock)
    for _ in range(8):
        found.failed("r")
        start = clock.now
        while not found.allows("r"):
            clock.now += 1
        waits.append(clock.now - start)
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_a_success_is_a_new_beginning_and_other_rollouts_are_not_concerned() -> None:
    clock = Clock()
    found = Patience(clock)
    found.failed("r")
    found.failed("r")
    assert found.allows("other")
    found.ended("r")
    assert found.allows("r")
    found.failed("r")
    clock.now += 60
    assert found.allows("r")


def test_so_many_failures_are_remembered_and_no_more() -> None:
    found = Patience(Clock())
    for number in range(patience.MOST + 5):
        found.failed(str(number))
    assert [found.allows(str(number)) for number in (4, 5)] == [True, False]
