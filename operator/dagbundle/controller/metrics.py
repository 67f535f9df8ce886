"""The controller's metrics, in one place; docs/metrics.md lists them and a test holds the two together."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Iterable, Mapping
from typing import Any

import prometheus_client
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from dagbundle.controller.activity import Activity
from dagbundle.controller.queue import Queue
from dagbundle.controller.seen import Key, Seen

REGISTRY = CollectorRegistry()

RECONCILES = prometheus_client.Counter(
    "dagbundle_reconcile", "Reconciles, by how they ended.", ["result"], registry=REGISTRY
)
RECONCILE_SECONDS = prometheus_client.Histogram(
    "dagbundle_reconcile_seconds", "How long a reconcile took.", registry=REGISTRY,
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
)  # fmt: skip
ROLLOUTS = prometheus_client.Counter(
    "dagbundle_rollouts", "Rollouts that ended, by their reason.", ["result"], registry=REGISTRY
)
PASSES = prometheus_client.Counter(
    "dagbundle_passes", "Passes over files that were asked for, of those that amended a rollout.", registry=REGISTRY
)
LEADING = prometheus_client.Gauge("dagbundle_leading", "1 while this replica leads.", registry=REGISTRY)
ORPHANED = prometheus_client.Gauge(
    "dagbundle_orphaned_bundles", "Bundles with live DAGs and no DagBundle: see `dagbundle prune`.", registry=REGISTRY
)
VALUE_CHANGES = prometheus_client.Counter(
    "dagbundle_value_changes",
    "Bundles that were parsed again because a Variable or Connection that they read had changed.",
    registry=REGISTRY,
)
UPKEEP_FAILURES = prometheus_client.Counter(
    "dagbundle_upkeep_failures",
    "Steps of the upkeep that failed, for one bundle or for all; the log names step and bundle.",
    ["step"],
    registry=REGISTRY,
)
# There from the start: the increase from a series that is not there is none, and the first of each would not show.
for _result in ("ok", "stale", "error", "defect"):
    RECONCILES.labels(_result)
for _result in ("Published", "KeptLastGood", "RunFailed"):
    ROLLOUTS.labels(_result)
for _step in ("watch", "slots", "claims", "refresh", "follow", "values", "garbage"):
    UPKEEP_FAILURES.labels(_step)


class _Live(Collector):
    """What is asked for at each scrape instead of being kept up to date."""

    def __init__(self, seen: Seen, queue: Queue[Key], activity: Activity) -> None:
        self._seen = seen
        self._activity = activity
        self._queue = queue

    def collect(self) -> Iterable[GaugeMetricFamily]:
        depth = GaugeMetricFamily("dagbundle_queue_depth", "Bundles that wait to be reconciled, now or later.")
        depth.add_metric([], len(self._queue))
        yield depth
        busy = GaugeMetricFamily(
            "dagbundle_longest_work_seconds", "How long the oldest work has taken that is not done yet."
        )
        busy.add_metric([], self._activity.longest)
        yield busy
        age = GaugeMetricFamily("dagbundle_watch_age_seconds", "Seconds since any watch brought something.")
        age.add_metric([], self._seen.silence)
        yield age
        bundles = GaugeMetricFamily(
            "dagbundle_bundles", "DagBundles by their Ready condition.", labels=["ready", "reason"]
        )
        for (ready, reason), number in _conditions(self._seen).items():
            bundles.add_metric([ready, reason], number)
        yield bundles
        running = GaugeMetricFamily("dagbundle_jobs_running", "Parser Jobs that have not ended.")
        running.add_metric([], self._seen.slots.jobs)
        yield running
        pods = GaugeMetricFamily("dagbundle_pods_taken", "Parser pods that these Jobs have, or are promised.")
        pods.add_metric([], self._seen.slots.pods)
        yield pods
        waiting = GaugeMetricFamily(
            "dagbundle_bundles_waiting", "Bundles that wait for their turn to have parser pods."
        )
        waiting.add_metric([], self._seen.slots.waiting)
        yield waiting


def _conditions(seen: Seen) -> Count[tuple[str, str]]:
    found: Count[tuple[str, str]] = Count()
    for body in seen.bundles().values():
        conditions = (body.get("status") or {}).get("conditions") or ()
        ready: Mapping[str, Any] = next((item for item in conditions if item.get("type") == "Ready"), {})
        found[str(ready.get("status", "Unknown")), str(ready.get("reason", "New"))] += 1
    return found


def serve(port: int, seen: Seen, queue: Queue[Key], activity: Activity) -> None:
    """Answer /metrics on a port, in a thread."""
    REGISTRY.register(_Live(seen, queue, activity))
    prometheus_client.start_http_server(port, registry=REGISTRY)
