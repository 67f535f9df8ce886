"""The peer: `airflow dag-processor --num-runs 1` over a corpus, in an AIRFLOW_HOME and a database of its own.

Everything is as Airflow ships it, except: no examples of its own, one bundle of files on the disk, two processes.
The database is migrated before the clock starts. Afterwards the database is asked whether every file was parsed once in
that single run, and whether every DAG was stored: else the figures would flatter somebody.

Run alone, it prints what stock Airflow takes for every corpus: `python -m bench.stock`.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING

from bench import corpus, databases, harness

if TYPE_CHECKING:
    import pathlib

PROCESSES = 2


class StockAirflow:
    """A deployment of stock Airflow for one corpus; each pass is a dag-processor of its own."""

    def __init__(
        self, files: corpus.Corpus, database: databases.Database, settings: harness.Settings, home: pathlib.Path
    ) -> None:
        self._files = files
        self._database = database
        self._settings = settings
        self._home = home
        bundle = {
            "name": "bench",
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(files.folder)},
        }
        self.env = {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database.with_driver("psycopg2"),
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle]),
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": str(PROCESSES),
        }

    def migrate(self) -> None:
        """Make Airflow's tables; not part of any figure."""
        self._airflow("db", "migrate")

    def process(self, *, watch_memory: bool = False) -> harness.Usage:
        """Parse every file once and store its DAGs."""
        started = dt.datetime.now(tz=dt.UTC)
        usage = self._airflow("dag-processor", "--num-runs", "1", watch_memory=watch_memory)
        self._check(started)
        return usage

    def dags(self) -> int:
        """Count the DAGs in Airflow's database."""
        return self._database.count("serialized_dag")

    def import_errors(self) -> int:
        """Count the broken files: two of the examples need a plugin that only their own bundle brings."""
        return self._database.count("import_error")

    def _airflow(self, *arguments: str, watch_memory: bool = False) -> harness.Usage:
        program = self._settings.airflow / "bin" / "airflow"
        return harness.run(
            [str(program), *arguments], env=self.env, folder=self._home, watch_memory=watch_memory, parsing_depth=1
        )

    def _check(self, started: dt.datetime) -> None:
        parsed = self._database.count("dag", f"last_parsed_time > '{started:%Y-%m-%d %H:%M:%S.%f}+00:00'")
        wanted = self.dags() if self._files.dags is None else self._files.dags
        errors = self.import_errors()
        if not parsed == self.dags() == wanted or (errors and self._files.dags is not None):
            raise harness.BenchError(
                f"Stock Airflow stored {parsed} of {wanted} DAGs of {self._files.name}, with {errors} import errors"
            )


def main() -> None:
    """Print what stock Airflow takes for every corpus, without comparing."""
    settings = harness.parse_arguments(__doc__ or "")
    print("| corpus | database | wall s | CPU s | files/s | DAGs | peak MB in all | peak MB per child |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with harness.scratch("stock") as folder:
        corpora = corpus.throughput_set(folder / "corpora", settings)
        for kind in settings.databases:
            with databases.server(kind) as server:
                for number, files in enumerate(corpora):
                    harness.progress(f"{files.name} on {kind}")
                    home = folder / f"{kind}_{number}"
                    home.mkdir()
                    peer = StockAirflow(files, server.fresh(home), settings, home)
                    peer.migrate()
                    first = peer.process()
                    second = peer.process(watch_memory=True)
                    print(
                        f"| {files.name} | {kind} | {first.wall:.1f} | {first.cpu:.1f} | "
                        f"{files.files / first.wall:.1f} | {peer.dags()} | {second.memory / 1e6:.0f} | "
                        f"{second.child_memory / 1e6:.0f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
