"""The controller with thousands of bundles: how long a restart takes, and what it costs while nothing happens.

A bare API server (etcd and kube-apiserver, no pods) and a PostgreSQL hold that many DagBundles, each published with two
DAGs. One is published as any other; the rest are copies of its rows, since publishing them all would take longer than
what is measured. There is no peer that does the same: the limits stand in its column, where there are some.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy as sa
from kubernetes import client, config

from bench import databases, harness
from dagbundle.resources import base
from dagbundle.resources import bundle as bundle_models
from dagbundle.rollout import plan
from dagbundle.rollout.document import RolloutDocument
from dagbundle.rollout.model import BundleKey
from dagbundle.runtime.kubernetes.client import Cluster
from dagbundle.store.dagstore import DagStore
from e2e.cluster.apiserver import ApiServer
from e2e.cluster.processes import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BUNDLES = 5_000
QUICK = 200
NAMESPACE = "team-a"
IMAGE = "registry.example/dags:1"
RESTART_LIMIT = 30.0
"""Seconds from the start of the process until every bundle was reconciled."""
SETTLE_SECONDS = 15.0
"""After that PostgreSQL's sessions have told their statistics."""
IDLE_SECONDS = 60.0
_PATH = f"/apis/dagbundle.dev/v1alpha1/namespaces/{NAMESPACE}/dagbundles"
_COPIES: Mapping[str, Mapping[str, str]] = {
    "bundle": {"name": "'bundle-' || n", "airflow_name": f"'{NAMESPACE}.bundle-' || n", "rollout": "old.rollout || n"},
    "publication": {"token": "old.token || n", "rollout": "old.rollout || n"},
    "rollout": {"id": "old.id || n"},
    "parse_run": {"id": "old.id || n", "rollout": "old.rollout || n"},
    "job": {"run_id": "old.run_id || n", "rollout": "old.rollout || n", "name": "old.name || n"},
    "submission": {"run": "old.run || n"},
    "source_file": {},
    "dag": {"dag_id": "old.dag_id || n"},
    "dag_version": {"dag_id": "old.dag_id || n"},
}
"""By table, what differs in the copies of the first bundle's rows; `n` numbers the copies."""


@dataclasses.dataclass
class Controller:
    """A running controller."""

    process: subprocess.Popen[bytes]
    port: int

    def until_reconciled(self, number: int) -> None:
        """Wait until every bundle was seen, and nothing is left to be looked at."""
        while self.process.poll() is None:
            with contextlib.suppress(OSError):
                found = self._metrics()
                done = min(found.get("dagbundle_bundles_seen", 0), found.get("dagbundle_reconcile_total", 0))
                if done >= number and not found.get("dagbundle_queue_depth", 1):
                    return
            time.sleep(0.1)
        raise harness.BenchError("the controller ended")

    def _metrics(self) -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        rows = re.findall(r"(?m)^(\w+)(\{[^}]*\})? ([\d.e+-]+)$", text)
        found = {name: float(value) for name, labels, value in rows if not labels}
        found["dagbundle_reconcile_total"] = sum(
            float(value) for name, _, value in rows if name == "dagbundle_reconcile_total"
        )
        found["dagbundle_bundles_seen"] = sum(
            float(value) for name, labels, value in rows if name == "dagbundle_bundles" and 'ready="True"' in labels
        )
        return found

    @property
    def cpu(self) -> float:
        """The seconds of CPU that it has used."""
        stat = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii")
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def memory(self) -> int:
        """The bytes that it has in memory."""
        pages = pathlib.Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


def measure(settings: harness.Settings) -> list[harness.Row]:
    """Start a controller on many published bundles, then leave it alone."""
    number = QUICK if settings.quick else BUNDLES
    with ApiServer() as server, databases.server("postgresql") as postgres, harness.scratch("controller") as folder:
        url = postgres.fresh(folder).url
        harness.progress(f"making {number} published bundles")
        with DagStore.open(url, upgrade=True) as store:
            _prepare(server, store, number)
        harness.progress("the first start writes every status")
        started = time.monotonic()
        with _controller(server, url, folder) as controller:
            controller.until_reconciled(number)
            first = time.monotonic() - started
        harness.progress(f"{first:.1f} s; a restart")
        started = time.monotonic()
        with _controller(server, url, folder) as controller:
            controller.until_reconciled(number)
            restart, used = time.monotonic() - started, controller.cpu
            harness.progress(f"{restart:.1f} s, of CPU {used:.1f} s; idle for {SETTLE_SECONDS + IDLE_SECONDS:.0f} s")
            return [
                _row(f"{number} DagBundles: restart to all reconciled", restart, "s", limit=RESTART_LIMIT),
                _row(f"{number} DagBundles: CPU of a restart", used, "s"),
                _row(f"{number} DagBundles: first start, every status written", first, "s"),
                *_idle(server, url, controller, number),
            ]


def _prepare(server: ApiServer, store: DagStore, number: int) -> None:
    kubectl = server.kubectl
    kubectl.text("apply", "--server-side", f"--filename={harness.ROOT / 'crds/dagbundles.dagbundle.dev.yaml'}")
    kubectl.until(
        "customresourcedefinitions", lambda body: bool(body.get("status", {}).get("acceptedNames", {}).get("kind"))
    )
    kubectl.text("create", "namespace", NAMESPACE)
    settings = client.Configuration()
    config.load_kube_config(config_file=str(server.kubeconfig), client_configuration=settings)  # type: ignore[no-untyped-call] # untyped in the client
    cluster = Cluster(client.ApiClient(settings))
    _publish(store, _apply(cluster, 0))
    with store.db.engine.begin() as connection:
        for table, differing in _COPIES.items():
            connection.execute(
                _copy(store.db.tables.metadata.tables[f"dagbundle.{table}"], differing), {"last": number - 1}
            )
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda index: _apply(cluster, index), range(1, number)))


def _apply(cluster: Cluster, index: int) -> Any:
    body: dict[str, Any] = {
        "apiVersion": "dagbundle.dev/v1alpha1",
        "kind": "DagBundle",
        "metadata": {"name": f"bundle-{index}", "finalizers": ["dagbundle.dev/deactivate"]},
        "spec": {"source": {"image": {"reference": IMAGE}}},
    }
    return cluster.call("POST", _PATH, body=body)


def _publish(store: DagStore, made: Any) -> None:
    """Publish a bundle as the controller would have, with a Job that is gone."""
    from integration.store import builder  # noqa: PLC0415 - the tests' own, found when their PostgreSQL was

    known = {name: made[name] for name in ("apiVersion", "kind", "metadata", "spec")}
    resource = base.validate(bundle_models.DagBundle, known, what="the benchmark's bundle")
    key = BundleKey(NAMESPACE, resource.metadata.name)
    store.register_bundle(key, str(key))
    template = plan.template_hash(resource, IMAGE)
    rollout = store.start_rollout(key, version=IMAGE, template_hash=template, subdirs=["."], document=RolloutDocument())
    job = store.record_job(
        rollout.id, ".", namespace=NAMESPACE, service_account="default", name="bundle-0-job", request={}
    )
    store.job_created(job.run_id, "a-uid")
    builder.run(store, rollout, ".", [builder.staged("dags.py", {"one": "1", "two": "1"})])
    changeset = builder.changeset(store, rollout)
    store.publish(rollout.id, changeset, builder.judged(store.live(key), changeset.runs))


def _copy(table: sa.Table, differing: Mapping[str, str]) -> sa.TextClause:
    """Return the statement that repeats the first bundle's rows for all others."""
    expressions = {column.name: f"old.{column.name}" for column in table.columns}
    if table.name == "bundle":
        del expressions["id"]
    if "bundle_id" in expressions:
        expressions["bundle_id"] = "new.id"
    expressions |= differing
    copies = f"{table} AS old, generate_series(1, :last) AS n"
    if "bundle_id" in expressions:
        copies += " JOIN dagbundle.bundle AS new ON new.name = 'bundle-' || n"
    names, values = ", ".join(expressions), ", ".join(expressions.values())
    return sa.text(f"INSERT INTO {table} ({names}) SELECT {values} FROM {copies}")  # noqa: S608 - our own names


@contextlib.contextmanager
def _controller(server: ApiServer, url: str, folder: pathlib.Path) -> Iterator[Controller]:
    grants = folder / "grants.yaml"
    grants.write_text(f"tenants: [{{namespace: {NAMESPACE}}}]\n")
    health, port = free_ports(2)
    env = {
        **{name: value for name, value in os.environ.items() if name not in harness.NOT_INHERITED},
        "KUBECONFIG": str(server.kubeconfig), "DAGBUNDLE_DATABASE_URL": url, "DAGBUNDLE_GRANTS_FILE": str(grants),
        "DAGBUNDLE_SERVER_URL": "https://server.invalid", "DAGBUNDLE_PARSER_IMAGE": "registry.example/parser:1",
        "DAGBUNDLE_HEALTH_PORT": str(health), "DAGBUNDLE_METRICS_PORT": str(port),
    }  # fmt: skip
    with (folder / "controller.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dagbundle.cli.main", "controller"], env=env, stdout=log, stderr=log
        )
        try:
            yield Controller(process, port)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def _idle(server: ApiServer, url: str, controller: Controller, number: int) -> list[harness.Row]:
    """Watch a controller that has nothing to do, with one of its looks after watches and store in between."""
    time.sleep(SETTLE_SECONDS)
    cpu, calls, rows = controller.cpu, _api_writes(server), _database_writes(url)
    time.sleep(IDLE_SECONDS)
    used = (controller.cpu - cpu) / IDLE_SECONDS * 1000
    return [
        _row(f"{number} DagBundles: idle CPU", used, "millicores"),
        _row(f"{number} DagBundles: memory", controller.memory / 1e6, "MB"),
        _row(
            f"{number} DagBundles: idle, API writes but the Lease's", _api_writes(server) - calls, "a minute", limit=0
        ),
        _row(f"{number} DagBundles: idle, database rows written", _database_writes(url) - rows, "a minute", limit=0),
    ]


def _api_writes(server: ApiServer) -> float:
    """How many writes the API server has taken, but those of Leases."""
    text = server.kubectl.text("get", "--raw", "/metrics")
    rows = re.findall(r"(?m)^apiserver_request_total\{(.*)\} ([\d.e+]+)$", text)
    return sum(
        float(value)
        for labels, value in rows
        if re.search(r'verb="(POST|PUT|PATCH|DELETE|APPLY)"', labels) and 'resource="leases"' not in labels
    )


def _database_writes(url: str) -> float:
    """How many rows of our tables were written so far."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0) FROM pg_stat_user_tables"
        ).fetchone()
    return float(row[0]) if row else 0.0


def _row(name: str, ours: float, unit: str, *, limit: float | None = None) -> harness.Row:
    return harness.Row(
        name=name,
        ours=ours,
        peer=limit,
        ratio=limit / ours if limit and ours else None,
        unit=unit,
        command=harness.this_command(),
    )


if __name__ == "__main__":
    harness.main(__doc__ or "", {"controller": measure}, peer="limit")
