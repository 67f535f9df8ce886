"""Carries out passes: files of a published bundle that are asked for are parsed again, while it stays published.

A pass takes the steps of a rollout, on the files' subdirs alone. Where it ends well, the bundle's rollout is open again
with what the pass reported, and the next step publishes it. Where it fails, nothing changes, and an Event tells why.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dagbundle import errors
from dagbundle.controller import announce, failures, metrics
from dagbundle.controller.rollouts import Rollouts, View
from dagbundle.controller.settings import Settings
from dagbundle.resources import bundle as bundle_models
from dagbundle.rollout import policy, steps
from dagbundle.rollout.document import RolloutDocument
from dagbundle.runtime.kubernetes.client import Cluster
from dagbundle.store.dagstore import DagStore

_LOG = logging.getLogger(__name__)

MOVED = 0.0
"""Seconds to wait after a step: the next look sees more to do."""
_PATIENCE_SECONDS = 10.0
"""How long the Job of a pass may run on after its reports are complete."""
QUEUED_RETRY = 60.0
"""Seconds after which a bundle that waits for its turn looks by itself; it is called when it is its turn."""


class Amending:
    """What the reconciler does to passes.

    Args:
        store: Where they are kept.
        cluster: The API server.
        rollouts: Makes and looks at Jobs.
        settings: The controller's.
        now: The clock.
    """

    def __init__(
        self, store: DagStore, cluster: Cluster, rollouts: Rollouts, settings: Settings, now: Callable[[], dt.datetime]
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._rollouts = rollouts
        self._settings = settings
        self._now = now

    def advance(
        self, body: Mapping[str, Any], resource: bundle_models.DagBundle, rules: policy.Policy, view: View
    ) -> float | None:
        """Take the next step of a pass, of a bundle whose rollout is over.

        Returns:
            Seconds until the next look; `MOVED` where that is at once, None where there is nothing to do.

        Raises:
            StaleError: A Job of its name is being deleted: it is made when that is gone.
        """
        if view.head.amending is None:
            return self._begin(rules, view)
        found = self._rollouts.look_at_pass(view, view.head.amending)
        step = steps.next_step(found.wanted, found.seen, now=self._now(), retry_seconds=0.0)
        match step:
            case steps.CreateJobs(subdirs):
                return self._create_jobs(body, resource, found, subdirs)
            case steps.FailRuns(failed):
                self._rollouts.fail_runs(found, failed)
            case steps.Wait(seconds=seconds):
                return seconds
            case steps.Publish() | steps.Start():
                return self._end(body, rules, view, found)
            case steps.Done() | steps.Idle():
                return None
        return MOVED

    def _begin(self, rules: policy.Policy, view: View) -> float | None:
        head = view.head
        if not head.asked or head.rollout is None or view.seen is None or not view.seen.published:
            return None
        if _as_kept(rules) != head.rollout.document.policy:  # its results were judged by another grant
            self._store.request_parse([view.key])
        else:
            self._store.passes.start(view.key, head.rollout.id)
        return MOVED

    def abandon(self, view: View, reason: str) -> None:
        """End the open pass of a bundle that is left alone now: nobody would end its Jobs."""
        if view.head.amending is not None:
            found = self._rollouts.look_at_pass(view, view.head.amending)
            self._rollouts.remove_jobs(found)
            self._store.passes.fail(view.head.amending.rollout.id, reason, "The bundle is left alone")

    def _create_jobs(
        self, body: Mapping[str, Any], resource: bundle_models.DagBundle, found: View, subdirs: Sequence[str]
    ) -> float:
        try:
            return MOVED if self._rollouts.create_jobs(body, resource, found, subdirs) else QUEUED_RETRY
        except errors.DagBundleError as error:
            if not failures.waits(error):
                raise
            self._fail(body, found, failures.reason_of(error), error.message)
            return MOVED

    def _end(self, body: Mapping[str, Any], rules: policy.Policy, view: View, found: View) -> float:
        """Amend the rollout, or end the pass without that."""
        base, seen = view.head.rollout, found.seen
        assert base is not None  # noqa: S101 - a pass amends one; tells the type checker
        assert seen is not None  # noqa: S101 - likewise
        failed = next((run for run in seen.runs if run.phase is steps.Phase.FAILED), None)
        if failed is not None:
            self._fail(body, found, "RunFailed", f"subdir {failed.subdir}: {failed.failure}")
            return MOVED
        running = [run.job for run in seen.runs if run.job and not run.job.ended]
        left = self._patience_left(found) if running else 0.0
        if left > 0:
            return left
        for job in running:  # its pod has reported, and does not end: it must not keep a place of the platform's
            self._cluster.delete_job(view.key.namespace, job.name)
        passes = self._store.passes
        if _as_kept(rules) != base.document.policy:
            passes.give_up(seen.id, "GrantChanged", "The grant, or the policy of the spec, is another one by now")
        elif not _is_of(base.version, view.image, seen):
            passes.give_up(seen.id, "SourceChanged", f"The pods are not known to have run {base.version} alone")
        else:
            try:
                passes.amend(seen.id)
            except errors.SupersededError as error:
                passes.fail(seen.id, "Superseded", error.message)
            except errors.ConflictError as error:
                passes.give_up(seen.id, "NotAmended", error.message)
            else:
                metrics.PASSES.inc()
        return MOVED

    def _patience_left(self, found: View) -> float:
        """Return how many seconds the Job of a pass, whose reports are complete, has to come to its own end."""
        closed = [state.closed_at for state in found.states if state.closed_at is not None]
        return _PATIENCE_SECONDS - (self._now() - max(closed)).total_seconds() if closed else 0.0

    def _fail(self, body: Mapping[str, Any], found: View, reason: str, why: str) -> None:
        assert found.seen is not None  # noqa: S101 - as above
        message = f"{why}. What was published before stays"
        self._rollouts.remove_jobs(found)  # first: of a pass that is over nobody would remove them
        self._store.passes.fail(found.seen.id, reason, message)
        self._announce(body, f"files were not parsed again: {message}")

    def _announce(self, body: Mapping[str, Any], message: str) -> None:
        name = f"{body['metadata']['namespace']}/{body['metadata']['name']}"
        _LOG.warning("a pass failed", extra={"bundle": name, "why": message})
        event = announce.make(
            body, "Warning", "ReparseFailed", message, now=self._now(), reporter=self._settings.identity
        )
        try:
            self._cluster.post_event(body["metadata"]["namespace"], event)
        except errors.ClusterError as error:  # the log has it
            _LOG.warning("an Event is lost", extra={"bundle": name, "error": error.message})


def _as_kept(rules: policy.Policy) -> policy.Policy:
    """Return a policy as a rollout's document gives it back."""
    return RolloutDocument.from_json(RolloutDocument(policy=rules).to_json()).policy


def _is_of(version: str, image: str, seen: steps.RolloutSeen) -> bool:
    """Whether all pods of a pass ran the image that is published, where a tag may name another one by now."""
    if not version.startswith("sha256:") or image.endswith(f"@{version}"):
        return True
    return all(run.job is not None and run.job.digests == {version} for run in seen.runs)
