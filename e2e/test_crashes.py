"""A controller that is killed at any step of a rollout ends in the same state as one that is not.

The list of crash points is made by a rollout that goes well: every call of the store and of the API server is one,
and it is killed after each.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from dagbundle.controller.reconciler import Result
from dagbundle.rollout.model import BundleKey
from e2e.bare import BUNDLE, FILES, KEY, NAMESPACE, SETTINGS, Fuse, Killed, World

CHANGED = {"ingest": {"a": "2"}, "reporting": {"c": "1", "d": "1"}}


@pytest.fixture
def clean(world: World) -> Iterator[World]:
    """The world with nothing in it."""
    yield world
    world.fuse, world.settings = Fuse(), SETTINGS
    world.delete()
    assert world.bundle() is None


def first(world: World) -> dict[str, Any]:
    world.apply()
    world.settle()
    return world.state()


def second(world: World) -> dict[str, Any]:
    world.apply("registry.test/sales:2")
    world.settle(CHANGED)
    return world.state()


def relative(state: dict[str, Any], before: int) -> dict[str, Any]:
    """Count revisions from where the story began: the store remembers what was there before."""
    status = {**state["status"], "revision": state["status"]["revision"] - before}
    return {**state, "status": status, "revision": state["revision"] - before}


def revision(world: World) -> int:
    return (
        world.store.live(BUNDLE).revision if BUNDLE in {row.bundle for row in world.store.list_bundles().items} else 0
    )


@pytest.fixture(scope="module")
def expected(world: World) -> Any:
    """What two rollouts without a crash end in, and how many calls each of them takes."""
    start = revision(world)
    one = relative(first(world), start)
    calls = len(world.fuse.calls)
    world.fuse = Fuse()
    two = relative(second(world), start)
    used, world.fuse = len(world.fuse.calls), Fuse()
    world.delete()
    return one, two, calls, used


def test_a_rollout_without_a_crash_publishes_every_dag(expected: Any) -> None:
    one, two, *_ = expected
    assert sorted(one["dags"]) == ["a", "b", "c"]
    assert sorted(two["dags"]) == ["a", "c", "d"]
    assert one["running"] == two["running"] == []
    assert [item["reason"] for item in two["status"]["conditions"]] == ["Published"]


def test_a_controller_killed_after_any_call_ends_in_the_same_state(clean: World, expected: Any) -> None:
    """Before a call is after the one before it: nothing happens in between that anybody else could see."""
    _, two, calls, used = expected
    for at in range(max(calls, used)):
        start = revision(clean)
        clean.fuse = Fuse(at)
        first(clean)
        clean.fuse = Fuse(at)
        found = relative(second(clean), start)
        name = clean.fuse.calls[at] if at < len(clean.fuse.calls) else "the end"
        assert found == two, f"killed after call {at}, {name}"
        clean.fuse = Fuse()
        clean.delete()


def test_a_job_that_is_deleted_by_hand_is_made_again(clean: World) -> None:
    clean.apply()
    clean.reconcile()
    clean.reconcile()
    before = {job["metadata"]["uid"] for job in clean.jobs()}
    clean.kubectl.text("delete", "jobs", "--all", "--namespace", NAMESPACE)
    clean.reconcile()
    made = {job["metadata"]["uid"] for job in clean.jobs()}
    assert len(made) == len(before) == len(FILES)
    assert not made & before
    clean.settle()
    assert sorted(clean.state()["dags"]) == ["a", "b", "c"]


def test_a_job_that_squats_a_name_is_left_alone_and_said(clean: World) -> None:
    clean.apply()
    clean.reconcile()
    clean.fuse = Fuse(name="create_job")
    with pytest.raises(Killed):
        clean.reconcile()
    name = clean.store.jobs(_id(clean, BUNDLE))[0].name
    squatter = {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "x", "image": "x"}]}}},
    }  # fmt: skip
    made = clean.kubectl.create(squatter)
    clean.fuse = Fuse()
    clean.reconcile()
    conditions = {item["type"]: item for item in clean.bundle()["status"]["conditions"]}
    assert (conditions["Stalled"]["reason"], conditions["Ready"]["status"]) == ("JobConflict", "False")
    assert f"kubectl delete job -n {NAMESPACE} {name}" in conditions["Ready"]["message"]
    left = clean.cluster.job(NAMESPACE, name)
    assert left is not None
    assert left["metadata"]["uid"] == made["metadata"]["uid"]


def test_no_more_jobs_run_than_the_platform_allows(clean: World) -> None:
    clean.settings = dataclasses.replace(clean.settings, max_pods=1)
    clean.apply()
    clean.reconcile()
    clean.reconcile()
    assert len(clean.jobs()) == 1
    (ready,) = (item for item in clean.bundle()["status"]["conditions"] if item["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("Unknown", "Queued")
    clean.settle()
    assert sorted(clean.state()["dags"]) == ["a", "b", "c"]


def test_what_a_target_asks_for_is_rolled_out_again(clean: World) -> None:
    clean.apply()
    clean.settle()
    before = _id(clean, BUNDLE)
    table = clean.store.db.tables.parse_request
    owner = sa.select(clean.store.db.tables.bundle.c.id).scalar_subquery()
    with clean.store.db.engine.begin() as connection:
        connection.execute(sa.insert(table).values(bundle_id=owner, requested_at=dt.datetime.now(dt.UTC)))
    clean.settle()
    after = _id(clean, BUNDLE)
    assert after != before
    clean.reconcile()
    assert _id(clean, BUNDLE) == after


def test_an_edit_during_a_rollout_supersedes_it_and_removes_its_jobs(clean: World) -> None:
    clean.apply()
    clean.reconcile()
    clean.reconcile()
    older = {job["metadata"]["name"] for job in clean.jobs()}
    assert older
    clean.apply("registry.test/sales:2")
    clean.reconcile()
    newer = {job["metadata"]["name"] for job in clean.jobs() if not job["metadata"].get("deletionTimestamp")}
    assert len(newer) == len(FILES)
    assert not newer & older
    clean.settle()
    assert clean.state()["status"]["version"]["published"] == "registry.test/sales:2"


def test_another_image_with_the_same_dags_is_rolled_out_once(clean: World) -> None:
    clean.apply()
    clean.settle()
    clean.apply("registry.test/sales:2")
    clean.settle()
    rollout = _id(clean, BUNDLE)
    for _ in range(3):
        clean.reconcile()
    assert _id(clean, BUNDLE) == rollout
    assert clean.state()["status"]["version"]["published"] == "registry.test/sales:2"


def test_an_idle_bundle_is_written_to_by_nobody(clean: World) -> None:
    clean.apply()
    clean.settle()
    before = clean.bundle()["metadata"]["resourceVersion"]
    for _ in range(3):
        clean.reconcile()
    assert clean.bundle()["metadata"]["resourceVersion"] == before


def glance(world: World) -> Result | None:
    """Look at the bundle as a controller does that has just started, with thousands of others."""
    controller = world.controller()
    world.fuse.calls.clear()
    return controller.rest(KEY, controller.heads([KEY])[KEY])


def test_one_look_at_the_store_is_enough_for_a_bundle_at_rest(clean: World) -> None:
    clean.apply()
    settled = clean.settle()
    assert glance(clean) == Result(None, "Published")
    assert clean.fuse.calls == ["heads"]
    assert clean.bundle() == settled


def test_a_glance_writes_the_status_that_a_reconcile_would(clean: World) -> None:
    clean.apply()
    clean.settle()
    for suspend, outcome in ((True, "Suspended"), (False, "Published")):
        clean.apply(suspend=suspend)
        assert glance(clean) == Result(None, outcome)
        told = clean.bundle()
        clean.reconcile()
        assert clean.bundle() == told


def test_what_is_not_at_rest_is_left_alone_by_a_glance(clean: World) -> None:
    for step in (clean.apply, clean.reconcile, clean.reconcile):  # unguarded, without a rollout, with an open one
        step()
        left = clean.bundle()
        assert glance(clean) is None
        assert clean.fuse.calls == ["heads"]
        assert clean.bundle() == left
    clean.settle()
    clean.apply("registry.test/sales:2")
    assert glance(clean) is None
    clean.settle()
    clean.kubectl.text("delete", "dagbundle", KEY[1], "--namespace", NAMESPACE, "--wait=false")
    assert glance(clean) is None
    assert clean.fuse.calls == ["heads"]


def _id(world: World, bundle: BundleKey) -> str:
    rollout = world.store.latest_rollout(bundle)
    assert rollout is not None
    return rollout.id
