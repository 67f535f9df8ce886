"""Runs inside the peer's environment: read a DAG from Airflow's database, deserialize it, take one task.

    python probe_airflow.py DAG_ID TASK_ID REPEAT

Prints the seconds of each reading and the most bytes that one allocated, as JSON. A small DAG is read first, so that
imports, the connection and caches of the serializer are not in the figures.
"""

from __future__ import annotations

import json
import sys
import time
import tracemalloc

from airflow.models.serialized_dag import SerializedDagModel


def read(dag_id: str, task_id: str) -> object:
    dag = SerializedDagModel.get_dag(dag_id)
    if dag is None:
        sys.exit(f"{dag_id} is not in Airflow's database")
    return dag.get_task(task_id)


def main() -> None:
    dag_id, task_id, repeat = sys.argv[1], sys.argv[2], int(sys.argv[3])
    read("small", "task_0")
    seconds = []
    for _ in range(repeat):
        started = time.perf_counter()
        read(dag_id, task_id)
        seconds.append(time.perf_counter() - started)
    tracemalloc.start()
    read(dag_id, task_id)
    print(json.dumps({"seconds": seconds, "memory": tracemalloc.get_traced_memory()[1]}))


if __name__ == "__main__":
    main()
