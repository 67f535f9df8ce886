"""One task of a very large DAG: read by its id, against a whole DAG read and deserialized.

Our `DagStore.get_serialized_dag(dag_id, task_id)` reads the task with the DAG's header; Airflow deserializes the whole
DAG before it can hand out a task.

Both sides store the DAG by their usual pass on SQLite. Then each reads the same task, in a process of its own that has
read a small DAG before, so that imports and connections are in neither figure. Time is the median of several readings;
memory is the most that one reading allocated (tracemalloc, in a reading that is not timed).
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import subprocess
import sys

from bench import corpus, databases, harness, sides

KILOBYTE = 1e3


def measure(settings: harness.Settings) -> list[harness.Row]:
    """Compare time and memory of reading one task."""
    tasks = 500 if settings.quick else 5000
    task_id = f"task_{tasks // 2}"
    with harness.scratch("corpora") as folder, databases.server("sqlite") as server:
        files = corpus.large_dag(folder / "files", tasks=tasks)
        with sides.fresh(files, server, settings) as both:
            harness.progress(f"one task of {files.name}")
            both.peer.process()
            both.ours.process()
            times: list[tuple[float, float]] = []
            memory: list[tuple[float, float]] = []
            for _ in range(settings.repeat or 3):
                peer_time, peer_memory = _airflow(settings, both.peer.env, task_id)
                our_time, our_memory = _ours(both.ours.env["DAGBUNDLE_DATABASE_URL"], task_id)
                times.append((our_time * 1e3, peer_time * 1e3))
                memory.append((our_memory / KILOBYTE, peer_memory / KILOBYTE))
    return [
        harness.compare(f"one task of {files.name}, time", times, unit="ms", better="less"),
        harness.compare(f"one task of {files.name}, added memory", memory, unit="kB", better="less"),
    ]


def _airflow(settings: harness.Settings, env: dict[str, str], task_id: str) -> tuple[float, int]:
    probe = pathlib.Path(__file__).with_name("probe_airflow.py")
    return _probe([str(settings.airflow_python), str(probe), "large", task_id, "3"], env)


def _ours(url: str, task_id: str) -> tuple[float, int]:
    return _probe([sys.executable, "-m", "bench.probe_store", url, "large", task_id, "100"], {})


def _probe(command: list[str], env: dict[str, str]) -> tuple[float, int]:
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=harness.ROOT, env={**os.environ, **env}
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return statistics.median(found["seconds"]), found["memory"]


if __name__ == "__main__":
    harness.report("one_task", measure(harness.parse_arguments(__doc__ or "")))
