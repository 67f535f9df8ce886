"""Reads one task of a DAG from our store: what `bench.one_task` runs in a process of its own.

    python -m bench.probe_store DATABASE_URL DAG_ID TASK_ID REPEAT

Prints the seconds of each reading, the most bytes that one allocated, and what was read, as JSON. A small DAG is read
first, so that imports and the connection are not in the figures.
"""

from __future__ import annotations

import json
import sys
import time
import tracemalloc

from dagbundle.store.dagstore import DagStore


def main() -> None:
    """Measure."""
    url, dag_id, task_id, repeat = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    store = DagStore.open(url)
    store.get_serialized_dag("small", "task_0")
    seconds = []
    for _ in range(repeat):
        started = time.perf_counter()
        store.get_serialized_dag(dag_id, task_id)
        seconds.append(time.perf_counter() - started)
    tracemalloc.start()
    document = store.get_serialized_dag(dag_id, task_id)
    memory = tracemalloc.get_traced_memory()[1]
    print(json.dumps({"seconds": seconds, "memory": memory, "document": document}))


if __name__ == "__main__":
    main()
