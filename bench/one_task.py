"""One task of a very large DAG: read by its id, against a whole DAG read and deserialized.

Our `DagStore.get_serialized_dag(dag_id, task_id)` reads the task with the DAG's header; Airflow deserializes the whole
DAG before it can hand out a task.

Both sides store the DAG by their usual pass on SQLite. Then each reads the same task, in a process of its own that has
read a small DAG before, so that imports and connections are in neither figure. Time is the median of several readings;
memory is the most that one reading allocated (tracemalloc, in a reading that is not timed). The last line adds to ours
what Airflow takes to deserialize the document that we return.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
from typing import Any

from bench import corpus, databases, harness, sides


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
            url = both.ours.env["DAGBUNDLE_DATABASE_URL"]
            probe = [str(settings.airflow_python), str(harness.ROOT / "bench" / "probe_airflow.py")]
            readings = []
            for _ in range(settings.repeat or 3):
                peer = _probe([*probe, "stored", "large", task_id, "3"], both.peer.env)
                mine = _probe([sys.executable, "-m", "bench.probe_store", url, "large", task_id, "100"], {})
                decoded = _probe([*probe, "given", "large", task_id, "100"], both.peer.env, mine.document)
                readings.append((mine, decoded, peer))
    name = f"one task of {files.name}"
    times = [(mine.milliseconds, peer.milliseconds) for mine, _, peer in readings]
    usable = [(mine.milliseconds + decoded.milliseconds, peer.milliseconds) for mine, decoded, peer in readings]
    memory = [(mine.kilobytes, peer.kilobytes) for mine, _, peer in readings]
    return [
        harness.compare(f"{name}, time", times, unit="ms", better="less"),
        harness.compare(f"{name}, added memory", memory, unit="kB", better="less"),
        harness.compare(f"{name}, time until Airflow has deserialized ours too", usable, unit="ms", better="less"),
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Reading:
    milliseconds: float
    kilobytes: float
    document: Any
    """What was read, where the probe tells."""


def _probe(command: list[str], env: dict[str, str], document: object = None) -> _Reading:
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd=harness.ROOT,
        env={**os.environ, **env},
        input=json.dumps(document),
    )
    if done.returncode:
        raise harness.BenchError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return _Reading(
        milliseconds=statistics.median(found["seconds"]) * 1e3,
        kilobytes=found["memory"] / 1e3,
        document=found.get("document"),
    )


if __name__ == "__main__":
    harness.main(__doc__ or "", {"one_task": measure})
