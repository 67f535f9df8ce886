"""A bundle whose image is a Deployment's: parsed as soon as the template is seen, published when it is rolled out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dagbundle.store.dagstore import DagStore
from e2e.bare import FILES, NAMESPACE, World
from e2e.cluster.apiserver import ApiServer
from support import postgres

CHANGED = {"ingest": {"a": "2"}, "reporting": {"c": "1"}}


class Workload:
    """A Deployment, and what its controller would write into its status."""

    def __init__(self, world: World) -> None:
        self._world = world

    def rolls_out(self, image: str, *, paused: bool = False) -> None:
        """Change its template; its status is now behind."""
        labels = {"app": "airflow"}
        containers = [{"name": "dags", "image": image}]
        self._world.kubectl.apply(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "airflow", "namespace": NAMESPACE},
                "spec": {
                    "replicas": 2,
                    "paused": paused,
                    "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
                },
            }
        )

    def is_at(self, updated: int, available: int, **condition: str) -> None:
        """Write its status for the newest template."""
        body = self._world.cluster.workload("Deployment", NAMESPACE, "airflow")
        assert body is not None
        status = {
            "observedGeneration": body["metadata"]["generation"], "replicas": 2,
            "updatedReplicas": updated, "readyReplicas": available, "availableReplicas": available,
            "conditions": [condition] if condition else [],
        }  # fmt: skip
        self._world.cluster.call(
            "PATCH", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/airflow/status", body={"status": status},
            headers={"Content-Type": "application/merge-patch+json"},
        )  # fmt: skip


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with (
        postgres.running_postgres() as database,
        ApiServer() as server,
        DagStore.open(database.create_database(), upgrade=True) as store,
    ):
        world = World(server, store)
        world.prepare()
        yield world


@pytest.fixture
def workload(world: World) -> Iterator[Workload]:
    made = Workload(world)
    made.rolls_out("registry.test/sales:1")
    made.is_at(2, 2)
    world.apply(source={"workloadRef": {"name": "airflow", "container": "dags"}})
    yield made
    world.delete()


def ready(world: World) -> Any:
    return next(item for item in world.bundle()["status"]["conditions"] if item["type"] == "Ready")


def take_turns(world: World, files: Any = FILES) -> None:
    for _ in range(4):
        world.reconcile()
        world.node(files)
    world.reconcile()


@pytest.mark.usefixtures("workload")
def test_what_a_complete_workload_runs_is_published(world: World) -> None:
    take_turns(world)
    assert ready(world)["reason"] == "Published"
    assert sorted(world.state()["dags"]) == ["a", "b", "c"]


def test_a_new_template_is_parsed_at_once_and_published_when_it_is_rolled_out(world: World, workload: Workload) -> None:
    take_turns(world)
    workload.rolls_out("registry.test/sales:2")
    take_turns(world, CHANGED)
    assert ready(world)["reason"] == "WaitingForWorkload"
    assert all(item["phase"] == "Succeeded" for item in world.bundle()["status"]["subdirs"])
    assert sorted(world.state()["dags"]) == ["a", "b", "c"]
    workload.is_at(2, 2)
    take_turns(world, CHANGED)
    assert ready(world)["reason"] == "Published"
    assert sorted(world.state()["dags"]) == ["a", "c"]


def test_an_undo_supersedes_what_was_parsed(world: World, workload: Workload) -> None:
    take_turns(world)
    workload.rolls_out("registry.test/sales:2")
    take_turns(world, CHANGED)
    workload.rolls_out("registry.test/sales:1")
    workload.is_at(2, 2)
    take_turns(world)
    assert ready(world)["reason"] == "Published"
    assert sorted(world.state()["dags"]) == ["a", "b", "c"]


def test_a_paused_rollout_blocks(world: World, workload: Workload) -> None:
    take_turns(world)
    workload.rolls_out("registry.test/sales:2", paused=True)
    take_turns(world, CHANGED)
    assert ready(world)["reason"] == "WorkloadPaused"
    assert sorted(world.state()["dags"]) == ["a", "b", "c"]


def test_a_failed_rollout_blocks_and_says_why(world: World, workload: Workload) -> None:
    take_turns(world)
    workload.rolls_out("registry.test/sales:2")
    workload.is_at(1, 1, type="Progressing", status="False", reason="ProgressDeadlineExceeded", message="crash loop")
    take_turns(world, CHANGED)
    assert ready(world)["reason"] == "WorkloadFailed"
    assert "crash loop" in ready(world)["message"]


@pytest.mark.usefixtures("workload")
def test_a_workload_that_is_not_there_is_said(world: World) -> None:
    world.apply(source={"workloadRef": {"name": "nothing"}})
    world.reconcile()
    world.reconcile()
    assert ready(world)["reason"] == "WorkloadNotFound"
