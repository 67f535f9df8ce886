"""Which bundle's Jobs are made, where not all can be: on a real store, across a restart."""

from __future__ import annotations

import dataclasses
from typing import cast

from dagbundle.controller.operator import Operator
from dagbundle.controller.reconciler import Reconciler
from dagbundle.controller.seen import Seen
from dagbundle.controller.settings import Settings
from dagbundle.controller.slots import Key, Slots
from dagbundle.resources.grants import Grants
from dagbundle.runtime.kubernetes import jobs
from dagbundle.runtime.kubernetes.client import Cluster
from dagbundle.store.dagstore import DagStore
from support.api_server import ApiServer

GRANTS = Grants.model_validate({"tenants": [{"namespace": name} for name in ("team-a", "team-b")]})
SETTINGS = Settings(
    database_url="", jobs=jobs.Settings("https://server.invalid", "", "parser:1"), grants=GRANTS, max_pods=3
)
SHARDED = {
    "source": {"image": {"reference": "registry.example/sales:1"}},
    "subdirs": [{"path": "x", "shards": 2}, {"path": "y", "shards": 2}],
}


class Controller:
    """A controller that was just started on what is there."""

    def __init__(self, store: DagStore) -> None:
        self.called: list[Key] = []
        self.slots = Slots(SETTINGS.max_pods, self.called.append)
        self.seen = Seen(self.slots)
        self.api = ApiServer(self.seen)
        self.reconciler = Reconciler(store, cast("Cluster", self.api), self.seen, SETTINGS)

    def reason(self, key: Key) -> str:
        """Reconcile a bundle, and return the reason of its Ready condition."""
        self.reconciler.reconcile(key)
        return str(self.api.ready(*key)["reason"])


def test_a_bundles_next_job_waits_until_pods_end_and_another_team_passes_it(sqlite_store: DagStore) -> None:
    mine, other = ("team-a", "sales"), ("team-b", "hr")
    controller = Controller(sqlite_store)
    controller.api.apply(*mine, SHARDED)
    controller.api.apply(*other)
    assert controller.reason(mine) == "Queued"
    assert controller.slots.pods == 2
    first = next(iter(controller.api.jobs))
    assert controller.reason(other) == "Parsing"  # its namespace has no pod yet, and one is free
    assert controller.slots.pods == 3
    controller.api.end_job(*first)
    assert controller.called == [mine]
    assert controller.slots.pods == 3


def test_a_bundle_that_is_gone_waits_for_nothing(sqlite_store: DagStore) -> None:
    key = ("team-a", "sales")
    controller = Controller(sqlite_store)
    controller.api.apply(*key, SHARDED)
    assert controller.reason(key) == "Queued"
    controller.seen.take_bundle(controller.api.bundles[key], deleted=True)
    controller.reconciler.reconcile(key)
    assert controller.slots.waiting == 0


def test_a_controller_that_starts_counts_the_jobs_that_the_one_before_made(sqlite_store: DagStore) -> None:
    before = Controller(sqlite_store)
    before.api.apply("team-a", "sales", SHARDED)
    assert before.reason(("team-a", "sales")) == "Queued"
    seen = Seen()
    after = Operator(dataclasses.replace(SETTINGS), sqlite_store, cast("Cluster", ApiServer(seen)))
    after._count_jobs()
    assert after._seen.slots.pods == 2


def test_a_job_that_is_gone_gives_its_slots_back_when_its_bundle_is_looked_at(sqlite_store: DagStore) -> None:
    key = ("team-a", "sales")
    controller = Controller(sqlite_store)
    controller.api.apply(*key)
    assert controller.reason(key) == "Parsing"
    controller.api.jobs.clear()
    controller.seen._children["Job"].clear()  # and no watch told it
    assert controller.reason(key) == "Parsing"  # it is made again
    assert (controller.slots.jobs, len(controller.api.jobs)) == (1, 1)
