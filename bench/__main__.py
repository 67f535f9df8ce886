"""Every part of the benchmark, one after the other: `make bench`."""

from __future__ import annotations

from bench import harness, memory, one_task, throughput, unchanged

PARTS = {
    "one_task": one_task.measure,
    "unchanged": unchanged.measure,
    "memory": memory.measure,
    "throughput": throughput.measure,
}


def main() -> None:
    """Measure, print and write down."""
    settings = harness.parse_arguments(__doc__ or "")
    for part, measure in PARTS.items():
        harness.report(part, measure(settings))


if __name__ == "__main__":
    main()
