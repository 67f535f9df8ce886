"""Slots for parser pods: a bounded number, shared fairly by namespaces, and only for Jobs of ours."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dagbundle.controller.queue import Queue
from dagbundle.controller.seen import Seen
from dagbundle.controller.slots import PROMISE_SECONDS, Key, Slots
from dagbundle.runtime.kubernetes import jobs

SALES: Key = ("team-sales", "sales")
HR: Key = ("team-hr", "hr")


def many(namespace: str, number: int) -> list[Key]:
    return [(namespace, f"bundle-{index:03}") for index in range(number)]


class Cluster:
    """A controller's admission: bundles that were called make their Job, and Jobs end one by one."""

    def __init__(self, limit: int) -> None:
        self.called: list[Key] = []
        self.slots = Slots(limit, self.called.append, clock=lambda: 0.0)
        self.made: list[Key] = []
        self.wanted: dict[Key, int] = {}

    def ask(self, key: Key, pods: int = 1) -> bool:
        self.wanted[key] = pods
        taken = self.slots.reserve(key, "job", pods)
        if taken:
            self.slots.hold(key, "job", pods, f"uid of {key[1]}", shown=True)
            self.made.append(key)
        return taken

    def end(self, key: Key) -> None:
        self.slots.show(key, "job", f"uid of {key[1]}", ended=True)
        called, self.called[:] = list(self.called), []
        for each in called:
            assert self.ask(each, self.wanted[each])


def test_one_teams_five_hundred_bundles_delay_anothers_single_one_by_one_job() -> None:
    cluster = Cluster(limit=20)
    mine = many("team-a", 500)
    for key in mine:
        cluster.ask(key)
    assert not cluster.ask(HR)
    cluster.end(mine[0])
    assert cluster.made[20] == HR


def test_a_team_that_comes_again_and_again_does_not_pass_one_that_waits() -> None:
    cluster = Cluster(limit=2)
    first, second, third = many("team-a", 3)
    assert cluster.ask(first)
    assert cluster.ask(second)
    assert not cluster.ask(HR)
    cluster.slots.show(first, "job", "uid of bundle-000", ended=True)
    assert cluster.called == [HR]
    assert not cluster.ask(third)  # it is promised to another
    assert cluster.ask(HR)


def test_two_teams_with_hundreds_each_have_half() -> None:
    cluster = Cluster(limit=10)
    for key in many("team-a", 100) + many("team-b", 100):
        cluster.ask(key)
    for _ in range(30):
        cluster.end(cluster.made[0])
        cluster.made.pop(0)
    assert sorted(key[0] for key in cluster.made) == ["team-a"] * 5 + ["team-b"] * 5


def test_pods_count_and_not_jobs() -> None:
    cluster = Cluster(limit=200)
    assert [cluster.ask(key, pods=32) for key in many("team-a", 64)].count(True) == 6
    assert cluster.slots.pods == 192


def test_a_job_with_many_pods_is_not_starved_by_small_ones() -> None:
    cluster = Cluster(limit=4)
    small = many("team-a", 20)
    for key in small:
        cluster.ask(key)
    assert not cluster.ask(HR, pods=4)
    for key in small[:4]:
        cluster.end(key)
    assert cluster.made[4:] == [HR]


def test_a_job_with_more_pods_than_there_may_be_is_made_alone() -> None:
    cluster = Cluster(limit=4)
    assert cluster.ask(SALES, pods=32)
    assert not cluster.ask(HR)
    cluster.end(SALES)
    assert cluster.made == [SALES, HR]


def test_jobs_that_anybody_labels_as_ours_take_nothing() -> None:
    slots = Slots(1)
    seen = Seen(slots)
    for number in range(50):
        labels = {jobs.MANAGED_LABEL: jobs.MANAGED, jobs.BUNDLE_LABEL: "sales"}
        place = {"namespace": "somewhere", "name": f"job-{number}", "uid": f"uid-{number}", "labels": labels}
        seen.take_child("Job", {"metadata": place, "status": {}}, deleted=False)
    assert (slots.jobs, slots.pods) == (0, 0)
    assert slots.reserve(SALES, "job", 1)


def test_a_job_of_the_same_name_that_is_not_the_recorded_one_ends_nothing() -> None:
    slots = Slots(1, clock=lambda: 0.0)
    assert slots.reserve(SALES, "job", 1)
    slots.hold(SALES, "job", 1, "recorded", shown=True)
    slots.show(SALES, "job", "another", ended=True)
    assert not slots.reserve(HR, "job", 1)
    slots.show(SALES, "job", "recorded", ended=True)
    assert slots.reserve(HR, "job", 1)


def test_a_job_that_could_not_be_made_gives_its_slots_to_who_waits() -> None:
    cluster = Cluster(limit=1)
    cluster.slots.reserve(SALES, "job", 1)
    assert not cluster.ask(HR)
    cluster.slots.release(SALES, "job")
    assert cluster.called == [HR]


def test_a_bundle_that_wants_no_job_any_more_does_not_keep_who_is_behind_it() -> None:
    cluster = Cluster(limit=1)
    cluster.ask(SALES)
    cluster.ask(("team-b", "b"))
    cluster.ask(HR)
    cluster.slots.show(SALES, "job", "uid of sales", ended=True)
    assert cluster.called == [("team-b", "b")]
    cluster.slots.withdraw(("team-b", "b"))
    assert cluster.called == [("team-b", "b"), HR]


def test_what_no_watch_ever_shows_lapses() -> None:
    now = [0.0]
    called: list[Key] = []
    slots = Slots(1, called.append, clock=lambda: now[0])
    slots.reserve(SALES, "job", 1)
    slots.hold(SALES, "job", 1, "uid", shown=False)
    assert not slots.reserve(HR, "job", 1)
    now[0] = PROMISE_SECONDS + 1
    slots.look()
    assert called == [HR]


def test_of_bundles_that_are_due_each_namespace_is_taken_in_turn() -> None:
    queue: Queue[Key] = Queue(clock=lambda: 0.0, share=lambda key: key[0])
    for key in many("team-a", 500):
        queue.add(key)
    queue.take(100)  # what is being worked on
    queue.add(HR)
    assert HR in queue.take(2)


KEYS = st.sampled_from([SALES, ("team-sales", "other"), HR, ("team-ops", "ops")])
PODS = st.integers(1, 5)
LIMIT = 4


class Admission(RuleBasedStateMachine):
    """Bundles ask, are called, make Jobs, give up, and Jobs end, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[Key] = []
        self.slots = Slots(LIMIT, self.called.append, clock=lambda: 0.0)
        self.there: dict[Key, int] = {}
        self.waits: set[Key] = set()

    @rule(key=KEYS, pods=PODS)
    def ask(self, key: Key, pods: int) -> None:
        pods = self.there.get(key, pods)
        if self.slots.reserve(key, "job", pods):
            self.slots.hold(key, "job", pods, str(key), shown=True)
            self.there.setdefault(key, pods)
            self.waits.discard(key)
        else:
            self.waits.add(key)

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.there)))
        self.slots.show(key, "job", str(key), ended=True)
        del self.there[key]

    @rule(key=KEYS)
    def give_up(self, key: Key) -> None:
        self.slots.withdraw(key)
        self.waits.discard(key)

    @invariant()
    def no_more_than_the_limit_is_there(self) -> None:
        assert sum(min(pods, LIMIT) for pods in self.there.values()) <= LIMIT
        assert self.slots.pods <= LIMIT

    @invariant()
    def who_waits_while_nothing_is_there_was_called(self) -> None:
        if self.waits and not self.there:
            assert self.waits & set(self.called)


TestAdmission = Admission.TestCase
