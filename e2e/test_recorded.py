"""DagBundles in each state that a user meets, as the real reconciler leaves them on a real API server.

tests/unit/chart/recorded.yaml keeps them, so that whatever reads a DagBundle's health (Argo CD's check) is tested
without a cluster, on what there is and not on what somebody imagined. After a change that is meant, write it anew:

    DAGBUNDLE_RECORD=1 python -m pytest e2e/test_recorded.py
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import yaml

from dagbundle.engine.engine import Engine
from dagbundle.resources.grants import Grants
from dagbundle.rollout.model import Problem
from dagbundle.runtime.kubernetes.jobs import SUBDIR_ANNOTATION
from dagbundle.store.dagstore import DagStore
from e2e.bare import KEY, NAMESPACE, ROOT, Files, Fuse, Killed, World
from e2e.cluster.apiserver import ApiServer
from support import postgres

RECORD = bool(os.environ.get("DAGBUNDLE_RECORD"))
FILE = ROOT / "tests" / "unit" / "chart" / "recorded.yaml"
BROKEN: Files = {"ingest": Problem("SyntaxError", "invalid syntax", 3), "reporting": {"c": "1"}}
FEWER: Files = {"ingest": {"a": "1"}, "reporting": {"c": "1"}}
IMAGE_ID = "registry.test/sales@sha256:" + "a" * 64
TIME = "2026-01-01T00:00:00Z"
STATES: dict[str, Callable[[World], object]] = {}
"""By name, what brings a world in which nothing was applied into the state."""


def state(make: Callable[[World], object]) -> Callable[[World], object]:
    STATES[make.__name__.replace("_", " ")] = make
    return make


def parsing_jobs(world: World) -> dict[str, Any]:
    """Go on until the Jobs are made, and return them by subdir."""
    world.reconcile()
    world.reconcile()
    made = {job["metadata"]["annotations"][SUBDIR_ANNOTATION]: job for job in world.jobs()}
    assert made
    return made


def container(image_id: str = "", **condition: Mapping[str, Any]) -> dict[str, Any]:
    """A pod's status with the parser in some state."""
    told = {"name": "parser", "image": "registry.test/sales:1", "imageID": image_id, "ready": False, "restartCount": 0}
    return {"containerStatuses": [{**told, "state": condition}]}


def published_once(world: World, **spec: Any) -> None:
    """Apply and publish a first version, whose pods are seen."""
    world.apply(**spec)
    for job in parsing_jobs(world).values():
        world.pod(job, {"phase": "Succeeded", **container(IMAGE_ID, terminated={"exitCode": 0})})
    world.settle()


@state
def applied(world: World) -> None:
    world.apply()


@state
def guarded(world: World) -> None:
    world.apply()
    world.reconcile()


@state
def parsing(world: World) -> None:
    world.apply()
    parsing_jobs(world)


@state
def queued(world: World) -> None:
    world.settings = dataclasses.replace(world.settings, max_pods=1)
    world.apply()
    parsing_jobs(world)


@state
def image_cannot_be_pulled(world: World) -> None:
    world.apply()
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "registry.test/sales:1"'}
    world.pod(parsing_jobs(world)["ingest"], {"phase": "Pending", **container(waiting=waiting)})
    world.reconcile()


@state
def published(world: World) -> None:
    published_once(world)


@state
def published_and_changed_since(world: World) -> None:
    published_once(world)
    world.apply("registry.test/sales:2")


@state
def published_and_parsing_the_next_version(world: World) -> None:
    published_once(world)
    world.apply("registry.test/sales:2")
    world.reconcile()


@state
def kept_last_good(world: World) -> None:
    published_once(world)
    world.apply("registry.test/sales:2")
    world.settle(BROKEN)


@state
def suspended(world: World) -> None:
    published_once(world)
    world.apply(suspend=True)
    world.reconcile()


@state
def suspended_and_not_yet_seen(world: World) -> None:
    published_once(world)
    world.apply(suspend=True)


@state
def held_after_a_rollback(world: World) -> None:
    published_once(world)
    world.apply("registry.test/sales:2")
    world.settle(FEWER)
    Engine(world.store).rollback(world.key, reason="orders were counted twice")
    world.reconcile()


@state
def run_failed_and_tried_again(world: World) -> None:
    world.apply()
    job = parsing_jobs(world)["ingest"]
    ended = {"exitCode": 1, "reason": "Error", "message": "the disk is full"}
    world.pod(job, {"phase": "Failed", **container(terminated=ended)})
    world.fail(job, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
    world.node(subdirs=["reporting"])
    world.reconcile()


@state
def blocked_by_a_broken_file(world: World) -> None:
    world.apply(rollout={"onImportError": "Fail"})
    world.settle(BROKEN)


@state
def blocked_by_removed_dags(world: World) -> None:
    published_once(world)
    world.apply("registry.test/sales:2", rollout={"maxRemovedDags": 0})
    world.settle(FEWER)


@state
def invalid_spec(world: World) -> None:
    world.apply(parser={"fileTimeout": "0s"})
    parsing_nothing(world)


@state
def namespace_not_enabled(world: World) -> None:
    world.settings = dataclasses.replace(world.settings, grants=Grants(tenants=[]))
    world.apply()
    parsing_nothing(world)


@state
def access_denied(world: World) -> None:
    world.apply(subdirs=[{"path": "ingest", "serviceAccountName": "nobody"}])
    parsing_nothing(world)


@state
def job_conflict(world: World) -> None:
    world.apply()
    world.reconcile()
    world.fuse = Fuse(name="create_job")
    with pytest.raises(Killed):
        world.reconcile()
    world.fuse = Fuse()
    rollout = world.store.latest_rollout(world.key)
    assert rollout is not None
    name = world.store.jobs(rollout.id)[0].name
    pod = {"restartPolicy": "Never", "containers": [{"name": "x", "image": "x"}]}
    metadata = {"name": name, "namespace": NAMESPACE}
    world.kubectl.create(
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": {"spec": pod}}}
    )
    world.reconcile()


@state
def workload_not_found(world: World) -> None:
    world.apply(source={"workloadRef": {"name": "airflow"}})
    parsing_nothing(world)


@state
def being_deleted(world: World) -> None:
    published_once(world)
    world.kubectl.text("delete", "dagbundle", KEY[1], "--namespace", NAMESPACE, "--wait=false")


def parsing_nothing(world: World) -> None:
    """Go on until there is a status, and no Job."""
    world.reconcile()
    world.reconcile()
    assert not world.jobs()


def normal(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object without what differs from run to run."""
    kept = ("name", "namespace", "generation", "finalizers", "deletionTimestamp")
    found = {**body, "metadata": {name: body["metadata"][name] for name in kept if name in body["metadata"]}}
    text = yaml.safe_dump(found, width=10_000)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", TIME, text)
    text = re.sub(rf"\b{KEY[1]}-[0-9a-f]{{10}}\b", f"{KEY[1]}-0123456789", text)
    text = re.sub(r"tried again at \d\d:\d\d:\d\d UTC", "tried again at 12:00:00 UTC", text)
    normalised: dict[str, Any] = yaml.safe_load(text)
    return normalised


def recorded() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text()) if FILE.exists() else {}
    return found


def record(name: str, body: Mapping[str, Any]) -> None:
    known = {**recorded(), name: body}
    text = yaml.safe_dump({each: known[each] for each in STATES if each in known}, sort_keys=False, width=120)
    head = "# Written by e2e/test_recorded.py, which says how: DagBundles as an API server had them.\n"
    FILE.write_text(head + text)


@pytest.fixture(scope="module")
def template(server: ApiServer, database: postgres.PostgresServer) -> str:
    """A database with tables and nothing in them: what a bundle was before is in its status too."""
    url = database.create_database()
    with DagStore.open(url, upgrade=True) as store:
        World(server, store).prepare()
    return url.rpartition("/")[2]


@pytest.fixture
def world(server: ApiServer, database: postgres.PostgresServer, template: str) -> Iterator[World]:
    with DagStore.open(database.create_database(template=template)) as store:
        world = World(server, store)
        yield world
        world.delete()


@pytest.mark.parametrize("name", STATES)
def test_a_bundle_is_as_it_is_recorded(name: str, world: World) -> None:
    STATES[name](world)
    found = normal(world.bundle())
    if RECORD:
        record(name, found)
    assert recorded()[name] == found


def test_nothing_else_is_recorded() -> None:
    assert list(recorded()) == list(STATES)
