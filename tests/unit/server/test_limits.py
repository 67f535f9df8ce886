from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagbundle import errors
from dagbundle.server import limits
from dagbundle.server.limits import Buckets, Budget, Remembered, Slots


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_gives_three_seconds_at_once_and_then_its_rate() -> None:
    clock = Clock()
    buckets: Buckets[str] = Buckets(2, clock)
    assert [buckets.take("a") for _ in range(8)] == [True] * 6 + [False] * 2
    clock.now += 0.5
    assert [buckets.take("a"), buckets.take("a")] == [True, False]
    assert buckets.take("b")
    clock.now += 1000
    assert [buckets.take("a") for _ in range(8)] == [True] * 6 + [False] * 2


def test_a_slow_bucket_still_gives_one() -> None:
    buckets: Buckets[str] = Buckets(0.1, Clock())
    assert [buckets.take("a"), buckets.take("a")] == [True, False]


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=60))
def test_a_bucket_never_gives_more_than_it_filled(steps: list[tuple[float, bool]]) -> None:
    clock = Clock()
    buckets: Buckets[str] = Buckets(2, clock)
    given_out, passed = 0, 0.0
    for seconds, asks in steps:
        clock.now += seconds
        passed += seconds
        given_out += asks and buckets.take("a")
    assert given_out <= 6 + 2 * passed + 1e-6


def test_inventing_callers_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MOST_KEYS", 10)
    buckets: Buckets[int] = Buckets(1, Clock())
    remembered: Remembered[int] = Remembered(5, Clock())
    for number in range(100):
        buckets.take(number)
        remembered.put(str(number), number)
    assert len(buckets._levels) == 10
    assert len(remembered._answers) == 10
    assert remembered.get("99") == 99


def test_an_answer_is_believed_for_its_time_only() -> None:
    clock = Clock()
    remembered: Remembered[str] = Remembered(5, clock)
    remembered.put("token", "yes")
    clock.now += 4.9
    assert remembered.get("token") == "yes"
    assert remembered.get("other") is None
    clock.now += 0.2
    assert remembered.get("token") is None
    assert "token" not in str(remembered._answers)


def test_slots_are_bounded_in_all_and_for_each_and_given_back() -> None:
    slots = Slots(3, 2)
    with slots.one("a"), slots.one("a"):
        with pytest.raises(errors.CallerError, match="of namespace a"), slots.one("a"):
            pass
        with slots.one("b"), pytest.raises(errors.CallerError, match="3 reports"), slots.one("c"):
            pass
        assert slots.taken == 2
    assert slots.taken == 0
    with pytest.raises(RuntimeError), slots.one("a"):
        raise RuntimeError
    assert slots.taken == 0


def test_who_holds_little_is_never_refused() -> None:
    budget = Budget(10 << 20)
    with budget.one("a", _stay) as large, budget.one("a", _stay) as second, budget.one("a", _stay) as small:
        budget.hold(large, 9 << 20)
        with pytest.raises(errors.CallerError) as caught:
            budget.hold(second, 2 << 20)
        assert caught.value.reason == "TooManyReports"
        budget.hold(small, 1 << 20)
    assert budget.total == 0


def test_the_largest_report_of_the_namespace_that_holds_most_gives_way_to_another_namespace() -> None:
    budget, ended = Budget(10 << 20), list[str]()
    with (
        budget.one("a", lambda: ended.append("small")) as small,
        budget.one("a", lambda: ended.append("large")) as large,
        budget.one("b", lambda: ended.append("other")) as other,
    ):
        budget.hold(small, 3 << 20)
        budget.hold(large, 6 << 20)
        budget.hold(other, 2 << 20)
        assert ended == ["large"]
        budget.hold(other, 4 << 20)  # what ends counts no more, though it is there still
        assert ended == ["large"]
        with pytest.raises(errors.CallerError, match="other namespaces need"):
            budget.hold(large, 1)


def test_a_namespace_that_holds_most_is_refused_before_another_gives_way() -> None:
    budget = Budget(10 << 20)
    with budget.one("a", _stay) as first, budget.one("b", _stay) as second:
        budget.hold(first, 4 << 20)
        with pytest.raises(errors.CallerError, match="fill the memory"):
            budget.hold(second, 7 << 20)


def _stay() -> None:
    raise AssertionError("it was told to give way")
