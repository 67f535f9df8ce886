"""Answers for Variables and Connections that DAG files read while they are parsed.

Within what the bundle's namespace is granted and its spec narrows, as the controller recorded it for the rollout. A
value goes to who asked and nowhere else: not into a log, a metric, an error's text or our tables.
"""

from __future__ import annotations

import json

from dagbundle import errors
from dagbundle.resources import base
from dagbundle.rollout import policy
from dagbundle.rollout.model import LookupKind
from dagbundle.server.access import Admitted
from dagbundle.server.metrics import Metrics
from dagbundle.server.settings import Settings
from dagbundle.server.workers import Workers
from dagbundle.store.dagstore import DagStore

MOST_KEY = 250
"""Characters of the longest key: Airflow's own columns hold no longer one."""
_RESULTS = {"NoSuchValue": "missing", "NotGranted": "refused", "NoTarget": "missing"}


class Values:
    """Looks values up, a few at a time: a deployment's secrets backend may be slow.

    Args:
        store: Has the target, whose values they are, and the runs' grants.
        settings: Bounds.
        metrics: Where it counts.
    """

    def __init__(self, store: DagStore, settings: Settings, metrics: Metrics) -> None:
        self._store = store
        self._settings = settings
        self._metrics = metrics
        self._workers = Workers(settings.lookups, "lookups")

    def close(self) -> None:
        """End the threads when they are done."""
        self._workers.close()

    async def answer(self, admitted: Admitted, kind: LookupKind, key: str) -> bytes:
        """Return a value as the answer's JSON.

        Raises:
            CallerError: `NoTarget`, `NoSuchValue`, `NotGranted`, `TooManyLookups` or `ValueTooLarge`.
            TargetError: It cannot be looked up now.
            StoreUnavailableError: The database is away.
        """
        result = "failed"
        try:
            body = await self._workers.run(lambda: self._answer(admitted, kind, key), admitted.job.namespace)
            result = "found"
        except errors.CallerError as error:
            result = _RESULTS.get(error.reason, result)
            raise
        finally:
            self._metrics.lookups.labels(kind, result).inc()
        return body

    def _answer(self, admitted: Admitted, kind: LookupKind, key: str) -> bytes:
        if self._store.target is None:
            raise errors.CallerError("NoTarget", "this server has no target with Variables and Connections")
        if not 0 < len(key) <= MOST_KEY or not key.isprintable():
            raise errors.CallerError("NoSuchValue", f"no {kind} has such a name")
        allowed = policy.allows(getattr(admitted.document.policy, f"{kind}s"), key)
        value = self._store.look_up(kind, key) if allowed else None
        most = self._settings.lookups_per_run
        if not self._store.record_lookup(admitted.job.run_id, kind, key, value, most=most):
            raise errors.CallerError("TooManyLookups", f"the run has asked for {most} values already")
        if not allowed:
            raise errors.CallerError("NotGranted", _why_not(admitted, kind, key))
        if value is None:
            raise errors.CallerError("NoSuchValue", f"there is no {kind} {key!r}")
        body = json.dumps({"value": value}).encode("ascii")
        if len(body) > self._settings.value_bytes:
            raise errors.CallerError(
                "ValueTooLarge", f"{kind} {key!r} has {len(body)} bytes, more than {self._settings.value_bytes}"
            )
        return body


def _why_not(admitted: Admitted, kind: LookupKind, key: str) -> str:
    """Say which of the two lists leaves it out; a spec's are within its grant."""
    if not base.is_straight(key):
        return "a name with '.', '..' or nothing between slashes, or with one of % ? # ; \\, is not answered"
    if admitted.document.wanted(kind) is not None:
        return f"the DagBundle's spec.parser.{kind}s does not name it; a name there must be granted as well"
    return (
        f"it is not granted to namespace {admitted.job.namespace}: the platform team grants it by "
        f"tenants[].{kind}s of the chart, with {key!r} or the beginning of it and `*`"
    )
