"""The Grafana dashboard asks for metrics and labels that there are, and its panels do not lie on each other."""

import itertools
import json
import pathlib
import re
from typing import Any

import pytest

CHART = pathlib.Path(__file__).resolve().parents[3] / "charts" / "dagbundle-operator"
HISTOGRAMS = {"dagbundle_reconcile_seconds", "dagbundle_server_report_seconds"}
METRICS: dict[str, set[str]] = {
    "dagbundle_bundles": {"ready", "reason"},
    "dagbundle_jobs_running": set(),
    "dagbundle_leading": set(),
    "dagbundle_orphaned_bundles": set(),
    "dagbundle_queue_depth": set(),
    "dagbundle_reconcile_seconds": {"le"},
    "dagbundle_reconcile_total": {"result"},
    "dagbundle_rollouts_total": {"result"},
    "dagbundle_server_report_bytes_total": set(),
    "dagbundle_server_report_seconds": {"le"},
    "dagbundle_server_reports_total": {"result"},
    "dagbundle_watch_age_seconds": set(),
}
"""Each with its labels, besides those that Prometheus gives."""
DASHBOARD: dict[str, Any] = json.loads((CHART / "files" / "dashboard.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
TARGETS: list[dict[str, str]] = [target for panel in PANELS for target in panel["targets"]]
QUERIES = [target["expr"] for target in TARGETS]


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_asks_for_metrics_that_there_are(query: str) -> None:
    asked = set(re.findall(r"\bdagbundle_\w+", query))
    known = (METRICS.keys() - HISTOGRAMS) | {
        f"{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum", "count")
    }
    assert asked
    assert asked <= known


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target["expr"])
def test_a_query_uses_labels_that_its_metric_has(target: dict[str, str]) -> None:
    asked = re.findall(r"dagbundle_\w+", target["expr"])
    (name,) = {known for known in METRICS for found in asked if found in {known, f"{known}_bucket"}} - {
        "dagbundle_leading"
    }
    grouped = {label for found in re.findall(r"by \(([\w, ]+)\)", target["expr"]) for label in found.split(", ")}
    selected = set(re.findall(r"(\w+)=", target["expr"])) - {"job"}
    shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    assert grouped | selected | shown <= METRICS[name]
    assert shown <= grouped


def test_every_metric_is_on_the_dashboard() -> None:
    assert [name for name in sorted(METRICS) if not any(name in query for query in QUERIES)] == []


def test_no_panel_lies_on_another() -> None:
    taken = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in PANELS
        for x, y in itertools.product(range(panel["gridPos"]["w"]), range(panel["gridPos"]["h"]))
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
