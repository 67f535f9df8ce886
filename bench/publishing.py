"""Publishing into Airflow's own database: whole passes beside stock Airflow's, and one changed file among a thousand.

Both sides fill a database of their own with the tables that `airflow db migrate` makes, on PostgreSQL. Ours runs in an
environment that has the same Airflow (`make publisher-envs`). What one change costs has no peer: a stock processor
parses every file again, so its pass stands beside it. The database is vacuumed before each change, as PostgreSQL does
by itself within a minute: a publish touches every DAG's row, and without that it finds the dead rows of the one before.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

from bench import corpus, databases, harness, ours, sides, stock

if TYPE_CHECKING:
    import pathlib

CHANGE_LIMIT = 60.0
"""Milliseconds, median."""
CHANGES = 40
_INTERPRETER = harness.ROOT / ".venvs" / "publisher-3.3" / "bin" / "python"


class PublishIntoAirflow(ours.DagBundleApply):
    """`dagbundle apply --local` with the target airflow."""

    def __init__(
        self, files: corpus.Corpus, database: databases.Database, settings: harness.Settings, home: pathlib.Path
    ) -> None:
        super().__init__(files, database, settings, home)
        self.interpreter = str(_INTERPRETER)
        self.env |= {
            "DAGBUNDLE_TARGET": "airflow",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database.with_driver("psycopg2"),
        }

    def migrate(self) -> None:
        """Make Airflow's tables, and ours; not part of any figure."""
        harness.run([str(self._settings.airflow / "bin" / "airflow"), "db", "migrate"], env=self.env, folder=self._home)
        super().migrate()

    def change(self) -> dict[str, list[float]]:
        """Return the milliseconds of changes of one file: of each `publish`, and with its judging of each `finish`."""
        done = subprocess.run(
            [self.interpreter, "-m", "bench.probe_publish", self._database.url, str(CHANGES)],
            env=harness.inherited() | self.env, cwd=harness.ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise harness.BenchError(f"the probe ended with {done.returncode}:\n{done.stderr[-3000:]}")
        found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
        return found


def measure(settings: harness.Settings) -> list[harness.Row]:
    """Compare first passes, passes with nothing changed, and changes."""
    if not _INTERPRETER.exists():
        sys.exit("the publisher's environment is missing: run `make publisher-envs`")
    firsts, seconds, publishes, finishes = [], [], [], []
    with harness.scratch("corpora") as folder, databases.server("postgresql") as server:
        files = corpus.generated(folder / "files", files=100 if settings.quick else 1000, dags_per_file=1)
        for number in sides.rounds(files, settings):
            with harness.scratch("ours") as ours_home, harness.scratch("peer") as peer_home:
                mine = PublishIntoAirflow(files, server.fresh(ours_home), settings, ours_home)
                peer = stock.StockAirflow(files, server.fresh(peer_home), settings, peer_home)
                mine.migrate()
                peer.migrate()
                harness.progress(f"first pass: {files.name}, round {number + 1}")
                firsts.append((peer.process(), mine.process()))
                if mine.dags() != peer.dags():
                    raise harness.BenchError(f"We published {mine.dags()} DAGs, stock Airflow {peer.dags()}")
                harness.progress(f"second pass: {files.name}, round {number + 1}")
                seconds.append((peer.process(), mine.process()))
                harness.progress(f"one changed file: {files.name}, round {number + 1}")
                changed = mine.change()
                publishes.append(statistics.median(changed["publish"]))
                finishes.append(statistics.median(changed["finish"]))
    name = files.name
    speeds = [(files.files / mine.wall, files.files / peer.wall) for peer, mine in firsts]
    efforts = [(mine.cpu, peer.cpu) for peer, mine in firsts]
    idle = [(mine.cpu, peer.cpu) for peer, mine in seconds]
    beside = [
        ("publish one changed file", statistics.median(publishes)),
        ("judge and publish one changed file", statistics.median(finishes)),
    ]
    return [
        harness.compare(f"parse and publish {name}", speeds, unit="files/s", better="more"),
        harness.compare(f"parse and publish {name}, CPU", efforts, unit="s", better="less"),
        harness.compare(f"second pass over {name}, nothing changed, CPU", idle, unit="s", better="less"),
        *(
            harness.Row(
                name=f"{what} of {name} (beside the limit)",
                ours=milliseconds,
                peer=CHANGE_LIMIT,
                ratio=CHANGE_LIMIT / milliseconds,
                unit="ms",
                command=harness.this_command(),
            )
            for what, milliseconds in beside
        ),
    ]


if __name__ == "__main__":
    harness.main(__doc__ or "", {"publishing": measure})
