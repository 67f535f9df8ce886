"""Documents in the shape of Airflow's serialized DAGs, for tests that need no Airflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def task(task_id: str, downstream: Sequence[str] = (), **fields: Any) -> dict[str, Any]:
    body = {"task_id": task_id, "task_type": "EmptyOperator", **fields}
    return {"__type": "operator", "__var": {**body, "downstream_task_ids": list(downstream)} if downstream else body}


def group(group_id: str | None, children: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "_group_id": group_id,
        "children": dict(children),
        "upstream_group_ids": [],
        "downstream_group_ids": [],
        "upstream_task_ids": [],
        "downstream_task_ids": [],
    }


def dag(
    dag_id: str, tasks: Sequence[dict[str, Any]] = (), *, root: dict[str, Any] | None = None, **fields: Any
) -> dict[str, Any]:
    names = [item["__var"]["task_id"] for item in tasks]
    return {
        "__version": 3,
        "dag": {
            "dag_id": dag_id,
            "fileloc": f"/bundle/{dag_id}.py",
            "relative_fileloc": f"{dag_id}.py",
            "task_group": root or group(None, {name: ["operator", name] for name in names}),
            "tasks": list(tasks),
            **fields,
        },
    }
