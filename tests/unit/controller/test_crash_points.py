"""A controller that fails at any call of store or API server ends where one ends that does not.

A story goes well once, from a first version to a deletion. Before each of its acts the world is kept. From there every
call that the controller made in that act fails in turn: the process is killed after it; and, where the same was not
tried in an act before, the call fails, or it does its work and its answer is lost. e2e/test_crashes.py kills it so on a
real API server and a real PostgreSQL.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from dagbundle import errors
from dagbundle.controller.kept import REQUESTED_AT
from dagbundle.controller.reconciler import Reconciler, utc_now
from dagbundle.engine.engine import Engine
from dagbundle.runtime.kubernetes import jobs
from dagbundle.store import bundles, passes
from dagbundle.store.dagstore import DagStore
from integration.store import builder
from support.api_server import ApiServer
from support.world import FILES, KEY, NAMESPACE, Fuse, Killed, World

CHANGED = {"ingest": {"a": "2"}, "reporting": {"c": "1", "d": "1"}}
AMENDED = {"ingest": {"a": "3"}, "reporting": {"c": "1", "d": "1"}}
PASSES = 2
"""Looks after a failure until a bundle must be where it is without one: what one has deleted, the next one says."""
READS = {
    "head", "job", "job_events", "knows_files", "live", "outcomes", "owners", "refused", "rollout", "run_states",
    "workload", "waiting_claims", "claimed", "yielding", "state_at",
}  # fmt: skip
"""Calls that change nothing. To be killed after one is to be killed after the call before it, and no answer is lost."""
_MERGE = {"Content-Type": "application/merge-patch+json"}

# --- the story: what others than the controller do before each act ---


def applied(world: World) -> None:
    world.apply()


def one_report(world: World) -> None:
    world.node(subdirs=["ingest"])


def all_reports(world: World) -> None:
    for subdir in FILES:
        _pod(world, subdir, "a")
    world.node()


def edited(world: World) -> None:
    world.apply("registry.test/sales:2")


def edited_meanwhile(world: World) -> None:
    world.apply("registry.test/sales:3")


def a_failed_job(world: World) -> None:
    world.node(CHANGED, subdirs=["reporting"])
    world.fail(_job(world, "ingest"), "BackoffLimitExceeded", "it failed too often")


def time_to_retry(world: World) -> None:
    moment = utc_now() + dt.timedelta(seconds=90)
    world.now = lambda: moment


def suspended(world: World) -> None:
    world.apply("registry.test/sales:3", suspend=True)


def suspended_no_more(world: World) -> None:
    world.apply("registry.test/sales:3")


def different_images(world: World) -> None:
    _pod(world, "ingest", "b")
    _pod(world, "reporting", "c")
    world.node(CHANGED)


def changed_reports(world: World) -> None:
    world.node(CHANGED)


def a_request(world: World) -> None:
    path = f"/apis/dagbundle.dev/v1alpha1/namespaces/{NAMESPACE}/dagbundles/{KEY[1]}"
    world.cluster.call("PATCH", path, body={"metadata": {"annotations": {REQUESTED_AT: "now"}}}, headers=_MERGE)


def a_job_deleted_by_hand(world: World) -> None:
    world.cluster.delete_job(NAMESPACE, _job(world, "ingest")["metadata"]["name"])


def reports_of_the_request(world: World) -> None:
    world.node(CHANGED)


def rolled_back(world: World) -> None:
    Engine(world.store).rollback(world.key)


def resumed(world: World) -> None:
    Engine(world.store).resume(world.key)


def reports_of_what_was_held(world: World) -> None:
    world.node(CHANGED)


def a_request_of_the_target(world: World) -> None:
    world.store.request_parse([world.key])


def reports_of_the_targets_request(world: World) -> None:
    world.node(CHANGED)


def a_file_is_asked_for(world: World) -> None:
    tables = world.store.db.tables
    world.store.db.write(lambda c: passes.ask(c, tables, bundles.find(c, tables, world.key), ["ingest/dags.py"]))


def a_report_of_the_file(world: World) -> None:
    world.node(AMENDED)


def a_file_is_asked_for_again(world: World) -> None:
    a_file_is_asked_for(world)


def a_pass_that_fails(world: World) -> None:
    amending = world.store.head(world.key).amending
    assert amending is not None
    job = world.cluster.job(NAMESPACE, amending.jobs[0].name)
    world.fail(job, "BackoffLimitExceeded", "it failed too often")


def deleted(world: World) -> None:
    assert isinstance(world.cluster, ApiServer)
    world.cluster.delete(*KEY)


STORY: dict[str, tuple[Callable[[World], None], str]] = {
    act.__name__: (act, outcome)
    for act, outcome in (
        (applied, "Parsing"), (one_report, "Parsing"), (all_reports, "Published"),
        (edited, "Parsing"), (edited_meanwhile, "Parsing"), (a_failed_job, "RunFailed"), (time_to_retry, "Parsing"),
        (suspended, "Suspended"), (suspended_no_more, "Parsing"), (different_images, "Parsing"),
        (changed_reports, "Published"), (a_request, "Parsing"), (a_job_deleted_by_hand, "Parsing"),
        (reports_of_the_request, "Published"), (rolled_back, "Held"), (resumed, "Parsing"),
        (reports_of_what_was_held, "Published"), (a_request_of_the_target, "Parsing"),
        (reports_of_the_targets_request, "Published"), (a_file_is_asked_for, "Published"),
        (a_report_of_the_file, "Published"), (a_file_is_asked_for_again, "Published"),
        (a_pass_that_fails, "Published"), (deleted, ""),
    )
}  # fmt: skip
"""The acts in order, each with the reason of Ready that it ends with."""


def _job(world: World, subdir: str) -> Any:
    rollout = world.store.latest_rollout(world.key)
    assert rollout is not None
    name = next(row.name for row in world.store.jobs(rollout.id) if row.subdir == subdir)
    return world.cluster.job(NAMESPACE, name)


def _pod(world: World, subdir: str, digest: str) -> None:
    image = {"name": jobs.CONTAINER, "imageID": f"registry.test/sales@sha256:{digest * 64}"}
    world.pod(_job(world, subdir), {"containerStatuses": [image]})


# --- the world, kept and brought back ---


@dataclasses.dataclass(frozen=True)
class Kept:
    """A world at one moment, and what an act without a failure makes of it."""

    store: sqlite3.Connection
    objects: str
    now: Callable[[], dt.datetime]
    calls: tuple[str, ...] = ()
    new: frozenset[int] = frozenset()
    """Those of the calls that come after another call than anywhere before in the story."""
    end: str = ""


class Stage:
    """Where the story goes on, from its beginning or from what was kept."""

    def __init__(self, store: DagStore) -> None:
        self.api = ApiServer()
        self.api.memory.namespaces.add(NAMESPACE)
        self.world = World(self.api, store)
        self.reconciler: Reconciler | None = None

    def start(self) -> None:
        """Start a controller, which is shown what is there and then every change."""
        self.api.seen = None
        self.reconciler = self.world.controller()
        self.api.seen = self.reconciler._seen

    def look(self) -> None:
        """Take one pass; a controller that is killed is started again, any other one goes on."""
        assert self.reconciler is not None
        try:
            with contextlib.suppress(errors.DagBundleError):
                self.reconciler.reconcile(KEY)
        except Killed:
            self.world.fuse = Fuse()
            self.start()

    def keep(self) -> Kept:
        """Keep the world as it is."""
        objects = {
            resource: [[*key, item] for key, item in mine.items()]
            for resource, mine in self.api.memory.objects.items()
            if resource != "events"
        }
        copy = sqlite3.connect(":memory:")
        _sqlite(self.world.store).backup(copy)
        return Kept(copy, json.dumps([objects, self.api.made]), self.world.now)

    def bring_back(self, kept: Kept, fuse: Fuse) -> None:
        """Let the world be as it was, with a controller that was just started."""
        kept.store.backup(_sqlite(self.world.store))
        objects, self.api.made = json.loads(kept.objects)
        for resource, items in objects.items():
            self.api.memory.objects[resource] = {(namespace, name): item for namespace, name, item in items}
        self.world.now = kept.now
        self.world.fuse = fuse
        self.start()

    def end(self) -> str:
        """Return, as a text, what must be the same whatever failed: without times, names and ids."""
        world, tables = self.world, self.world.store.db.tables
        assert self.reconciler is not None
        if world.bundle() is None:
            self.api.memory.collect_garbage()
        rollouts, publications = (builder.counted(world.store, name) for name in ("rollout", "publication"))
        recorded = {uid for (uid,) in world.store.db.read(lambda c: c.execute(sa.select(tables.job.c.uid)).all())}
        rollout = world.store.latest_rollout(world.key)  # none of a bundle that is deleted
        runs = world.store.run_states(rollout.id) if rollout else ()
        states = sa.select(tables.rollout.c.state, tables.rollout.c.reason).order_by(tables.rollout.c.created_at)
        metadata = (world.bundle() or {}).get("metadata", {})
        running = [job["metadata"] for job in world.jobs() if not job.get("status", {}).get("conditions")]
        found = {
            **world.state(),
            "finalizers": metadata.get("finalizers"),
            "generation": metadata.get("generation"),
            "rollouts": rollouts,
            "states": [list(row) for row in world.store.db.read(lambda c: c.execute(states).all())],
            "publications": publications,
            "rollout": rollout and [rollout.state, rollout.reason, rollout.version, rollout.document.pinned],
            "runs": [[run.subdir, run.state, run.failure] for run in runs],
            "jobs ever made": len(self.api.made),
            # one that has ended holds nothing, and stays for an hour to be read
            "running": sorted(item["annotations"][jobs.SUBDIR_ANNOTATION] for item in running),
            "running and not recorded": [item["uid"] for item in running if item["uid"] not in recorded],
            "slots": self.reconciler._seen.slots.jobs,
        }
        return re.sub(r"\d\d:\d\d:\d\d", "12:00:00", json.dumps(found, indent=1, sort_keys=True, default=str))


def _sqlite(store: DagStore) -> Any:
    return store.db.engine.raw_connection().driver_connection


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with DagStore.open("sqlite:///:memory:", upgrade=True) as store:
        yield Stage(store)


@pytest.fixture(scope="module")
def told(stage: Stage) -> Iterator[dict[str, Kept]]:
    """The story without a failure."""
    kept: dict[str, Kept] = {}
    known: set[tuple[str, str]] = set()
    for name, (act, outcome) in STORY.items():
        act(stage.world)
        before = stage.keep()
        stage.bring_back(before, Fuse())
        end, calls = "", ()
        while stage.end() != end:  # what a look has done, such as to delete a Job, the next one may say in the status
            end, calls = stage.end(), tuple(stage.world.fuse.calls)
            stage.look()
        conditions = (stage.world.bundle() or {}).get("status", {}).get("conditions", [{"reason": ""}])
        assert (name, conditions[0]["reason"]) == (name, outcome)
        pairs = {pair: at for at, pair in reversed([*enumerate(zip(("", *calls), calls, strict=False))])}
        new = frozenset(at for pair, at in pairs.items() if pair not in known)
        known |= pairs.keys()
        kept[name] = dataclasses.replace(before, calls=calls, new=new, end=end)
    yield kept
    for item in kept.values():
        item.store.close()


def killed(_: str) -> Fuse:
    return Fuse()


def failing(name: str) -> Fuse:
    kind = errors.ClusterError if hasattr(ApiServer, name) else errors.StoreUnavailableError
    return Fuse(error=kind("it is away"), lost=False)


def answering_nobody(name: str) -> Fuse:
    return dataclasses.replace(failing(name), lost=True)


@pytest.mark.parametrize("how", [killed, failing, answering_nobody])
@pytest.mark.parametrize("act", STORY)
def test_a_failure_at_any_call_ends_where_none_ends(
    stage: Stage, told: dict[str, Kept], act: str, how: Callable[[str], Fuse]
) -> None:
    kept = told[act]
    for at, name in enumerate(kept.calls):
        if name in READS and how is not failing:
            continue
        if how is not killed and at not in kept.new:  # the same look as before would fail again
            continue
        fuse = dataclasses.replace(how(name), at=at)
        stage.bring_back(kept, fuse)
        while len(fuse.calls) <= at:
            stage.look()
        fuse.at = -1
        for _ in range(PASSES):
            stage.look()
            if stage.end() == kept.end:
                break
        assert stage.end() == kept.end, f"{how.__name__} at call {at}, {name}"


def test_every_call_that_changes_something_is_a_point_of_failure(told: dict[str, Kept]) -> None:
    """A list that is made by listening is shown to hear."""
    called = {name for kept in told.values() for name in kept.calls}
    assert called >= {
        "write_finalizers", "write_status", "post_event", "create_job", "delete_job",
        "register_bundle", "start_rollout", "record_job", "job_created", "job_image", "open_run", "fail_run",
        "attach_version", "publish", "block", "deactivate_bundle", "start", "amend", "fail",
    }  # fmt: skip
