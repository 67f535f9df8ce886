"""Reconciles one DagBundle: looks at everything, takes steps until it must wait, and writes the status once.

Level-based: what was done before is read from the store and the API server, never remembered, so a controller that is
killed at any point goes on where it was. Every step can be repeated.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dagbundle import errors
from dagbundle.controller import announce, deletion, status
from dagbundle.controller.rollouts import Rollouts
from dagbundle.controller.seen import Key, Seen
from dagbundle.controller.settings import Settings
from dagbundle.controller.status import Facts, Outcome
from dagbundle.engine import engine
from dagbundle.resources import base
from dagbundle.resources import bundle as bundle_models
from dagbundle.rollout import policy, steps
from dagbundle.runtime.kubernetes.client import Cluster
from dagbundle.store.dagstore import DagStore

_LOG = logging.getLogger(__name__)

REQUESTED_AT = "reconcile.dagbundle.dev/requestedAt"
_LOGGED = 500
"""Characters of a condition's message that a log line has."""
MAX_STEPS = 20
"""Steps in one reconcile; more means that something runs in a circle, and the queue's backoff slows it down."""
_ACCESS_RETRY = 60.0
"""Seconds after which a refused Job is tried again: a Role or a quota may have come, and nothing tells."""

_QUEUED_RETRY = 60.0
"""Seconds after which a bundle that waits for a free slot looks by itself; a Job that ends calls it before."""


def utc_now() -> dt.datetime:
    """Return the time."""
    return dt.datetime.now(dt.UTC)


@dataclass(frozen=True, slots=True)
class Result:
    """What a reconcile wants: to be called again in so many seconds, or only when something happens."""

    again_in: float | None = None
    outcome: str = ""


class Reconciler:
    """Reconciles bundles, one at a time each.

    Args:
        store: Where rollouts are kept.
        cluster: The API server.
        seen: What the watches have shown.
        settings: The controller's.
        now: The clock.
    """

    def __init__(
        self,
        store: DagStore,
        cluster: Cluster,
        seen: Seen,
        settings: Settings,
        now: Callable[[], dt.datetime] = utc_now,
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._seen = seen
        self._settings = settings
        self._now = now
        self._rollouts = Rollouts(store, engine.Engine(store, cluster=settings.cluster), cluster, seen, settings)

    def reconcile(self, key: Key) -> Result:
        """Bring one bundle closer to what its resource asks for.

        Raises:
            StoreUnavailableError: The database is gone for now.
            ClusterError: The API server is.
            StaleError: The resource changed meanwhile.
        """
        body = self._seen.bundle(key)
        if body is None:
            return Result()
        if body["metadata"].get("deletionTimestamp"):
            deletion.finish(body, self._store, self._cluster, cluster_name=self._settings.cluster, now=self._now())
            return Result(outcome="Deleted")
        if deletion.FINALIZER not in body["metadata"].get("finalizers", ()):
            deletion.guard(body, self._cluster)
            return Result(outcome="Guarded")  # the change is an event, which brings it here again
        outcome, facts, again_in = self._work(body)
        self._write(body, outcome, facts)
        return Result(again_in, outcome.reason)

    def _work(self, body: Mapping[str, Any]) -> tuple[Outcome, Facts, float | None]:
        """Take steps until there is something to wait for."""
        try:
            resource = base.validate(bundle_models.DagBundle, _known_part(body), what=f"DagBundle {_name(body)}")
            rules = policy.resolve(resource, self._settings.grants)
        except errors.ResourceError as error:
            return _stalled(error.reason, error), Facts(), None
        try:
            return self._steps(body, resource, rules)
        except errors.AccessDeniedError as error:
            return _stalled("AccessDenied", error), self._rollouts.facts(resource), _ACCESS_RETRY
        except errors.RefusedError as error:
            return _stalled("JobRefused", error), self._rollouts.facts(resource), _ACCESS_RETRY
        except errors.JobConflictError as error:
            return _stalled("JobConflict", error), self._rollouts.facts(resource), _ACCESS_RETRY
        except errors.OwnershipError as error:  # another bundle has its name in Airflow
            return _stalled("BundleNameOwned", error), self._rollouts.facts(resource), _ACCESS_RETRY

    def _steps(
        self, body: Mapping[str, Any], resource: bundle_models.DagBundle, rules: policy.Policy
    ) -> tuple[Outcome, Facts, float | None]:
        rollouts = self._rollouts
        requested = _requested(body)
        for _ in range(MAX_STEPS):
            view = rollouts.look(resource, requested_at=requested)
            step = steps.next_step(
                view.wanted, view.seen, now=self._now(), retry_seconds=base.seconds(resource.spec.retry_interval)
            )
            _LOG.debug("next step", extra={"bundle": _name(body), "step": str(step)})
            match step:
                case steps.Start(pinned):
                    rollouts.start(resource, rules, view, requested_at=requested, pinned=pinned)
                case steps.CreateJobs(subdirs):
                    if not rollouts.create_jobs(body, resource, view, subdirs):
                        queued = Outcome(None, "Queued", _queued(self._settings.max_jobs), reconciling=True)
                        return queued, rollouts.facts(resource, view), _QUEUED_RETRY
                case steps.FailRuns(failures):
                    rollouts.fail_runs(view, failures)
                case steps.Publish(digest):
                    rollouts.publish(view, digest)
                case steps.Wait(reason, message, seconds):
                    troubled = reason not in {"Parsing", "WaitingForWorkload"}
                    outcome = Outcome(False if troubled else None, reason, message, reconciling=True)
                    return outcome, rollouts.facts(resource, view), seconds
                case steps.Idle(reason, message):
                    rollouts.remove_jobs(view)
                    idle = Outcome(ready=False, reason=reason, message=message, stalled=reason == "Held", final=True)
                    return idle, rollouts.facts(resource, view), None
                case steps.Done(retry_in):
                    rollouts.remove_old_jobs(view)
                    return _ended(view.seen, retry_in), rollouts.facts(resource, view), retry_in
        raise errors.StoreError(f"DagBundle {_name(body)} took {MAX_STEPS} steps without coming to an end")

    def _write(self, body: Mapping[str, Any], outcome: Outcome, facts: Facts) -> None:
        """Write the status if it says something new, and an Event if Ready's reason is another one."""
        old = body.get("status") or {}
        new = status.status_of(
            old,
            generation=int(body["metadata"].get("generation", 0)),
            requested_at=_requested(body),
            outcome=outcome,
            facts=facts,
            now=self._now(),
        )
        if new != old:
            self._cluster.write_status(body, new)
        event = announce.event(body, old, new, now=self._now(), reporter=self._settings.identity)
        if event is not None:
            _LOG.info(
                "transition",
                extra={
                    "bundle": _name(body),
                    "ready": outcome.ready,
                    "reason": outcome.reason,
                    "why": outcome.message[:_LOGGED],
                },
            )
            self._cluster.post_event(body["metadata"]["namespace"], event)


def _ended(rollout: steps.RolloutSeen | None, retry_in: float | None) -> Outcome:
    assert rollout is not None  # noqa: S101 - a rollout that is over exists; tells the type checker
    if rollout.published and rollout.reason == "Published":
        return Outcome(ready=True, reason=rollout.reason, message=rollout.message, final=True)
    again = retry_in is not None
    message = rollout.message + (f"; tried again in {retry_in:.0f} s" if retry_in is not None else "")
    return Outcome(
        ready=False, reason=rollout.reason, message=message, stalled=not again, reconciling=again, final=not again
    )


def _queued(limit: int) -> str:
    return f"{limit} parser Jobs are running, which is the platform's limit: this bundle's are made when others end"


def _stalled(reason: str, error: errors.DagBundleError) -> Outcome:
    message = error.message + (f". Next: {error.hint}" if error.hint else "")
    return Outcome(ready=False, reason=reason, message=message, stalled=True, final=True)


def _known_part(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: body[name] for name in ("apiVersion", "kind", "metadata", "spec") if name in body}


def _requested(body: Mapping[str, Any]) -> str:
    return str((body["metadata"].get("annotations") or {}).get(REQUESTED_AT, ""))


def _name(body: Mapping[str, Any]) -> str:
    return f"{body['metadata']['namespace']}/{body['metadata']['name']}"
