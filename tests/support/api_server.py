"""The calls that a controller makes to an API server, answered from memory: what is written is seen at once."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from dagbundle import errors
from dagbundle.controller.deletion import FINALIZER
from dagbundle.controller.seen import Seen
from dagbundle.runtime.kubernetes import jobs


class ApiServer:
    """Has the methods of `dagbundle.runtime.kubernetes.client.Cluster`, and shows every change to the watches.

    Args:
        seen: The watches.
    """

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.bundles: dict[tuple[str, str], dict[str, Any]] = {}
        self.jobs: dict[tuple[str, str], dict[str, Any]] = {}
        self.reasons: list[str] = []
        """Those of the statuses that were written, in order."""
        self.events: list[Mapping[str, Any]] = []
        self._numbers = itertools.count(1)

    def apply(self, namespace: str, name: str, spec: Mapping[str, Any] | None = None, **metadata: Any) -> None:
        """Make a DagBundle, as a team does, with the finalizer that the controller would add."""
        body = {
            "apiVersion": "dagbundle.dev/v1alpha1", "kind": "DagBundle",
            "metadata": {"namespace": namespace, "name": name, "uid": f"uid-{next(self._numbers)}", "generation": 1,
                         "finalizers": [FINALIZER], **metadata},
            "spec": spec or {"source": {"image": {"reference": "registry.example/sales:1"}}},
        }  # fmt: skip
        self._show(body)

    def ready(self, namespace: str, name: str) -> dict[str, Any]:
        """Return a bundle's Ready condition; empty where nobody has written one."""
        conditions = self.bundles[namespace, name].get("status", {}).get("conditions", ())
        return next((item for item in conditions if item["type"] == "Ready"), {})

    def end_job(self, namespace: str, name: str, condition: str = "Complete") -> None:
        """Let a Job end."""
        job = copy.deepcopy(self.jobs[namespace, name])
        job["status"] = {"conditions": [{"type": condition, "status": "True"}]}
        self.jobs[namespace, name] = job
        self.seen.take_child("Job", job, deleted=False)

    def create_job(self, manifest: jobs.Manifest, account: str) -> str:
        """Create a Job, or find it."""
        del account
        place = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        if place not in self.jobs:
            uid = f"job-{next(self._numbers)}"
            self.jobs[place] = {**manifest, "metadata": {**manifest["metadata"], "uid": uid}, "status": {}}
            self.seen.take_child("Job", self.jobs[place], deleted=False)
        return str(self.jobs[place]["metadata"]["uid"])

    def job(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Return a Job."""
        return self.jobs.get((namespace, name))

    def delete_job(self, namespace: str, name: str) -> None:
        """Delete a Job."""
        job = self.jobs.pop((namespace, name), None)
        if job is not None:
            self.seen.take_child("Job", job, deleted=True)

    def job_events(self, namespace: str, uid: str) -> Sequence[Mapping[str, Any]]:
        """Return no Events."""
        del namespace, uid
        return ()

    def workload(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        """Return no workload."""
        del kind, namespace, name
        return None

    def bundle_versions(self) -> dict[tuple[str, str], str]:
        """Return the resourceVersion of every DagBundle."""
        return {key: body["metadata"]["resourceVersion"] for key, body in self.bundles.items()}

    def write_status(self, body: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """Replace a status, if the object is still the one that was read."""
        self._patch(body, status=status)
        self.reasons += [item["reason"] for item in status["conditions"] if item["type"] == "Ready"]

    def write_finalizers(self, body: Mapping[str, Any], finalizers: Sequence[str]) -> None:
        """Replace the finalizers, likewise; the last one takes an object that is deleted with it."""
        if body["metadata"].get("deletionTimestamp") and not finalizers:
            self.bundles.pop((body["metadata"]["namespace"], body["metadata"]["name"]))
            self.seen.take_bundle(body, deleted=True)
            return
        self._patch(body, metadata={**body["metadata"], "finalizers": list(finalizers)})

    def post_event(self, namespace: str, event: Mapping[str, Any]) -> None:
        """Keep an Event."""
        del namespace
        self.events.append(event)

    def _patch(self, body: Mapping[str, Any], **changes: Any) -> None:
        key = body["metadata"]["namespace"], body["metadata"]["name"]
        if self.bundles[key]["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise errors.StaleError(f"DagBundle {'/'.join(key)} changed")
        self._show({**self.bundles[key], **changes})

    def _show(self, body: Mapping[str, Any]) -> None:
        version = str(next(self._numbers))
        shown = {**body, "metadata": {**body["metadata"], "resourceVersion": version}}
        self.bundles[shown["metadata"]["namespace"], shown["metadata"]["name"]] = shown
        self.seen.take_bundle(shown, deleted=False)
