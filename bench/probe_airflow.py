"""Runs inside the peer's environment: how long Airflow takes until it can hand out one task of a DAG.

    python probe_airflow.py stored DAG_ID TASK_ID REPEAT      reads Airflow's database and deserializes the whole DAG
    python probe_airflow.py given DAG_ID TASK_ID REPEAT       deserializes the document that it reads from its input

Prints the seconds of each reading and the most bytes that one allocated, as JSON. A small DAG is read from the database
first, so that imports, the connection and the serializer's caches are not in the figures.
"""

from __future__ import annotations

import json
import sys
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

from airflow.models.serialized_dag import SerializedDagModel
from airflow.serialization import serialized_objects

if TYPE_CHECKING:
    from collections.abc import Callable


def stored(dag_id: str) -> Any:
    """Read and deserialize a DAG of Airflow's database."""
    dag = SerializedDagModel.get_dag(dag_id)
    if dag is None:
        sys.exit(f"{dag_id} is not in Airflow's database")
    return dag


def decoder(document: dict[str, Any]) -> Callable[[], Any]:
    """Return what deserializes a document; the class that does has another name before Airflow 3.2."""
    serialization = getattr(serialized_objects, "DagSerialization", serialized_objects.SerializedDAG)
    return lambda: serialization.from_dict(document)


def main() -> None:
    """Measure."""
    source, dag_id, task_id, repeat = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    read = decoder(json.load(sys.stdin)) if source == "given" else lambda: stored(dag_id)
    stored("small").get_task("task_0")
    seconds = []
    for _ in range(repeat):
        started = time.perf_counter()
        read().get_task(task_id)
        seconds.append(time.perf_counter() - started)
    tracemalloc.start()
    read().get_task(task_id)
    print(json.dumps({"seconds": seconds, "memory": tracemalloc.get_traced_memory()[1]}))


if __name__ == "__main__":
    main()
