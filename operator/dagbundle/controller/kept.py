"""What the controller keeps in memory of a DagBundle that a watch brings: the parts that it reads.

It reads no labels, no managed fields and one annotation. In a namespace that no tenant owns it does not read the spec
either: the status only says that the namespace is not enabled. A user who may write DagBundles in any namespace could
fill the controller's memory otherwise.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

Object = Mapping[str, Any]

REQUESTED_AT = "reconcile.dagbundle.dev/requestedAt"
MAX_REQUESTED = 250
"""Characters of that annotation that the status repeats; of a longer one the beginning and a digest."""
MAX_STATUS_BYTES = 64 * 1024
"""More than the controller writes into the status of a bundle that is not enabled."""
_METADATA = ("namespace", "name", "uid", "resourceVersion", "generation", "deletionTimestamp", "finalizers")


def kept(body: Object, *, enabled: bool) -> dict[str, Any]:
    """Return the part of a DagBundle that the controller reads.

    Args:
        body: As a watch brought it.
        enabled: Whether a tenant owns its namespace.
    """
    found = {name: body[name] for name in ("apiVersion", "kind") if name in body}
    metadata = body["metadata"]
    found["metadata"] = {name: metadata[name] for name in _METADATA if name in metadata}
    if asked := requested(body):
        found["metadata"]["annotations"] = {REQUESTED_AT: asked}
    status, spec = body.get("status"), body.get("spec")
    if enabled:
        return {**found, **{name: body[name] for name in ("spec", "status") if name in body}}
    if isinstance(spec, Mapping) and spec.get("deletionPolicy") == "Orphan":
        found["spec"] = {"deletionPolicy": "Orphan"}
    if status and len(json.dumps(status)) <= MAX_STATUS_BYTES:
        found["status"] = status
    return found


def requested(body: Object) -> str:
    """Return the annotation that asks for a parse, as the status repeats it; empty where there is none."""
    found = str((body["metadata"].get("annotations") or {}).get(REQUESTED_AT, ""))
    if len(found) <= MAX_REQUESTED:
        return found
    return f"{found[: MAX_REQUESTED // 2]}…{hashlib.sha256(found.encode('utf-8', 'replace')).hexdigest()}"
