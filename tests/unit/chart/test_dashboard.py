"""The Grafana dashboard asks for metrics and labels that there are, and its panels do not lie on each other."""

import dataclasses
import itertools
import json
import pathlib
import re
from typing import Any

import pytest

from dagbundle.controller import metrics
from dagbundle.controller.activity import Activity
from dagbundle.controller.queue import Queue
from dagbundle.controller.seen import Seen
from dagbundle.server.metrics import Metrics

CHART = pathlib.Path(__file__).resolve().parents[3] / "charts" / "dagbundle-operator"
DASHBOARD: dict[str, Any] = json.loads((CHART / "files" / "dashboard.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
TARGETS: list[dict[str, str]] = [target for panel in PANELS for target in panel["targets"]]
QUERIES = [target["expr"] for target in TARGETS]


@dataclasses.dataclass(frozen=True)
class Metric:
    kind: str
    labels: frozenset[str]
    """Besides those that Prometheus gives."""


def known() -> dict[str, Metric]:
    """Return what the programs tell, by the names that a query asks by."""
    told = [
        *((metric._name, metric._type, metric._labelnames) for metric in metrics.REGISTRY._collector_to_names),
        *(
            (family.name, family.type, family._labelnames)
            for family in metrics._Live(Seen(), Queue(), Activity()).collect()
        ),
        *((metric._name, metric._type, metric._labelnames) for metric in Metrics().registry._collector_to_names),
    ]
    found = {}
    for name, kind, labels in told:
        if kind == "histogram":
            found |= {f"{name}_{part}": Metric(kind, frozenset(labels)) for part in ("sum", "count")}
            found[f"{name}_bucket"] = Metric(kind, frozenset({*labels, "le"}))
        else:
            found[f"{name}_total" if kind == "counter" else name] = Metric(kind, frozenset(labels))
    return found


METRICS = known()


def asked(query: str) -> set[str]:
    return set(re.findall(r"\bdagbundle_\w+", query))


def test_both_programs_metrics_are_known() -> None:
    assert METRICS["dagbundle_bundles"] == Metric("gauge", frozenset({"ready", "reason"}))
    assert METRICS["dagbundle_reconcile_total"] == Metric("counter", frozenset({"result"}))
    assert METRICS["dagbundle_server_report_seconds_bucket"] == Metric("histogram", frozenset({"le"}))


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_asks_for_metrics_that_there_are(query: str) -> None:
    assert asked(query)
    assert asked(query) <= METRICS.keys()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target["expr"])
def test_a_query_uses_labels_that_its_metrics_have(target: dict[str, str]) -> None:
    labels = frozenset().union(*[METRICS[name].labels for name in asked(target["expr"])])
    grouped = {label for found in re.findall(r"by \(([\w, ]+)\)", target["expr"]) for label in found.split(", ")}
    selected = set(re.findall(r"(\w+)=", target["expr"])) - {"job"}
    shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    assert grouped | selected | shown <= labels
    assert shown <= grouped


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_takes_the_rate_of_what_only_grows_and_of_nothing_else(query: str) -> None:
    rated = set(re.findall(r"(?:rate|increase)\((\w+)", query))
    assert rated == {name for name in asked(query) if METRICS[name].kind != "gauge"}


def test_every_metric_is_on_the_dashboard() -> None:
    shown = set().union(*map(asked, QUERIES))
    wanted = {name for name in METRICS if not name.endswith(("_seconds_sum", "_seconds_count"))}
    assert wanted - shown == set()


def test_no_panel_lies_on_another() -> None:
    taken = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in PANELS
        for x, y in itertools.product(range(panel["gridPos"]["w"]), range(panel["gridPos"]["h"]))
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
