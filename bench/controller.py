"""The controller with thousands of bundles: how long a restart takes, and what it costs while nothing happens.

A bare API server (etcd and kube-apiserver, no pods) and a PostgreSQL hold that many DagBundles, each published. The
limits stand in the peer's column: there is no peer that does the same.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Any

from kubernetes import client, config

from bench import databases, harness
from dagbundle.resources import base
from dagbundle.resources import bundle as bundle_models
from dagbundle.rollout import plan
from dagbundle.rollout.model import BundleKey, Changeset, Judgement, Live, Verdict
from dagbundle.runtime.kubernetes.client import Cluster
from dagbundle.store.dagstore import DagStore
from e2e.cluster.apiserver import ApiServer

if TYPE_CHECKING:
    from collections.abc import Iterator

BUNDLES = 5_000
QUICK = 200
NAMESPACE = "team-a"
RESTART_LIMIT = 30.0
"""Seconds from the start of the process until every bundle was reconciled."""
IDLE_SECONDS = 60.0


def measure(settings: harness.Settings) -> list[harness.Row]:
    """Start a controller on many published bundles, then leave it alone."""
    number = QUICK if settings.quick else BUNDLES
    with ApiServer() as server, databases.server("postgresql") as postgres, harness.scratch("controller") as folder:
        url = postgres.fresh(folder).url
        harness.progress(f"publishing {number} bundles")
        with DagStore.open(url, upgrade=True) as store:
            _prepare(server, store, number)
        harness.progress("the first start writes every status")
        with _controller(server, url, folder) as process:
            _until_reconciled(process, number)
        harness.progress("a restart")
        started = time.monotonic()
        with _controller(server, url, folder) as process:
            _until_reconciled(process, number)
            restart = time.monotonic() - started
            harness.progress(f"{restart:.1f} s; idle for {IDLE_SECONDS:.0f} s")
            return [
                _row(f"{number} DagBundles: restart to all reconciled", restart, RESTART_LIMIT, "s"),
                *_idle(server, process, number),
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
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda index: _publish(cluster, store, index), range(number)))


def _publish(cluster: Cluster, store: DagStore, index: int) -> None:
    """Make a bundle whose rollout was published, as far as the store knows."""
    body: dict[str, Any] = {
        "apiVersion": "dagbundle.dev/v1alpha1",
        "kind": "DagBundle",
        "metadata": {"name": f"bundle-{index}", "namespace": NAMESPACE, "finalizers": ["dagbundle.dev/deactivate"]},
        "spec": {"source": {"image": {"reference": "registry.example/dags:1"}}},
    }
    made = cluster.call("POST", f"/apis/dagbundle.dev/v1alpha1/namespaces/{NAMESPACE}/dagbundles", body=body)
    known = {name: made[name] for name in ("apiVersion", "kind", "metadata", "spec")}
    resource = base.validate(bundle_models.DagBundle, known, what="the benchmark's bundle")
    key, version = BundleKey(NAMESPACE, f"bundle-{index}"), "registry.example/dags:1"
    template = plan.template_hash(resource, version)
    store.register_bundle(key, str(key))
    rollout = store.start_rollout(key, version=version, template_hash=template, subdirs=["."], spec={"policy": {}})
    run = store.open_run(rollout.id, ".", attempt="a", airflow=None, python="3.11")
    store.close_run(run, "a", [])
    judgement = Judgement(Verdict.PUBLISH, "Published", "published", ready=True, subdirs=(".",))
    changeset = Changeset(key, version, template, Live(key).revision, store.outcomes(rollout.id))
    store.publish(rollout.id, changeset, judgement)


@contextlib.contextmanager
def _controller(server: ApiServer, url: str, folder: pathlib.Path) -> Iterator[subprocess.Popen[bytes]]:
    grants = folder / "grants.yaml"
    grants.write_text(f"tenants: [{{namespace: {NAMESPACE}}}]\n")
    env = {
        **{name: value for name, value in os.environ.items() if name not in harness.NOT_INHERITED},
        "KUBECONFIG": str(server.kubeconfig), "DAGBUNDLE_DATABASE_URL": url, "DAGBUNDLE_GRANTS_FILE": str(grants),
        "DAGBUNDLE_SERVER_URL": "https://server.invalid", "DAGBUNDLE_PARSER_IMAGE": "registry.example/parser:1",
        "DAGBUNDLE_HEALTH_PORT": "18080", "DAGBUNDLE_METRICS_PORT": "19090",
    }  # fmt: skip
    with (folder / "controller.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dagbundle.cli.main", "controller"], env=env, stdout=log, stderr=log
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def _until_reconciled(process: subprocess.Popen[bytes], number: int) -> None:
    while process.poll() is None:
        with contextlib.suppress(OSError):
            found = _metrics()
            done = min(found.get("dagbundle_bundles_seen", 0), found.get("dagbundle_reconcile_total", 0))
            if done >= number and not found.get("dagbundle_queue_depth", 1):
                return
        time.sleep(0.1)
    raise harness.BenchError("the controller ended")


def _metrics() -> dict[str, float]:
    """Read the controller's metrics, and how many bundles it has seen reconciled."""
    with urllib.request.urlopen("http://127.0.0.1:19090/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found = {name: float(value) for name, value in re.findall(r"(?m)^(\w+)(?:\{[^}]*\})? ([\d.e+-]+)$", text)}
    found["dagbundle_bundles_seen"] = sum(
        float(value) for value in re.findall(r'(?m)^dagbundle_bundles\{ready="True".*\} ([\d.e+]+)$', text)
    )
    return found


def _idle(server: ApiServer, process: subprocess.Popen[bytes], number: int) -> list[harness.Row]:
    before, writes = _cpu(process.pid), _writes(server)
    time.sleep(IDLE_SECONDS)
    cpu = (_cpu(process.pid) - before) / IDLE_SECONDS * 1000
    pages = int(pathlib.Path(f"/proc/{process.pid}/statm").read_text(encoding="ascii").split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return [
        _row(f"{number} DagBundles: idle CPU", cpu, 100.0, "millicores"),
        _row(f"{number} DagBundles: memory", memory, 512.0, "MB"),
        _row(f"{number} DagBundles: idle writes a minute but the Lease's", _writes(server) - writes, 1.0, "writes"),
    ]


def _cpu(pid: int) -> float:
    """Return the seconds of CPU that a process has used."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _writes(server: ApiServer) -> float:
    """How many writes the API server has taken, but those of its own."""
    text = server.kubectl.text("get", "--raw", "/metrics")
    rows = re.findall(r"(?m)^apiserver_request_total\{(.*)\} ([\d.e+]+)$", text)
    return sum(
        float(value)
        for labels, value in rows
        if re.search(r'verb="(POST|PUT|PATCH|DELETE|APPLY)"', labels) and 'resource="leases"' not in labels
    )


def _row(name: str, ours: float, limit: float, unit: str) -> harness.Row:
    return harness.Row(
        name=name, ours=ours, peer=limit, ratio=limit / max(ours, 1e-9), unit=unit, command=harness.this_command()
    )


if __name__ == "__main__":
    harness.main(__doc__ or "", {"controller": measure}, peer="limit")
