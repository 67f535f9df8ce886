"""The controller's own client of an API server, with one in memory behind it: what is written is seen at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dagbundle.controller.deletion import FINALIZER
from dagbundle.controller.seen import Seen
from dagbundle.runtime.kubernetes.client import Cluster
from support.memory_api import MemoryApi, Object

_JSON_PATCH = {"Content-Type": "application/json-patch+json"}
_MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
_APPLY = {"Content-Type": "application/apply-patch+yaml"}


class ApiServer(Cluster):
    """A `Cluster` whose requests are answered from memory, and tools for what others than the controller do.

    Args:
        seen: The watches, which are shown every change; None where a test shows them what it likes.
    """

    def __init__(self, seen: Seen | None = None) -> None:
        self.memory = MemoryApi()
        self.seen = seen
        self.reasons: list[str] = []
        """Those of the statuses that were written, in order."""
        self.made: list[str] = []
        """UIDs of all Jobs that were made, in order."""
        self.memory.watchers.append(self._show)

    def call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        query: Sequence[tuple[str, str]] = (),
    ) -> Object:
        """Answer as an API server does."""
        answer = self.memory.call(method, path, body=body, headers=headers or {}, query=query)
        if method == "PATCH" and path.endswith("/status") and "/dagbundles/" in path:
            conditions = answer["status"].get("conditions", ())
            self.reasons += [item["reason"] for item in conditions if item["type"] == "Ready"]
        if method == "POST" and path.endswith("/jobs"):
            self.made.append(answer["metadata"]["uid"])
        return answer

    @property
    def bundles(self) -> dict[tuple[str, str], Object]:
        """All DagBundles by (namespace, name)."""
        return self.memory.objects["dagbundles"]

    @property
    def jobs(self) -> dict[tuple[str, str], Object]:
        """All Jobs likewise."""
        return self.memory.objects["jobs"]

    @property
    def events(self) -> list[Object]:
        """All Events, in order."""
        return list(self.memory.objects["events"].values())

    def apply(self, namespace: str, name: str, spec: Mapping[str, Any] | None = None, **metadata: Any) -> None:
        """Apply a DagBundle, as a team does, with the finalizer that the controller would add."""
        self.memory.namespaces.add(namespace)
        body = {
            "apiVersion": "dagbundle.dev/v1alpha1", "kind": "DagBundle",
            "metadata": {"namespace": namespace, "name": name, "finalizers": [FINALIZER], **metadata},
            "spec": spec or {"source": {"image": {"reference": "registry.example/sales:1"}}},
        }  # fmt: skip
        self.call("PATCH", _path("dagbundles", namespace, name), body=body, headers=_APPLY)

    def delete(self, namespace: str, name: str) -> None:
        """Delete a DagBundle, as a team does."""
        self.call("DELETE", _path("dagbundles", namespace, name))

    def ready(self, namespace: str, name: str) -> dict[str, Any]:
        """Return a bundle's Ready condition; empty where nobody has written one."""
        conditions = self.bundles[namespace, name].get("status", {}).get("conditions", ())
        return next((item for item in conditions if item["type"] == "Ready"), {})

    def end_job(self, namespace: str, name: str, condition: str = "Complete") -> None:
        """Let a Job end."""
        told = {"status": {"conditions": [{"type": condition, "status": "True"}]}}
        self.call("PATCH", _path("jobs", namespace, name) + "/status", body=told, headers=_MERGE_PATCH)

    def _show(self, kind: str, body: Object, gone: bool) -> None:
        if self.seen is None:
            return
        if kind == "DagBundle":
            self.seen.take_bundle(body, deleted=gone)
        elif kind in {"Job", "Pod"}:
            self.seen.take_child(kind, body, deleted=gone)


def _path(resource: str, namespace: str, name: str) -> str:
    api = {"dagbundles": "dagbundle.dev/v1alpha1", "jobs": "batch/v1"}[resource]
    return f"/apis/{api}/namespaces/{namespace}/{resource}/{name}"
