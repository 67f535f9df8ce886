"""Computes when a serialized DAG would run next, with the installed Airflow: only it knows its timetables."""

# ruff: noqa: T201 - a command prints

from __future__ import annotations

import json
import os
import sys
from typing import Any

from dagbundle_parser.errors import RunError
from dagbundle_parser.loaders.airflow import AirflowAdapter
from dagbundle_parser.warmup import quiet_descriptors

_MAX_COUNT = 1000


def main() -> int:
    """Read `{"data": <serialized DAG>, "count": n}` from stdin, print `{"runs": [...]}`; returns the exit code.

    A run has `logical_date`, `data_interval_start`, `data_interval_end` and `run_after`, each in ISO 8601 or null.
    """
    try:
        question = json.load(sys.stdin)
        data, count = question["data"], int(question.get("count", 1))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        print(f'dagbundle_parser: expected {{"data": …, "count": n}} on stdin: {error!r}', file=sys.stderr)
        return 2
    answer = os.dup(1)
    try:
        with quiet_descriptors():
            runs = AirflowAdapter.get().next_runs(data, max(1, min(count, _MAX_COUNT)))
    except RunError as error:
        print(f"dagbundle_parser: {error}", file=sys.stderr)
        return 1
    except Exception as error:  # noqa: BLE001 - a timetable is a plugin's code, which may raise anything
        print(f"dagbundle_parser: the schedule cannot be computed: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    with open(answer, "w", encoding="utf-8") as out:  # noqa: PTH123 - a descriptor has no path
        json.dump({"runs": [_as_json(run) for run in runs]}, out)
        out.write("\n")
    return 0


def _as_json(run: Any) -> dict[str, str | None]:
    interval = run.data_interval
    start, end = (interval.start, interval.end) if interval is not None else (None, None)
    return {
        "logical_date": start.isoformat() if start else None,
        "data_interval_start": start.isoformat() if start else None,
        "data_interval_end": end.isoformat() if end else None,
        "run_after": run.run_after.isoformat(),
    }
