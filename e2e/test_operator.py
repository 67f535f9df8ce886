"""The operator's own process on a bare API server with faked pods: leading, losing what it talks to, and resting."""

from __future__ import annotations

import contextlib
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from dagbundle import errors
from dagbundle.store.dagstore import DagStore
from e2e.bare import BUNDLE, KEY, NAMESPACE, World
from e2e.cluster.apiserver import NAMESPACES_AND_GARBAGE, ApiServer
from e2e.replica import Replica, eventually
from support import pgbouncer, postgres

LEASE = "dagbundle-controller"


@pytest.fixture
def url(database: postgres.PostgresServer) -> str:
    return database.create_database()


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer(controllers=NAMESPACES_AND_GARBAGE) as server:
        yield server


@pytest.fixture
def world(server: ApiServer, url: str) -> Iterator[World]:
    with DagStore.open(url, upgrade=True) as store:
        world = World(server, store)
        world.prepare()
        yield world


@pytest.fixture
def replica(server: ApiServer, url: str, world: World, tmp_path: pathlib.Path) -> Iterator[Callable[[str], Replica]]:  # noqa: ARG001 - the tables and the CRD come first
    made: list[Replica] = []

    def make(name: str, **environment: str) -> Replica:
        made.append(Replica(name, server, url, tmp_path, **environment))
        return made[-1]

    yield make
    for one in made:
        one.stop(signal.SIGKILL)


def reason(world: World) -> str:
    """The reason of Ready, pods having done what they can."""
    with contextlib.suppress(errors.ConflictError):
        world.node()
    conditions = ((world.bundle() or {}).get("status") or {}).get("conditions") or ()
    return next((str(item["reason"]) for item in conditions if item["type"] == "Ready"), "")


def test_a_bundle_is_published_and_deleted_by_the_process(world: World, replica: Callable[[str], Replica]) -> None:
    replica("a")
    world.apply()
    eventually("it is published", lambda: reason(world) == "Published")
    assert sorted(world.state()["dags"]) == ["a", "b", "c"]
    world.kubectl.text("delete", "dagbundle", KEY[1], "--namespace", NAMESPACE, "--wait=false")
    eventually("it is gone", lambda: world.bundle() is None)
    assert not world.store.live(BUNDLE).dags


def test_a_bundle_is_published_by_a_process_behind_pgbouncer_that_listens_past_it(
    world: World, replica: Callable[..., Replica], url: str, database: postgres.PostgresServer
) -> None:
    with pgbouncer.running_pgbouncer(database) as pooler:
        one = replica("a", DAGBUNDLE_DATABASE_URL=pooler.url(url), DAGBUNDLE_LISTEN_URL=url)
        world.apply()
        eventually("it is published", lambda: reason(world) == "Published")
        assert sorted(world.state()["dags"]) == ["a", "b", "c"]
        listening = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dagbundle-listen'"
        assert database.execute(listening) == [(1,)]
        assert one.stop() == 0


def test_one_of_two_leads_and_the_other_takes_over_when_it_is_killed(
    world: World, replica: Callable[[str], Replica]
) -> None:
    first = replica("first")
    eventually("the first leads", first.leads)
    second = replica("second")
    eventually("the second answers", second.healthy)
    assert not second.leads()
    world.apply()
    eventually("Jobs are made", world.jobs)
    first.stop(signal.SIGKILL)
    eventually("the second leads", second.leads)
    eventually("it is published", lambda: reason(world) == "Published")


def test_a_replica_that_ends_in_order_gives_the_lease_back(world: World, replica: Callable[[str], Replica]) -> None:
    first = replica("first")
    eventually("it leads", first.leads)
    assert first.stop() == 0
    lease = world.kubectl("get", "lease", LEASE, "--namespace", "default")
    assert not lease["spec"].get("holderIdentity")


def test_a_replica_that_waits_for_the_lease_ends_in_order_too(replica: Callable[[str], Replica]) -> None:
    first = replica("first")
    eventually("the first leads", first.leads)
    second = replica("second")
    eventually("the second answers", second.healthy)
    assert second.stop() == 0
    assert first.leads()


def test_an_api_server_that_is_away_is_waited_for(
    world: World, server: ApiServer, replica: Callable[[str], Replica]
) -> None:
    one = replica("a")
    eventually("it leads", one.leads)
    world.apply()
    eventually("Jobs are made", world.jobs)
    server.kill()
    threading.Event().wait(20)
    server.start()
    if (
        one.process.poll() is not None
    ):  # it lost the Lease, as it must when it cannot renew it; the kubelet starts it again
        one.start()
    eventually("it is published", lambda: one.process.poll() is None or one.start())
    eventually("it is published", lambda: reason(world) == "Published")


def test_a_database_that_restarts_is_waited_for(
    world: World, database: postgres.PostgresServer, replica: Callable[[str], Replica]
) -> None:
    one = replica("a")
    eventually("it leads", one.leads)
    world.apply()
    eventually("Jobs are made", world.jobs)
    database.restart()
    eventually("it is published", lambda: reason(world) == "Published")
    assert one.process.poll() is None


def test_what_is_idle_is_written_to_by_nobody(world: World, replica: Callable[[str], Replica]) -> None:
    one = replica("a")
    world.apply()
    eventually("it is published", lambda: reason(world) == "Published")
    before = world.bundle()["metadata"]["resourceVersion"]
    events = len(world.kubectl("get", "events", "--namespace", NAMESPACE)["items"])
    threading.Event().wait(10)
    assert world.bundle()["metadata"]["resourceVersion"] == before
    assert len(world.kubectl("get", "events", "--namespace", NAMESPACE)["items"]) == events
    assert one.healthy()
