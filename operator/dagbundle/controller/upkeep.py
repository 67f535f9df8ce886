"""What the controller looks after now and then: watches, claims, the target, values that were read, and garbage.

It is for all bundles of all teams, so it is divided: a step that fails keeps none of the others from being taken, and
a bundle that a step fails for keeps no other bundle. Each failure is counted and logged with the step and the bundle.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dagbundle import errors
from dagbundle.controller import metrics
from dagbundle.controller.activity import Activity
from dagbundle.controller.seen import Seen
from dagbundle.controller.settings import Settings
from dagbundle.controller.watchdog import Watchdog
from dagbundle.engine import engine, events, lookups, orphans
from dagbundle.rollout.model import BundleKey
from dagbundle.runtime.kubernetes.client import Cluster
from dagbundle.store.dagstore import DagStore

_LOG = logging.getLogger(__name__)
UPKEEP_SECONDS = 120.0
_SETTLED_SECONDS = 60.0
"""After the start, until which the watches may not have shown every bundle."""


class Upkeep:
    """Looks after watches and store.

    Args:
        store: Its bundles that nothing stands for are counted, and what nothing needs is deleted.
        cluster: The API server.
        seen: Which bundles are there.
        watchdog: Is told what is there and what was seen.
        activity: Is told which step is taken.
        settings: The controller's.
    """

    def __init__(  # noqa: PLR0917 - one object per role
        self,
        store: DagStore,
        cluster: Cluster,
        seen: Seen,
        watchdog: Watchdog,
        activity: Activity,
        settings: Settings,
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._seen = seen
        self._watchdog = watchdog
        self._activity = activity
        self._settings = settings
        self._engine = engine.Engine(store, watch=_count_failure, cluster=settings.cluster)

    def keep_up(self, stop: threading.Event) -> None:
        """Look after them now and then; until `stop` is set."""
        pause = _SETTLED_SECONDS
        while not stop.wait(pause):
            pause = UPKEEP_SECONDS
            self.look_after()
        self._activity.ended()

    def look_after(self) -> None:
        """Take every step once."""
        steps: tuple[tuple[str, Callable[[], None]], ...] = (
            ("watch", self._watch),
            ("slots", self._seen.slots.look),
            ("claims", self._hand_over),
            ("refresh", self._refresh),
            ("values", functools.partial(follow_values, self._store, self._settings)),
            ("garbage", self._collect_garbage),
        )
        for name, take in steps:
            with self._activity.doing(f"upkeep, step {name}"), _isolated(name):
                take()

    def _watch(self) -> None:
        known = self._store.bundles_known(of_clusters=True)
        there = self._cluster.bundle_versions()
        self._watchdog.look(there, self._seen.versions())
        metrics.ORPHANED.set(len(orphans.orphans(known, there.keys(), cluster=self._settings.cluster)))

    def _hand_over(self) -> None:
        """Judge the bundles again that wait for a dag_id that nobody owns; the engine isolates them from each other."""
        self._engine.hand_over()

    def _refresh(self) -> None:
        """Refresh what the target shows, and mend the bundles of which it does not show all that is live."""
        refreshed = self._store.refresh(cluster=self._settings.cluster)
        for bundle, error in refreshed.failed.items():
            failed("refresh", error, bundle)
        for bundle in refreshed.behind:
            with _isolated("follow", bundle):
                self._store.follow(bundle)

    def _collect_garbage(self) -> None:
        self._store.collect_garbage(keep_revisions=self._settings.keep_revisions)


def follow_values(store: DagStore, settings: Settings) -> None:
    """Have bundles parsed again whose files read a Variable or Connection that has changed since.

    Args:
        store: Knows what the files read, and the values of today.
        settings: The grants and the cluster.
    """
    changed, unknown = lookups.changed(store, settings.grants, cluster=settings.cluster)
    for bundle in sorted(changed):
        with _isolated("values", bundle):
            store.request_parse([bundle])
            metrics.VALUE_CHANGES.inc()
            _LOG.info("values changed", extra={"bundle": str(bundle)})
    if unknown:
        _LOG.warning("values cannot be looked up", extra={"number": unknown})


@contextmanager
def _isolated(step: str, bundle: BundleKey | None = None) -> Iterator[None]:
    """Count and log what a step raises, and go on."""
    try:
        yield
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a defect, or code of Airflow's, stops no other step
        failed(step, error, bundle)


def failed(step: str, error: BaseException, bundle: BundleKey | None = None) -> None:
    """Count and log that a step failed, for one bundle or for all."""
    metrics.UPKEEP_FAILURES.labels(step).inc()
    known = isinstance(error, errors.DagBundleError)
    _LOG.warning(
        "upkeep failed",
        extra={
            "step": step,
            "bundle": str(bundle) if bundle else "",
            "error": str(error) if known else f"{type(error).__name__}: {error}",
        },
        exc_info=None if known else error,
    )


def _count_failure(event: events.Event) -> None:
    if isinstance(event, events.RejudgeFailed):
        metrics.UPKEEP_FAILURES.labels("claims").inc()
