"""From an apply to Ready on a cluster, and where the time goes: `python -m bench.ready`, as root.

A bundle is applied to the cluster of the end-to-end tests, again and again under another name, with its image already
on the node. Watches say when its Job was made and when it was Ready; the store, when its run closed and when it was
published; the DAG files themselves, when the parser's process began and when they were parsed. All is on one machine
and has one clock.

The limits stand in the peer's column: the pod's start, the import of Airflow and parsing take what they take, and we
have two seconds for all the rest. Every part is a row of its own; those of ours share the two seconds.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import statistics
import time
from typing import TYPE_CHECKING, Any

from kubernetes import client, config, watch

from bench import harness
from e2e import images
from e2e import installation as installations
from e2e.cluster import Cluster
from e2e.cluster.install import install
from e2e.tenants import condition, manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from e2e.installation import Installation
    from e2e.tenants import Team

FILES = 20
QUICK = 3
ROUNDS = 7
LIMIT = 2.0
"""Seconds that may be ours."""
TEAM = "team-b"
JOBS = ("batch", "v1", "jobs")
BUNDLES = ("dagbundle.dev", "v1alpha1", "dagbundles")
_SECONDS = 120
_SETTLE_SECONDS = 3.0
"""Before each round: the pod of the round before ends, and is nobody's concern any more."""
_CONNECT_SECONDS = 0.5
"""Until a watch is surely there."""

_FILE = """\
import json
import os
import time

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, chain

ticks = int(open("/proc/1/stat").read().rpartition(")")[2].split()[19])
since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
begun = time.time() - since_boot + ticks / os.sysconf("SC_CLK_TCK")

with DAG({dag_id!r}, schedule=None, description=json.dumps([begun, time.time()])):
    chain(*[EmptyOperator(task_id=f"task_{{number}}") for number in range(5)])
"""
"""The first process of its pod is the parser."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moments:
    """When things happened in one round, in seconds since the epoch."""

    applied: float
    job: float
    begun: float
    """The parser's process."""
    imported: float
    """Airflow, as the first file shows that ran."""
    parsed: float
    """The last file."""
    closed: float
    """The run: the report has come whole, and is staged."""
    published: float
    ready: float

    @property
    def total(self) -> float:
        """From the apply to Ready."""
        return self.ready - self.applied

    @property
    def ours(self) -> float:
        """What neither the cluster needs to start a pod, nor Airflow to be imported and to parse."""
        return self.total - (self.parsed - self.job)


PARTS = (
    ("pod start, from the Job to the parser's process", "job", "begun"),
    ("import of Airflow, until the first file runs", "begun", "imported"),
    ("parsing", "imported", "parsed"),
)
OURS = (
    ("from the apply to the Job", "applied", "job"),
    ("report, from the last file to the closed run", "parsed", "closed"),
    ("judging and publishing", "closed", "published"),
    ("status, until a watch shows Ready", "published", "ready"),
)


def measure(settings: harness.Settings) -> list[harness.Row]:
    """Apply a bundle some times, and take the medians."""
    files = QUICK if settings.quick else FILES
    rounds = settings.repeat or (2 if settings.quick else ROUNDS)
    with _operator() as operator:
        cluster, team = operator.cluster, operator.team(TEAM)
        tenant = images.with_dags(
            images.airflow(images.find_uv()),
            {f"file_{number}.py": _FILE.format(dag_id=f"dag_{number}") for number in range(files)},
        )
        image = f"{cluster.registry}/bench@{cluster.push_image(tenant, 'bench:1')}"
        harness.progress("the first round, which brings the image to the node")
        _round(operator, team, image, "warm", files)
        found = []
        for number in range(rounds):
            found.append(_round(operator, team, image, f"round-{number}", files))
            harness.progress(f"round {number + 1}: {_told(found[-1])}")
    return _rows(found, files)


def _rows(found: Sequence[Moments], files: int) -> list[harness.Row]:
    def median(first: str, last: str) -> float:
        return statistics.median(_seconds(moments, first, last) for moments in found)

    theirs = [(name, median(first, last)) for name, first, last in PARTS]
    total = statistics.median(moments.total for moments in found)
    return [
        _row(f"apply to Ready: {files} files, image on the node", total, sum(part for _, part in theirs) + LIMIT),
        *(_row(f"of these, {name}", part, part) for name, part in theirs),
        _row("of these, ours", statistics.median(moments.ours for moments in found), LIMIT),
        *(_row(f"of ours, {name}", median(first, last), LIMIT) for name, first, last in OURS),
    ]


def _seconds(moments: Moments, first: str, last: str) -> float:
    return float(getattr(moments, last) - getattr(moments, first))


def _row(name: str, ours: float, limit: float) -> harness.Row:
    return harness.Row(
        name=name, ours=ours, peer=limit, ratio=limit / max(ours, 1e-9), unit="s", command=harness.this_command()
    )


def _told(moments: Moments) -> str:
    parts = (f"{_seconds(moments, first, last):.2f} s {name}" for name, first, last in PARTS + OURS)
    return f"{moments.total:.2f} s, of which {'; '.join(parts)}"


@contextlib.contextmanager
def _operator() -> Iterator[Installation]:
    """Install the operator of the working tree, on a cluster that is brought up unless it is up."""
    install()
    uv = images.find_uv()
    with Cluster() as cluster:
        harness.progress("installing the operator")
        names = {"dagbundle-operator": images.operator(uv), "database": images.postgres()}
        operator, database = (
            f"{cluster.registry}/{name}@{cluster.push_image(image, f'{name}:bench')}" for name, image in names.items()
        )
        with installations.installed(cluster, operator, database) as installed:
            yield installed


def _round(operator: Installation, team: Team, image: str, name: str, files: int) -> Moments:
    """Apply a bundle, wait until it is Ready, ask everybody when things happened, and delete it."""
    time.sleep(_SETTLE_SECONDS)
    api = client.CustomObjectsApi(_connect(operator))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        made = pool.submit(_arrival, api, JOBS, team.namespace, functools.partial(_is_job_of, name))
        ready = pool.submit(_arrival, api, BUNDLES, team.namespace, functools.partial(_is_ready, name))
        time.sleep(_CONNECT_SECONDS)
        applied = time.time()
        group, version, kind = BUNDLES
        api.create_namespaced_custom_object(group, version, team.namespace, kind, manifest(name, image))
    seen = {"applied": applied, "job": made.result(), "ready": ready.result()}
    moments = Moments(**seen, **_told_by_the_store(operator, name), **_told_by_the_files(operator, name, files))
    team.bundle(name).delete()
    return moments


def _connect(operator: Installation) -> client.ApiClient:
    settings = client.Configuration()
    config.load_kube_config(config_file=str(operator.kubectl.kubeconfig), client_configuration=settings)  # type: ignore[no-untyped-call] # untyped in the client
    return client.ApiClient(settings)


def _arrival(
    api: client.CustomObjectsApi, kinds: tuple[str, str, str], namespace: str, holds: Callable[[Any], bool]
) -> float:
    """Return when a watch shows the first object of which something holds."""
    group, version, kind = kinds
    watched = watch.Watch()  # type: ignore[no-untyped-call] # untyped in the client
    listing = functools.partial(api.list_namespaced_custom_object, group, version, namespace, kind)
    for event in watched.stream(listing, timeout_seconds=_SECONDS):  # type: ignore[no-untyped-call] # likewise
        now = time.time()
        if holds(event["object"]):
            return now
    raise harness.BenchError(f"no {kind} of namespace {namespace} was as expected within {_SECONDS} s")


def _is_job_of(name: str, job: Any) -> bool:
    return bool(job["metadata"]["labels"].get("dagbundle.dev/bundle") == name)


def _is_ready(name: str, bundle: Any) -> bool:
    return bool(bundle["metadata"]["name"] == name and condition(bundle).get("status") == "True")


def _told_by_the_store(operator: Installation, name: str) -> dict[str, float]:
    rows = operator.database.execute(
        "select bundle.name, parse_run.closed_at, rollout.finished_at from dagbundle.parse_run "
        "join dagbundle.rollout on rollout.id = parse_run.rollout "
        "join dagbundle.bundle on bundle.id = rollout.bundle_id"
    )
    ((closed, published),) = [(closed, published) for bundle, closed, published in rows if bundle == name]
    return {"closed": closed.timestamp(), "published": published.timestamp()}


def _told_by_the_files(operator: Installation, name: str, files: int) -> dict[str, float]:
    """Return what the files wrote into their DAGs; the parser measured how long each took, its serializing included."""
    rows = operator.database.execute(
        "select bundle.name, source_file.path, source_file.duration from dagbundle.source_file "
        "join dagbundle.bundle on bundle.id = source_file.bundle_id"
    )
    took = {path: duration for bundle, path, duration in rows if bundle == name}
    with operator.database.store() as store:
        told = {
            number: json.loads(store.get_serialized_dag(f"dag_{number}")["dag"]["description"])
            for number in range(files)
        }
    return {
        "begun": told[0][0],
        "imported": min(moment for _, moment in told.values()),
        "parsed": max(moment + took[f"file_{number}.py"] for number, (_, moment) in told.items()),
    }


if __name__ == "__main__":
    harness.main(__doc__ or "", {"ready": measure}, peer="limit")
