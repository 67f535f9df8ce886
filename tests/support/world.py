"""The controller's reconciler on an API server, real or in memory, with faked pods, and what kills it at any call.

Everything that the reconciler knows lies in the store and the API server, so a controller that is killed is one that
is thrown away in the middle of a call and made anew. The faked node does what a parser and the Job controller do.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dagbundle import errors
from dagbundle.controller.reconciler import Reconciler, Result, utc_now
from dagbundle.controller.seen import Key, Seen
from dagbundle.controller.settings import Settings
from dagbundle.controller.slots import Slots
from dagbundle.resources.grants import Grants, Tenant
from dagbundle.rollout.model import BundleKey, Problem
from dagbundle.runtime.kubernetes import jobs
from dagbundle.runtime.kubernetes.client import Cluster
from dagbundle.store.dagstore import DagStore
from dagbundle.store.passes import Passes
from dagbundle.store.records import RolloutRow
from integration.store import builder

NAMESPACE = "team-a"
KEY: Key = (NAMESPACE, "sales")
BUNDLE = BundleKey(*KEY)
SETTINGS = Settings(
    database_url="",
    jobs=jobs.Settings("https://server.invalid", "", "registry.test/parser:1"),
    grants=Grants(tenants=[Tenant(namespace=NAMESPACE)]),
)
Files = Mapping[str, Mapping[str, str] | Problem]
"""By subdir, the DAGs of its one file, with a salt that makes their content; or why the file is broken."""
FILES: Files = {"ingest": {"a": "1", "b": "1"}, "reporting": {"c": "1"}}
MAX_ROUNDS = 30
_JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
_BUNDLE = f"/apis/dagbundle.dev/v1alpha1/namespaces/{NAMESPACE}/dagbundles/{KEY[1]}"
_MERGE = {"Content-Type": "application/merge-patch+json"}


class Killed(BaseException):
    """The controller was killed here."""


@dataclasses.dataclass
class Fuse:
    """Counts the calls that a controller makes of the world, and kills it after one of them."""

    at: int = -1
    name: str = ""
    """Kill before the first call of this name instead."""
    error: BaseException | None = None
    """What the call at `at` raises instead."""
    lost: bool = True
    """Whether that call does its work all the same, and only its answer is lost."""
    calls: list[str] = dataclasses.field(default_factory=list)

    def wrap(self, target: Any) -> Any:
        """Return a stand-in whose calls are counted."""
        return _Wired(self, target)


class _Wired:
    def __init__(self, fuse: Fuse, target: Any) -> None:
        self._fuse, self._target = fuse, target

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if isinstance(value, Passes):
            return self._fuse.wrap(value)
        if not callable(value):
            return value

        def call(*arguments: Any, **named: Any) -> Any:
            self._fuse.calls.append(name)
            number = len(self._fuse.calls) - 1
            strikes = number == self._fuse.at
            if name == self._fuse.name or (strikes and not self._fuse.lost):
                raise self._fuse.error or Killed(name)
            answer = value(*arguments, **named)
            if strikes:
                raise self._fuse.error or Killed(name)
            return answer

        return call


class World:
    """An API server, a store, and whoever acts on them.

    Args:
        cluster: The API server.
        store: The store.
        name: The cluster's name, where one store has several.
    """

    def __init__(self, cluster: Cluster, store: DagStore, name: str = "") -> None:
        self.cluster = cluster
        self.store = store
        self.fuse = Fuse()
        self.settings = dataclasses.replace(SETTINGS, cluster=name)
        self.key = BundleKey(*KEY, name)
        self.now: Callable[[], dt.datetime] = utc_now

    def apply(self, image: str = "registry.test/sales:1", **spec: Any) -> None:
        """Apply the bundle."""
        body = {
            "apiVersion": "dagbundle.dev/v1alpha1",
            "kind": "DagBundle",
            "metadata": {"name": KEY[1], "namespace": NAMESPACE},
            "spec": {
                "source": {"image": {"reference": image}},
                "subdirs": [{"path": name} for name in FILES],
                **spec,
            },
        }
        self.cluster.call(
            "PATCH", _BUNDLE, body=body, query=[("fieldManager", "team"), ("force", "true")],
            headers={"Content-Type": "application/apply-patch+yaml"},
        )  # fmt: skip

    def delete(self) -> None:
        """Delete the bundle and every Job, and let the controller finish."""
        if self.bundle() is not None:
            self.cluster.call("DELETE", _BUNDLE)
            self.reconcile()
        self.cluster.call("DELETE", _JOBS, body={"propagationPolicy": "Background"})
        self.cluster.call("DELETE", _PODS, body={"gracePeriodSeconds": 0})

    def bundle(self) -> Any:
        """Return the bundle as the API server has it; None when it is gone."""
        return self.cluster.bundle(*KEY)

    def jobs(self) -> list[Any]:
        """Return the namespace's Jobs."""
        found: list[Any] = self.cluster.call("GET", _JOBS)["items"]
        return found

    def controller(self) -> Reconciler:
        """Return a controller that has just been started: it knows what its first look at the API server shows."""
        seen = Seen(Slots(self.settings.max_pods))
        body = self.bundle()
        if body is not None:
            seen.take_bundle(body, deleted=False)
        for job in self.jobs():
            seen.take_child("Job", job, deleted=False)
        for pod in self.cluster.call("GET", _PODS, query=[("labelSelector", jobs.SELECTOR)])["items"]:
            seen.take_child("Pod", pod, deleted=False)
        return Reconciler(self.fuse.wrap(self.store), self.fuse.wrap(self.cluster), seen, self.settings, self.now)

    def reconcile(self) -> Result:
        """Reconcile once, as a controller that was started for it."""
        return self.controller().reconcile(KEY)

    def node(self, files: Files = FILES, *, subdirs: Sequence[str] = ()) -> None:
        """Do what pods and the Job controller would: report for every Job, and complete it."""
        head = self.store.head(self.key)
        for rollout in (head.rollout, head.amending.rollout if head.amending else None):
            if rollout is not None and rollout.state == "Open":
                self._report(rollout, files, subdirs)

    def _report(self, rollout: RolloutRow, files: Files, subdirs: Sequence[str]) -> None:
        there = {job["metadata"]["uid"]: job for job in self.jobs()}
        for row in self.store.jobs(rollout.id):
            job = there.get(row.uid)
            if job is None or (subdirs and row.subdir not in subdirs):
                continue
            if not any(state.subdir == row.subdir for state in self.store.run_states(rollout.id)):
                staged = [builder.staged(f"{row.subdir}/dags.py", files[row.subdir])]
                builder.run(self.store, rollout, row.subdir, staged, attempt=f"pod-of-{row.uid}")
            self.complete(job)

    def complete(self, job: Any) -> None:
        """Complete a Job."""
        conditions = [{"type": kind} for kind in ("SuccessCriteriaMet", "Complete")]
        self._end(job, conditions, completionTime="2026-01-01T00:00:10Z", succeeded=1)

    def fail(self, job: Any, reason: str, message: str) -> None:
        """Fail a Job, as the Job controller says it."""
        said = {"reason": reason, "message": message}
        self._end(job, [{"type": kind, **said} for kind in ("FailureTarget", "Failed")], failed=1)

    def _end(self, job: Any, conditions: Sequence[Mapping[str, str]], **status: Any) -> None:
        told = [{"status": "True", "lastTransitionTime": "2026-01-01T00:00:10Z", **item} for item in conditions]
        self.cluster.call(
            "PATCH", f"{_JOBS}/{job['metadata']['name']}/status", headers=_MERGE,
            body={"status": {"startTime": "2026-01-01T00:00:00Z", "conditions": told, **status}},
        )  # fmt: skip

    def pod(self, job: Any, status: Mapping[str, Any]) -> Any:
        """Make a Job's pod in some state, as the Job controller and a kubelet would."""
        name, template = job["metadata"]["name"], job["spec"]["template"]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"]}
        metadata = {**template["metadata"], "name": f"{name}-pod", "ownerReferences": [owner]}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        self.cluster.call("POST", _PODS, body=body)
        return self.cluster.call("PATCH", f"{_PODS}/{name}-pod/status", body={"status": status}, headers=_MERGE)

    def settle(self, files: Files = FILES) -> Any:
        """Let controller and node take turns until nothing changes any more; returns the bundle."""
        for _ in range(MAX_ROUNDS):
            before = self.bundle()
            try:
                self.reconcile()
            except errors.StaleError:
                continue
            except Killed:
                continue
            self.node(files)
            after = self.bundle()
            if after == before and not self.is_open():
                return after
        raise AssertionError(f"the bundle did not settle: {json.dumps(self.bundle(), indent=1)}")

    def is_open(self) -> bool:
        """Whether a rollout is going on."""
        rollout = self.store.latest_rollout(self.key)
        return rollout is not None and rollout.state == "Open"

    def state(self) -> dict[str, Any]:
        """Return what must be the same however often the controller was killed: without times, names and ids."""
        body = self.bundle()
        status = dict((body or {}).get("status") or {})
        status["conditions"] = [
            {name: value for name, value in item.items() if name != "lastTransitionTime"}
            for item in status.get("conditions", ())
        ]
        status["subdirs"] = [{**item, "job": bool(item["job"])} for item in status.get("subdirs", ())]
        live = self.store.live(self.key)
        return {
            "status": status,
            "revision": live.revision,
            "dags": {dag.dag_id: (dag.subdir, dag.sha256) for dag in live.dags.values()},
            "running": [job["metadata"]["name"] for job in self.jobs() if not job.get("status", {}).get("conditions")],
        }
