"""Every part of the benchmark, one after the other: `make bench`."""

from __future__ import annotations

from bench import harness, memory, one_task, throughput, unchanged

if __name__ == "__main__":
    harness.main(
        __doc__ or "",
        {
            "one_task": one_task.measure,
            "unchanged": unchanged.measure,
            "memory": memory.measure,
            "throughput": throughput.measure,
        },
    )
