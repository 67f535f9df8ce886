"""Carries out passes: files of a published bundle that are asked for are parsed again, while it stays published.

A pass takes the steps of a rollout, on the files' subdirs alone. Where it ends well, the bundle's rollout is open again
with what the pass reported, and the next step publishes it. Where it fails, nothing changes, and an Event tells why.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Mapping
from typing import Any

from dagbundle import errors
from dagbundle.controller import announce, metrics
from dagbundle.controller.rollouts import Rollouts, View
from dagbundle.controller.settings import Settings
from dagbundle.resources import bundle as bundle_models
from dagbundle.rollout import steps
from dagbundle.runtime.kubernetes.client import Cluster
from dagbundle.store.dagstore import DagStore

_LOG = logging.getLogger(__name__)

MOVED = 0.0
"""Seconds to wait after a step: the next look sees more to do."""
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

    def advance(self, body: Mapping[str, Any], resource: bundle_models.DagBundle, view: View) -> float | None:
        """Take the next step of a pass, of a bundle whose rollout is over.

        Returns:
            Seconds until the next look; `MOVED` where that is at once, None where there is nothing to do.
        """
        head = view.head
        if head.amending is None:
            if not head.asked or head.rollout is None or view.seen is None or not view.seen.published:
                return None
            self._store.passes.start(view.key, head.rollout.id)
            return MOVED
        found = self._rollouts.look_at_pass(view, head.amending)
        step = steps.next_step(found.wanted, found.seen, now=self._now(), retry_seconds=0.0)
        match step:
            case steps.CreateJobs(subdirs):
                return MOVED if self._rollouts.create_jobs(body, resource, found, subdirs) else QUEUED_RETRY
            case steps.FailRuns(failures):
                self._rollouts.fail_runs(found, failures)
            case steps.Wait(seconds=seconds):
                return seconds
            case steps.Publish(digest):
                self._end(body, view, found, {digest} - {""})
            case steps.Start(pinned):
                self._end(body, view, found, {pinned})
            case steps.Done() | steps.Idle():
                return None
        return MOVED

    def _end(self, body: Mapping[str, Any], view: View, found: View, digests: set[str]) -> None:
        """Amend the rollout, or end the pass without that."""
        base, seen = view.head.rollout, found.seen
        assert base is not None  # noqa: S101 - a pass amends one; tells the type checker
        assert seen is not None  # noqa: S101 - likewise
        failed = next((run for run in seen.runs if run.phase is steps.Phase.FAILED), None)
        if failed is not None:
            message = f"subdir {failed.subdir}: {failed.failure}. What was published before stays"
            self._rollouts.remove_jobs(found)  # first: of a pass that is over nobody would remove them
            self._store.passes.fail(seen.id, "RunFailed", message)
            self._announce(body, f"files were not parsed again: {message}")
            return
        if base.version.startswith("sha256:") and digests - {base.version}:
            message = f"the image's tag names {min(digests)} now, and {base.version} is published"
            self._store.passes.give_up(seen.id, "SourceChanged", message)
            return
        try:
            self._store.passes.amend(seen.id)
        except errors.SupersededError as error:
            self._store.passes.fail(seen.id, "Superseded", error.message)
            return
        except errors.ConflictError as error:
            self._store.passes.give_up(seen.id, "TooManyErrors", error.message)
            return
        metrics.PASSES.inc()

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
