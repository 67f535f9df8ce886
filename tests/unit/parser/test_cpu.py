"""The bound of CPU time for what a tenant's text makes the parser itself compute."""

from __future__ import annotations

import time

import pytest

from dagbundle_parser.cpu import CpuBudget, OutOfTimeError


def test_many_short_steps_use_up_what_all_steps_may_use() -> None:
    budget, began = CpuBudget(each=5.0, total=0.2), time.process_time()

    def steps() -> None:
        while time.process_time() - began < 5:
            with budget:
                burn(0.002)

    with pytest.raises(OutOfTimeError) as raised:
        steps()
    assert not raised.value.is_one_step
    assert time.process_time() - began < 2


def test_one_long_step_ends_at_what_one_may_use() -> None:
    with pytest.raises(OutOfTimeError) as raised, CpuBudget(each=0.1, total=5.0):
        burn(4)
    assert raised.value.is_one_step


def test_steps_that_use_nothing_cost_nothing() -> None:
    budget = CpuBudget(each=1.0, total=1.0)
    for _ in range(1000):
        with budget:
            pass
    with pytest.raises(OutOfTimeError), budget:
        burn(1.5)


def burn(seconds: float) -> None:
    """Use CPU time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
