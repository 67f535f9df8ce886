"""Events on transitions: one when the reason of Ready becomes another one, so that an idle bundle posts none."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from typing import Any

from dagbundle import terminal

_MAX_MESSAGE = 1000


def event(
    body: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any], *, now: dt.datetime, reporter: str
) -> dict[str, Any] | None:
    """Return the Event for a change of status; None where Ready is what it was.

    Args:
        body: The DagBundle.
        old: Its status before.
        new: Its status now.
        now: UTC.
        reporter: Which replica says so.
    """
    before, after = _ready(old), _ready(new)
    if after is None or (before and (before["status"], before["reason"]) == (after["status"], after["reason"])):
        return None
    warns = after["status"] == "False"
    return make(body, "Warning" if warns else "Normal", after["reason"], after["message"], now=now, reporter=reporter)


def make(
    body: Mapping[str, Any], kind: str, reason: str, message: str, *, now: dt.datetime, reporter: str
) -> dict[str, Any]:
    """Return an Event about a DagBundle."""
    metadata = body["metadata"]
    moment = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata['name'][:200]}.{uuid.uuid4().hex[:16]}", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": body["apiVersion"],
            "kind": body["kind"],
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "resourceVersion": metadata.get("resourceVersion", ""),
        },
        "type": kind,
        "reason": reason,
        "message": terminal.printable(message[:_MAX_MESSAGE], keep="\n"),
        "source": {"component": "dagbundle-controller"},
        "reportingComponent": "dagbundle.dev/controller",
        "reportingInstance": reporter,
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
    }


def _ready(status: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((item for item in status.get("conditions") or () if item.get("type") == "Ready"), None)
