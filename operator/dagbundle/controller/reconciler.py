"""Reconciles one DagBundle: looks at everything, takes steps until it must wait, and writes the status once.

Level-based: what was done before is read from the store and the API server, never remembered, so a controller that is
killed at any point goes on where it was. Every step can be repeated.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from dagbundle import errors
from dagbundle.controller import amending, announce, deletion, failures, status
from dagbundle.controller.kept import requested
from dagbundle.controller.queue import MAX_BACKOFF
from dagbundle.controller.rollouts import Rollouts, View
from dagbundle.controller.seen import Key, Seen
from dagbundle.controller.settings import Settings
from dagbundle.controller.status import Facts, Outcome
from dagbundle.engine import engine
from dagbundle.resources import base
from dagbundle.resources import bundle as bundle_models
from dagbundle.rollout import policy, steps
from dagbundle.rollout.model import BundleKey
from dagbundle.runtime.kubernetes.client import Cluster
from dagbundle.store.dagstore import DagStore
from dagbundle.store.records import Head

_LOG = logging.getLogger(__name__)

_LOGGED = 500
"""Characters of a condition's message that a log line has."""
MAX_STEPS = 20
"""Steps in one reconcile; more means that something runs in a circle, and the queue's backoff slows it down."""
_ACCESS_RETRY = 60.0
"""Seconds after which a refused Job is tried again: a Role or a quota may have come, and nothing tells."""

_CHANGING_RETRY = 5.0
"""Seconds after which a Job that is being deleted is looked at again; a watch mostly tells earlier."""
QUEUED = "Queued"


def utc_now() -> dt.datetime:
    """Return the time."""
    return dt.datetime.now(dt.UTC)


@dataclass(frozen=True, slots=True)
class Result:
    """What a reconcile wants: to be called again in so many seconds, or only when something happens."""

    again_in: float | None = None
    outcome: str = ""


_Rest = tuple[Outcome, Facts, float | None]
"""How a bundle rests: what its status says, and after how many seconds it is looked at again."""


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
        self._amending = amending.Amending(store, cluster, self._rollouts, settings, now)

    def reconcile(self, key: Key) -> Result:
        """Bring one bundle closer to what its resource asks for.

        Raises:
            DagBundleError: It could not be done; the status says so, unless the API server is what failed.
            StaleError: The resource changed meanwhile, so the status is written at the next look.
        """
        body = self._seen.bundle(key)
        if body is None:
            self._seen.slots.withdraw(key)
            return Result()
        try:
            found = self._deal_with(body)
        except errors.StaleError:
            raise
        except (Exception, SystemExit) as error:
            self._tell(body, error)
            raise
        if isinstance(found, Result):
            return found
        outcome, facts, again_in = found
        if not outcome.queued:
            self._seen.slots.withdraw(key)
        self._write(body, outcome, facts)
        return Result(again_in, outcome.reason)

    def _deal_with(self, body: Mapping[str, Any]) -> Result | _Rest:
        if body["metadata"].get("deletionTimestamp"):
            deletion.finish(body, self._store, self._cluster, cluster_name=self._settings.cluster, now=self._now())
            return Result(outcome="Deleted")
        if deletion.FINALIZER not in body["metadata"].get("finalizers", ()):
            deletion.guard(body, self._cluster)
            return Result(outcome="Guarded")  # the change is an event, which brings it here again
        return self._work(body)

    def _tell(self, body: Mapping[str, Any], error: BaseException) -> None:
        """Say in the status why a reconcile failed.

        What passes by itself says nothing of a version that is published: that stays as it is.
        """
        ready: Mapping[str, Any] = next(
            (item for item in (body.get("status") or {}).get("conditions") or () if item.get("type") == "Ready"), {}
        )
        settled = ready.get("status") == "True" and ready.get("observedGeneration") == _generation(body)
        if failures.passes(error) and settled:
            return
        try:
            self._write(body, failures.outcome_of(error), Facts())
        except errors.ClusterError as other:
            _LOG.warning("the status cannot be written", extra={"bundle": _name(body), "error": other.message})

    def heads(self, keys: Collection[Key]) -> dict[Key, Head]:
        """Return where many bundles are, of those that `rest` may be enough for. Raises `StoreError`."""
        wanted = {BundleKey(*key, self._settings.cluster): key for key in keys}
        return {wanted[bundle]: head for bundle, head in self._store.heads(wanted).items()}

    def rest(self, key: Key, head: Head) -> Result | None:
        """Deal with a bundle that is at rest, as `reconcile` would, by where it was a moment ago.

        That writes its status and removes Jobs of rollouts that are over, and nothing else; what has moved since
        queues the bundle again.

        Returns:
            None where more is to be done: `reconcile` does it, and looks again first.

        Raises:
            ClusterError: The status cannot be written for now.
            StaleError: The resource changed meanwhile.
        """
        body = self._seen.bundle(key)
        if body is None:
            return Result()
        metadata = body["metadata"]
        if metadata.get("deletionTimestamp") or deletion.FINALIZER not in metadata.get("finalizers", ()):
            return None
        if head.rollout is None or head.rollout.state == "Open" or head.asked or head.amending:
            return None
        try:
            resource, _ = self._read(body)
            found = self._at_rest(*self._look(body, resource, head))
        except (Exception, SystemExit):  # noqa: BLE001 - `reconcile` meets it again, and says it in the status
            return None
        if found is None:
            return None
        outcome, facts, again_in = found
        self._write(body, outcome, facts)
        return Result(again_in, outcome.reason)

    def retry_within(self, key: Key) -> float:
        """Return how many seconds may pass at most until a reconcile that failed is tried again."""
        body = self._seen.bundle(key)
        if body is None or not body["metadata"].get("deletionTimestamp"):
            return MAX_BACKOFF
        left = deletion.patience_left(body, self._now())
        return left + 1.0 if left > 0 else MAX_BACKOFF  # a moment more, so that the patience is over by then

    def _work(self, body: Mapping[str, Any]) -> _Rest:
        """Take steps until there is something to wait for."""
        try:
            resource, rules = self._read(body)
        except errors.ResourceError as error:
            return failures.outcome_of(error), Facts(), None
        try:
            return self._steps(body, resource, rules)
        except errors.StaleError as error:  # a Job that is going: it is made again when it is gone
            return failures.outcome_of(error), self._facts(resource), _CHANGING_RETRY
        except errors.DagBundleError as error:
            if not failures.waits(error):
                raise
            return failures.outcome_of(error), self._facts(resource), _ACCESS_RETRY

    def _facts(self, resource: bundle_models.DagBundle) -> Facts:
        """Return what the status says of the bundle besides why a step failed; what it said where that fails too."""
        try:
            return self._rollouts.facts(resource)
        except errors.DagBundleError as error:
            _LOG.warning(
                "the store cannot say how a bundle is",
                extra={"bundle": str(engine.key_of(resource, self._settings.cluster)), "error": error.message},
            )
            return Facts()

    def _read(self, body: Mapping[str, Any]) -> tuple[bundle_models.DagBundle, policy.Policy]:
        name = f"DagBundle {_name(body)}"
        # of a bundle that no tenant owns no spec is kept, so this comes before the spec is validated
        policy.tenant_of(name, str(body["metadata"]["namespace"]), self._settings.grants)
        resource = base.validate(bundle_models.DagBundle, _known_part(body), what=name)
        return resource, policy.resolve(resource, self._settings.grants)

    def _look(
        self, body: Mapping[str, Any], resource: bundle_models.DagBundle, head: Head | None = None
    ) -> tuple[View, steps.Step]:
        """Look at everything, or at everything but the store's `head`, and decide what is next."""
        view = self._rollouts.look(resource, requested_at=requested(body), head=head)
        retry_seconds = max(bundle_models.MIN_RETRY_SECONDS, base.seconds(resource.spec.retry_interval))
        step = steps.next_step(view.wanted, view.seen, now=self._now(), retry_seconds=retry_seconds)
        _LOG.debug("next step", extra={"bundle": _name(body), "step": str(step)})
        return view, step

    def _at_rest(self, view: View, step: steps.Step) -> _Rest | None:
        """Tidy up after a rollout that is over, or where nothing is to be done; None where something is."""
        match step:
            case steps.Idle(reason, message):
                self._rollouts.remove_jobs(view)
                idle = Outcome(ready=False, reason=reason, message=message, stalled=reason == "Held", final=True)
                return idle, view.facts, None
            case steps.Done(retry_in, retry_at):
                self._rollouts.remove_old_jobs(view)
                return _ended(view.seen, retry_at), view.facts, retry_in
        return None

    def _steps(self, body: Mapping[str, Any], resource: bundle_models.DagBundle, rules: policy.Policy) -> _Rest:
        rollouts = self._rollouts
        requested_at = requested(body)
        for _ in range(MAX_STEPS):
            view, step = self._look(body, resource)
            if (found := self._at_rest(view, step)) is not None:
                rested = self._amended(body, resource, rules, view, found)
                if rested is not None:
                    return rested
                continue
            match step:
                case steps.Start(pinned):
                    rollouts.start(resource, rules, view, requested_at=requested_at, pinned=pinned)
                case steps.CreateJobs(subdirs):
                    rollouts.remove_old_jobs(view)  # a controller that was killed when it started this one left them
                    if not rollouts.create_jobs(body, resource, view, subdirs):
                        queued = Outcome(None, QUEUED, _queued(self._settings.max_pods), reconciling=True, queued=True)
                        return queued, view.facts, amending.QUEUED_RETRY
                case steps.FailRuns(failures):
                    rollouts.fail_runs(view, failures)
                case steps.Publish(digest):
                    rollouts.publish(view, digest)
                case steps.Wait(reason, message, seconds):
                    troubled = reason not in {"Parsing", "WaitingForWorkload"}
                    outcome = Outcome(False if troubled else None, reason, message, reconciling=True)
                    return outcome, view.facts, seconds
        raise errors.StoreError(f"DagBundle {_name(body)} took {MAX_STEPS} steps without coming to an end")

    def _amended(
        self,
        body: Mapping[str, Any],
        resource: bundle_models.DagBundle,
        rules: policy.Policy,
        view: View,
        found: _Rest,
    ) -> _Rest | None:
        """Take the next step of a pass, of a bundle that rests otherwise; None where it has moved."""
        outcome, facts, again_in = found
        if view.wanted.idle:
            self._amending.abandon(view, outcome.reason)
            return found
        wait = self._amending.advance(body, resource, rules, view)
        if wait == amending.MOVED:
            return None
        times = [seconds for seconds in (wait, again_in) if seconds is not None]
        queued = wait == amending.QUEUED_RETRY
        return dataclasses.replace(outcome, queued=queued), facts, min(times, default=None)

    def _write(self, body: Mapping[str, Any], outcome: Outcome, facts: Facts) -> None:
        """Write the status if it says something new, and an Event if Ready's reason is another one."""
        old = body.get("status") or {}
        new = status.status_of(
            old,
            generation=_generation(body),
            requested_at=requested(body),
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
            try:
                self._cluster.post_event(body["metadata"]["namespace"], event)
            except errors.ClusterError as error:  # the status has it
                _LOG.warning("an Event is lost", extra={"bundle": _name(body), "error": error.message})


def _ended(rollout: steps.RolloutSeen | None, retry_at: dt.datetime | None) -> Outcome:
    assert rollout is not None  # noqa: S101 - a rollout that is over exists; tells the type checker
    if rollout.published and rollout.reason == "Published":
        return Outcome(ready=True, reason=rollout.reason, message=rollout.message, final=True)
    again = retry_at is not None
    message = rollout.message
    if retry_at is not None:  # the moment and not what is left until then: the status changes with no look
        message += f"; tried again at {retry_at:%H:%M:%S} UTC"
    return Outcome(
        ready=False, reason=rollout.reason, message=message, stalled=not again, reconciling=again, final=not again
    )


def _queued(limit: int) -> str:
    return (
        f"the platform's limit of {limit} parser pods is reached: this bundle's are made when it is its namespace's "
        "turn, which the namespace with the fewest pods has first"
    )


def _known_part(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: body[name] for name in ("apiVersion", "kind", "metadata", "spec") if name in body}


def _generation(body: Mapping[str, Any]) -> int:
    return int(body["metadata"].get("generation", 0))


def _name(body: Mapping[str, Any]) -> str:
    return f"{body['metadata']['namespace']}/{body['metadata']['name']}"
