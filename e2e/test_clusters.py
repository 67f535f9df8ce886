"""Two clusters with one database: bundles of the same namespace and name, each cluster's its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from dagbundle.controller import metrics
from dagbundle.controller.activity import Activity
from dagbundle.controller.seen import Seen
from dagbundle.controller.upkeep import Upkeep
from dagbundle.controller.watchdog import Watchdog
from dagbundle.store.dagstore import DagStore
from e2e.bare import KEY, NAMESPACE, Files, World
from e2e.cluster.apiserver import ApiServer
from support import postgres

EASTERN: Files = {"ingest": {"east.a": "1"}, "reporting": {"east.b": "1"}}
WESTERN: Files = {"ingest": {"west.a": "1"}, "reporting": {"west.b": "1"}}
CLAIMING: Files = {"ingest": {"east.a": "1"}, "reporting": {"west.b": "1"}}


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[ApiServer, ApiServer]]:
    with ApiServer() as east, ApiServer() as west:
        for server in (east, west):
            with DagStore.open("sqlite://", upgrade=True) as nothing:
                World(server, nothing).prepare()
        yield east, west


@pytest.fixture
def url(database: postgres.PostgresServer) -> str:
    return database.create_database()


@pytest.fixture
def worlds(servers: tuple[ApiServer, ApiServer], url: str) -> Iterator[tuple[World, World]]:
    """Both clusters with the bundle that is called the same in each, applied and not yet looked at."""
    with DagStore.open(url, upgrade=True) as store:
        made = World(servers[0], store, "east"), World(servers[1], store, "west")
        for world in made:
            world.apply()
        yield made
        for world in made:
            world.delete()


def live(world: World) -> list[str]:
    return sorted(world.store.live(world.key).dags)


def ready(body: Any) -> tuple[str, str, str]:
    (found,) = (item for item in body["status"]["conditions"] if item["type"] == "Ready")
    return found["status"], found["reason"], found["message"]


def counted(world: World) -> float:
    """The orphans that this cluster's controller tells of."""
    Upkeep(world.store, world.cluster, Seen(), Watchdog(), Activity(), world.settings).look_after()
    return metrics.REGISTRY.get_sample_value("dagbundle_orphaned_bundles") or 0.0


def prune(server: ApiServer, url: str, cluster: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dagbundle.cli.main", "prune", "--yes"],
        env={
            **os.environ, "KUBECONFIG": str(server.kubeconfig), "DAGBUNDLE_DATABASE_URL": url,
            "DAGBUNDLE_CLUSTER_NAME": cluster,
        },
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_bundles_of_the_same_name_are_published_independently(worlds: tuple[World, World]) -> None:
    east, west = worlds
    east.settle(EASTERN)
    assert "conditions" not in west.bundle()["status"]
    west.settle(WESTERN)
    assert (live(east), live(west)) == (["east.a", "east.b"], ["west.a", "west.b"])
    names = {row.airflow_name for row in east.store.list_bundles().items}
    assert names == {f"east.{NAMESPACE}.{KEY[1]}", f"west.{NAMESPACE}.{KEY[1]}"}
    untouched = west.bundle()
    east.apply("registry.test/sales:2")
    east.settle(EASTERN)
    west.reconcile()
    assert west.bundle() == untouched
    assert (east.bundle()["status"]["revision"], untouched["status"]["revision"]) == (2, 1)


def test_deleting_in_one_cluster_leaves_the_dags_of_the_other(worlds: tuple[World, World]) -> None:
    east, west = worlds
    east.settle(EASTERN)
    west.settle(WESTERN)
    untouched = west.bundle()
    east.delete()
    assert east.bundle() is None
    west.reconcile()
    assert (live(east), live(west)) == ([], ["west.a", "west.b"])
    assert west.bundle() == untouched


def test_what_is_left_over_in_one_cluster_is_neither_counted_nor_pruned_in_the_other(
    worlds: tuple[World, World], servers: tuple[ApiServer, ApiServer], url: str
) -> None:
    east, west = worlds
    east.settle(EASTERN)
    west.settle(WESTERN)
    patch = '--patch={"metadata": {"finalizers": null}}'
    west.kubectl.text("patch", "dagbundle", KEY[1], "--namespace", NAMESPACE, "--type=merge", patch)
    west.kubectl.text("delete", "dagbundle", KEY[1], "--namespace", NAMESPACE)
    assert (counted(east), counted(west)) == (0, 1)
    assert "Nothing is left over" in prune(servers[0], url, "east")
    assert "Deactivated 1 bundle" in prune(servers[1], url, "west")
    assert (live(east), live(west)) == (["east.a", "east.b"], [])
    assert (counted(east), counted(west)) == (0, 0)


def test_a_dag_id_that_both_define_is_the_firsts_and_the_second_says_whose(worlds: tuple[World, World]) -> None:
    east, west = worlds
    east.settle(EASTERN)
    status, reason, message = ready(west.settle(CLAIMING))
    assert (status, reason) == ("False", "KeptLastGood")
    assert "dag_id 'east.a' belongs to bundle team-a/sales of cluster 'east'" in message
    assert (live(east), live(west)) == (["east.a", "east.b"], ["west.b"])


def test_a_dag_id_that_the_first_lets_go_of_becomes_the_seconds_unparsed(worlds: tuple[World, World]) -> None:
    east, west = worlds
    east.settle(EASTERN)
    west.settle(CLAIMING)
    runs = west.store.run_states(_rollout(west))
    east.delete()
    west.reconcile()
    assert ready(west.bundle())[:2] == ("True", "Published")
    assert live(west) == ["east.a", "west.b"]
    assert west.store.run_states(_rollout(west)) == runs


def _rollout(world: World) -> str:
    rollout = world.store.latest_rollout(world.key)
    assert rollout is not None
    return rollout.id
