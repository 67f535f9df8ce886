"""Publishes changes of one file among many: what `bench.publishing` runs in a process that has Airflow.

    python -m bench.probe_publish DATABASE_URL REPEAT

Prints milliseconds as JSON: of each publishing, and of it together with the judging before it; staging and parsing are
in neither. The bundle must be published already; the changed DAG's description is another one each time.
"""

from __future__ import annotations

import contextlib
import copy
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from dagbundle.engine import engine
from dagbundle.rollout import content
from dagbundle.rollout.document import RolloutDocument
from dagbundle.rollout.model import BundleKey, FileOutcome, ParsedDag, StagedFile
from dagbundle.store.dagstore import DagStore
from dagbundle.targets.airflow.target import AirflowTarget

BUNDLE = BundleKey("bench", "files")


def main() -> None:
    """Measure."""
    with DagStore.open(sys.argv[1]) as store:
        store.target = AirflowTarget()
        judge = engine.Engine(store)
        found: dict[str, list[float]] = {"publish": [], "finish": []}
        store.publish = _timed(store.publish, found["publish"])  # type: ignore[method-assign] # to time a part of `finish`
        finish = _timed(judge.finish, found["finish"])
        for number in range(int(sys.argv[2]) + 1):
            rollout = _stage_change(store, number)
            _vacuum(store)
            finish(rollout)
    print(json.dumps({name: times[1:] for name, times in found.items()}))  # the first one warms caches


def _timed(call: Callable[..., Any], times: list[float]) -> Callable[..., Any]:
    def timed(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(*arguments, **named)
        finally:
            times.append((time.perf_counter() - started) * 1000)

    return timed


def _vacuum(store: DagStore) -> None:
    with contextlib.closing(store.db.engine.raw_connection()) as connection:  # outside any transaction
        connection.cursor().execute("VACUUM ANALYZE")


def _stage_change(store: DagStore, number: int) -> str:
    live = store.live(BUNDLE)
    remembered = store.remembered(BUNDLE, ".")
    changed = min(live.dags.values(), key=lambda dag: dag.dag_id)
    document = copy.deepcopy(store.get_serialized_dag(changed.dag_id))
    document["dag"]["description"] = f"change {time.time_ns()} {number}"
    taken = content.split(document)
    version = f"sha256:{taken.sha256}"
    rollout = store.start_rollout(
        BUNDLE, version=version, template_hash=version, subdirs=["."], document=RolloutDocument()
    )
    run = store.open_run(rollout.id, ".", attempt="probe", airflow=None, python="3.11")
    files = [
        StagedFile(FileOutcome(path, dags=(ParsedDag(taken.dag_id, taken.sha256),)), contents=(taken,))
        if path == changed.path
        else StagedFile(FileOutcome(path, unchanged=True))
        for path in remembered
    ]
    store.stage(run, "probe", files)
    store.close_run(run, "probe", list(remembered))
    return rollout.id


if __name__ == "__main__":
    main()
