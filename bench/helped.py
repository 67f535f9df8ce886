"""A first pass over files that import pandas and a provider through helpers of their bundle, as most real bundles do.

Likewise `throughput`, in an environment that has both: `make bench-helped`. A round of 1,000 files takes stock Airflow
half an hour of CPU and more, so there is one by default.
"""

from __future__ import annotations

import dataclasses

from bench import corpus, databases, harness, throughput

AIRFLOW = harness.ROOT / ".venvs" / "bench-3.3"


def measure(settings: harness.Settings) -> list[harness.Row]:
    """Compare on every database."""
    settings = dataclasses.replace(settings, airflow=AIRFLOW)
    rows = []
    with harness.scratch("corpora") as folder:
        files, helpers = (30, 6) if settings.quick else (1000, 20)
        made = corpus.helped(folder / "helped", files=files, helpers=helpers)
        for kind in settings.databases:
            with databases.server(kind) as server:
                rows += throughput.compare(made, kind, server, settings)
    return rows


if __name__ == "__main__":
    harness.main(__doc__ or "", {"helped": measure})
