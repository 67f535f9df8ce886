"""Takes out of a document what says when its DAG runs, so that Airflow decodes nothing else where that is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_DAG = frozenset(
    {"dag_id", "fileloc", "relative_fileloc", "timezone", "start_date", "end_date", "timetable", "catchup"}
)
_TASK = frozenset({"task_id", "task_type", "_task_module", "start_date", "end_date"})


def alone(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with its schedule and the dates of its tasks, and no more.

    Args:
        document: `{"__version": …, "dag": {…}}`, as it is stored.
    """
    dag = document["dag"]
    tasks = [
        {"__type": "operator", "__var": {name: value for name, value in item["__var"].items() if name in _TASK}}
        for item in dag.get("tasks", ())
    ]
    kept = {name: value for name, value in dag.items() if name in _DAG}
    return {"__version": document["__version"], "dag": {**kept, "tasks": tasks}}
