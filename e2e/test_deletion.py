"""A deletion without its database: it waits for a while and then goes on, and what was left behind is found."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from dagbundle import errors
from dagbundle.controller import deletion, metrics, workers
from dagbundle.controller.activity import Activity
from dagbundle.controller.queue import Queue
from dagbundle.controller.reconciler import utc_now
from dagbundle.controller.seen import Key, Seen
from dagbundle.controller.upkeep import Upkeep
from dagbundle.controller.watchdog import Watchdog
from dagbundle.engine import orphans
from e2e.bare import KEY, NAMESPACE, World
from e2e.cluster.apiserver import ApiServer
from e2e.replica import eventually
from support import postgres


@pytest.fixture
def published(world: World) -> Iterator[World]:
    """The world with a bundle whose three DAGs are live."""
    world.apply()
    world.settle()
    assert sorted(world.state()["dags"]) == ["a", "b", "c"]
    yield world
    world.now = utc_now
    world.delete()
    assert world.bundle() is None


def deleted_at(world: World) -> dt.datetime:
    """Ask for its deletion, and return when."""
    world.kubectl.text("delete", "dagbundle", KEY[1], "--namespace", NAMESPACE, "--wait=false")
    return dt.datetime.fromisoformat(world.bundle()["metadata"]["deletionTimestamp"])


def turn_clock(world: World, since: dt.datetime, seconds: float) -> None:
    """Let the controller believe that so much time has passed."""
    moment = since + dt.timedelta(seconds=seconds)
    world.now = lambda: moment


def let_go_without_the_database(world: World, database: postgres.PostgresServer) -> None:
    """Delete the bundle while the database is away for too long, and bring the database back."""
    since = deleted_at(world)
    turn_clock(world, since, deletion.PATIENCE)
    database.stop(signal.SIGQUIT)
    try:
        world.reconcile()
    finally:
        database.restart()
    assert world.bundle() is None


def take_finalizer_off_by_hand(world: World) -> None:
    """Do as docs/operations.md says where no controller runs."""
    patch = '--patch={"metadata": {"finalizers": null}}'
    world.kubectl.text("patch", "dagbundle", KEY[1], "--namespace", NAMESPACE, "--type=merge", patch)
    world.kubectl.text("delete", "dagbundle", KEY[1], "--namespace", NAMESPACE)
    assert world.bundle() is None


def counted(world: World) -> float:
    """The metric of what nothing stands for any more, after the controller has looked after its store."""
    Upkeep(world.store, world.cluster, Seen(), Watchdog(), Activity(), world.settings).look_after()
    return metrics.REGISTRY.get_sample_value("dagbundle_orphaned_bundles") or 0.0


def prune(world: World, server: ApiServer, *arguments: str) -> str:
    """What `dagbundle prune` says."""
    url = world.store.db.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    done = subprocess.run(
        [sys.executable, "-m", "dagbundle.cli.main", "prune", *arguments],
        env={**os.environ, "KUBECONFIG": str(server.kubeconfig), "DAGBUNDLE_DATABASE_URL": url},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout + done.stderr


def assert_pruned(world: World, server: ApiServer) -> None:
    """It is counted and still live, shown and still live, then deactivated and counted no more."""
    assert counted(world) == 1
    assert orphans.orphans(world.store.bundles_known(), world.cluster.bundle_versions().keys()) == (world.key,)
    shown = prune(world, server)
    assert [line.split() for line in shown.splitlines() if KEY[1] in line] == [[*KEY, "3"]]
    assert "Nothing was changed" in shown
    assert sorted(world.store.live(world.key).dags) == ["a", "b", "c"]
    assert "Deactivated 1 bundle" in prune(world, server, "--yes")
    assert not world.store.live(world.key).dags
    assert counted(world) == 0
    assert "Nothing is left over" in prune(world, server, "--yes")


def test_a_deletion_waits_for_the_database(published: World, database: postgres.PostgresServer) -> None:
    since = deleted_at(published)
    database.stop(signal.SIGQUIT)
    try:
        for seconds in (0, 1, deletion.PATIENCE - 1):
            turn_clock(published, since, seconds)
            with pytest.raises(errors.StoreUnavailableError):
                published.reconcile()
            assert published.bundle()["metadata"]["finalizers"] == [deletion.FINALIZER]
    finally:
        database.restart()
    published.reconcile()
    assert published.bundle() is None
    assert not published.store.live(published.key).dags
    assert counted(published) == 0


def test_a_deletion_is_tried_again_as_soon_as_it_need_not_wait_any_longer(published: World) -> None:
    since = deleted_at(published)
    turn_clock(published, since, 100)
    assert published.controller().retry_within(KEY) == deletion.PATIENCE - 100 + 1


def test_a_deletion_goes_on_without_the_database_after_five_minutes_and_says_so(
    published: World, database: postgres.PostgresServer
) -> None:
    let_go_without_the_database(published, database)
    events = published.kubectl("get", "events", "--namespace", NAMESPACE)["items"]
    (event,) = (item for item in events if item["reason"] == "Deleted" and item["type"] == "Warning")
    assert "dagbundle prune" in event["message"]
    assert event["involvedObject"]["name"] == KEY[1]
    published.store.deactivate_bundle(published.key)


def test_a_deletion_goes_on_without_the_database_though_others_are_looked_at_with_it(
    published: World, database: postgres.PostgresServer
) -> None:
    turn_clock(published, deleted_at(published), deletion.PATIENCE)
    queue: Queue[Key] = Queue()
    for key in (KEY, (NAMESPACE, "others"), (NAMESPACE, "more")):
        queue.add(key)
    controller = published.controller()
    database.stop(signal.SIGQUIT)
    try:
        threads = workers.start(queue, controller, 1, Activity())
        eventually("it is gone", lambda: published.bundle() is None)
        queue.close()
        for thread in threads:
            thread.join()
    finally:
        database.restart()
    published.store.deactivate_bundle(published.key)


def test_a_deletion_that_leaves_the_dags_does_not_need_the_database(
    published: World, database: postgres.PostgresServer
) -> None:
    published.apply(deletionPolicy="Orphan")
    deleted_at(published)
    database.stop(signal.SIGQUIT)
    try:
        published.reconcile()
        assert published.bundle() is None
    finally:
        database.restart()
    assert sorted(published.store.live(published.key).dags) == ["a", "b", "c"]
    published.store.deactivate_bundle(published.key)


def test_what_was_deleted_without_the_database_is_counted_and_pruned(
    published: World, database: postgres.PostgresServer, server: ApiServer
) -> None:
    let_go_without_the_database(published, database)
    assert_pruned(published, server)


def test_what_lost_its_finalizer_by_hand_is_counted_and_pruned(published: World, server: ApiServer) -> None:
    take_finalizer_off_by_hand(published)
    assert_pruned(published, server)
