"""What the watches have shown: who follows which workload, and how many Jobs run."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dagbundle.controller.seen import Key, Seen
from dagbundle.runtime.kubernetes import jobs

SALES: Key = ("team-sales", "sales")
OTHER: Key = ("team-sales", "other")


def bundle(key: Key, workload: str = "") -> dict[str, Any]:
    source: dict[str, Any] = {"workloadRef": {"name": workload, "kind": "Deployment"}} if workload else {"image": "a:1"}
    return {"metadata": {"namespace": key[0], "name": key[1]}, "spec": {"source": source}}


def job(key: Key, name: str, condition: str = "") -> dict[str, Any]:
    return {
        "metadata": {"namespace": key[0], "name": name, "labels": {jobs.BUNDLE_LABEL: key[1]}},
        "status": {"conditions": [{"type": condition, "status": "True"}]} if condition else {},
    }


def test_a_bundle_follows_the_workload_that_it_named_last() -> None:
    seen = Seen()
    seen.take_bundle(bundle(SALES, "web"), deleted=False)
    seen.take_bundle(bundle(OTHER, "web"), deleted=False)
    seen.take_bundle(bundle(SALES, "worker"), deleted=False)
    assert seen.followers("Deployment", "team-sales", "web") == {OTHER}
    assert seen.followers("Deployment", "team-sales", "worker") == {SALES}


def test_a_bundle_that_is_gone_follows_nothing() -> None:
    seen = Seen()
    seen.take_bundle(bundle(SALES, "web"), deleted=False)
    seen.take_bundle(bundle(SALES, "web"), deleted=True)
    assert seen.followers("Deployment", "team-sales", "web") == frozenset()


def test_a_job_that_is_suspended_still_counts_as_running() -> None:
    seen = Seen()
    seen.take_child("Job", job(SALES, "one", "Suspended"), deleted=False)
    seen.take_child("Job", job(SALES, "two", "Complete"), deleted=False)
    assert seen.running_jobs() == 1


def test_a_job_that_was_made_and_not_yet_shown_has_a_slot() -> None:
    seen = Seen()
    assert seen.reserve_job(SALES, "one", limit=1)
    assert not seen.reserve_job(OTHER, "two", limit=1)


def test_a_job_that_runs_already_needs_no_second_slot() -> None:
    seen = Seen()
    seen.take_child("Job", job(SALES, "one"), deleted=False)
    assert seen.reserve_job(SALES, "one", limit=1)


def test_a_job_that_could_not_be_made_gives_its_slot_back() -> None:
    seen = Seen()
    seen.reserve_job(SALES, "one", limit=1)
    seen.release_job(SALES, "one")
    assert seen.reserve_job(OTHER, "two", limit=1)


def test_who_waits_longest_is_called_first_and_once() -> None:
    seen = Seen()
    seen.take_child("Job", job(SALES, "one"), deleted=False)
    third: Key = ("team-hr", "third")
    assert not seen.reserve_job(OTHER, "two", limit=1)
    assert not seen.reserve_job(third, "three", limit=1)
    assert seen.next_in_line(1) == []
    seen.take_child("Job", job(SALES, "one", "Failed"), deleted=False)
    assert seen.next_in_line(1) == [OTHER]
    assert seen.next_in_line(1) == [third]
    assert seen.next_in_line(1) == []


KEYS = st.sampled_from([SALES, OTHER, ("team-hr", "third")])
NAMES = st.sampled_from(["one", "two", "three"])
LIMIT = 3


class Slots(RuleBasedStateMachine):
    """Jobs are reserved, made, shown, ended and deleted in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Seen()
        self.there: set[tuple[Key, str]] = set()
        self.asked: set[Key] = set()

    @rule(key=KEYS, name=NAMES)
    def make(self, key: Key, name: str) -> None:
        free = len(self.there) < LIMIT or (key, name) in self.there
        assert self.seen.reserve_job(key, name, limit=LIMIT) == free
        if free:
            self.there.add((key, name))
            self.asked.discard(key)
        else:
            self.asked.add(key)

    @precondition(lambda self: self.there)
    @rule(data=st.data(), condition=st.sampled_from(["", "Suspended", "Complete", "Failed", "deleted"]))
    def show(self, data: st.DataObject, condition: str) -> None:
        key, name = data.draw(st.sampled_from(sorted(self.there)))
        deleted = condition == "deleted"
        self.seen.take_child("Job", job(key, name, "" if deleted else condition), deleted=deleted)
        if condition in {"Complete", "Failed", "deleted"}:
            self.there.discard((key, name))

    @rule()
    def call(self) -> None:
        called = self.seen.next_in_line(LIMIT)
        assert set(called) <= self.asked
        assert len(called) == min(len(self.asked), LIMIT - len(self.there))
        self.asked -= set(called)

    @invariant()
    def no_more_than_the_limit_runs(self) -> None:
        assert self.seen.running_jobs() <= LIMIT


TestSlots = Slots.TestCase
