"""What the watches have shown: bundles, and the Jobs and pods that belong to each.

A plain dictionary under a lock. kopf's own index of objects takes minutes at thousands of them; this takes a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping
from typing import Any

from dagbundle.controller import kept
from dagbundle.controller.slots import Key, Slots
from dagbundle.runtime.kubernetes import jobs, observe

__all__ = ["Key", "Object", "Place", "Seen", "key_of"]

Object = Mapping[str, Any]
Place = tuple[str, str, str]
"""(kind, namespace, name) of a workload."""


class Seen:
    """The newest state of each object that was seen. Safe to use from several threads.

    Args:
        slots: Is told which Jobs have ended.
        enabled: The namespaces that tenants own; None for all. Of bundles elsewhere little is kept.
    """

    def __init__(self, slots: Slots | None = None, enabled: Collection[str] | None = None) -> None:
        self._enabled = None if enabled is None else frozenset(enabled)
        self.slots = slots or Slots(limit=200)
        self._lock = threading.Lock()
        self._bundles: dict[Key, Object] = {}
        self._children: dict[str, dict[Key, dict[str, Object]]] = {"Job": {}, "Pod": {}}
        self._workloads: dict[Place, set[Key]] = {}
        self._followed: dict[Key, Place] = {}
        self._last_event = time.monotonic()

    @property
    def silence(self) -> float:
        """Seconds since the last event of any watch."""
        return time.monotonic() - self._last_event

    def take_bundle(self, body: Object, *, deleted: bool) -> Key:
        """Take an event about a DagBundle, and return its key."""
        key = key_of(body)
        mine = None if deleted else kept.kept(body, enabled=self._enabled is None or key[0] in self._enabled)
        with self._lock:
            self._last_event = time.monotonic()
            if mine is None:
                self._bundles.pop(key, None)
            else:
                self._bundles[key] = mine
            self._follow(key, mine)
        return key

    def _follow(self, key: Key, body: Object | None) -> None:
        if (left := self._followed.pop(key, None)) is not None:
            self._workloads[left].discard(key)
            if not self._workloads[left]:
                del self._workloads[left]
        reference = ((body or {}).get("spec") or {}).get("source", {}).get("workloadRef")
        if reference:
            place = (str(reference.get("kind", "Deployment")), key[0], str(reference.get("name")))
            self._followed[key] = place
            self._workloads.setdefault(place, set()).add(key)

    def take_child(self, kind: str, body: Object, *, deleted: bool) -> Key | None:
        """Take an event about a Job or pod, and return the key of the bundle that its labels name."""
        metadata = body["metadata"]
        bundle = (metadata.get("labels") or {}).get(jobs.BUNDLE_LABEL)
        if not bundle:
            return None
        key = (str(metadata["namespace"]), str(bundle))
        with self._lock:
            self._last_event = time.monotonic()
            mine = self._children[kind].setdefault(key, {})
            if deleted:
                mine.pop(metadata["name"], None)
                if not mine:
                    del self._children[kind][key]
            else:
                mine[metadata["name"]] = body
        if kind == "Job":
            ended = deleted or observe.ended(body)
            self.slots.show(key, str(metadata["name"]), str(metadata.get("uid", "")), ended=ended)
        return key

    def followers(self, kind: str, namespace: str, name: str) -> frozenset[Key]:
        """Return the bundles whose source is this workload."""
        with self._lock:
            return frozenset(self._workloads.get((kind, namespace, name), ()))

    def bundle(self, key: Key) -> Object | None:
        """Return what is kept of a bundle as it was seen last; None where it is gone."""
        with self._lock:
            return self._bundles.get(key)

    def bundles(self) -> Mapping[Key, Object]:
        """Return all bundles."""
        with self._lock:
            return dict(self._bundles)

    def versions(self) -> Mapping[Key, str]:
        """Return the resourceVersion of each bundle as it was seen last."""
        with self._lock:
            return {key: str(body["metadata"].get("resourceVersion", "")) for key, body in self._bundles.items()}

    def jobs(self, key: Key) -> Mapping[str, Object]:
        """Return a bundle's Jobs by name."""
        with self._lock:
            return dict(self._children["Job"].get(key, {}))

    def pods(self, key: Key, job: str) -> list[Object]:
        """Return the pods of one of a bundle's Jobs."""
        with self._lock:
            pods = list(self._children["Pod"].get(key, {}).values())
        return [pod for pod in pods if (pod["metadata"].get("labels") or {}).get("batch.kubernetes.io/job-name") == job]


def key_of(body: Object) -> Key:
    """Return the key of a DagBundle."""
    return str(body["metadata"]["namespace"]), str(body["metadata"]["name"])
