"""Our side: `dagbundle apply --local` over a corpus, in a database of its own.

The parser uses the peer's interpreter and Airflow; isolation, limits and durability are as they ship. Tables are made
before the clock starts, as Airflow's are. Afterwards the database is asked for the DAGs that are live.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from bench import harness
from dagbundle.cli.exits import Exit

if TYPE_CHECKING:
    import pathlib

    from bench import corpus, databases

_BUNDLE = """\
apiVersion: dagbundle.dev/v1alpha1
kind: DagBundle
metadata: {name: files, namespace: bench}
spec:
  source: {image: {reference: "registry.example/bench:1"}}
  parser: {type: SinglePass, processes: 2}
"""
PARSING_DEPTH = 4
"""Below `dagbundle` are two processes that look after the parser, then the warm parser, then its children."""


class DagBundleApply:
    """A store for one corpus; each pass is an `apply` of its own."""

    def __init__(
        self, files: corpus.Corpus, database: databases.Database, settings: harness.Settings, home: pathlib.Path
    ) -> None:
        self._files = files
        self._database = database
        self._settings = settings
        self._home = home
        self.interpreter = sys.executable
        (home / "bundle.yaml").write_text(_BUNDLE, encoding="utf-8")
        self.env = {
            "AIRFLOW_HOME": str(home / "airflow"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "DAGBUNDLE_DATABASE_URL": database.url,
        }

    def migrate(self) -> None:
        """Make our tables; not part of any figure."""
        self._dagbundle("db", "upgrade")

    def process(self, *, watch_memory: bool = False) -> harness.Usage:
        """Parse, judge and publish the whole bundle."""
        usage = self._dagbundle(
            *("apply", "--local", "-f", "bundle.yaml", "--folder", str(self._files.folder)),
            *("--python", str(self._settings.airflow_python)),
            watch_memory=watch_memory,
        )
        if self._files.dags not in {None, self.dags()}:
            raise harness.BenchError(f"We published {self.dags()} of {self._files.dags} DAGs of {self._files.name}")
        return usage

    def dags(self) -> int:
        """Count the DAGs that are live."""
        return self._database.count("dagbundle.dag" if self._database.kind == "postgresql" else "dagbundle_dag")

    def _dagbundle(self, *arguments: str, watch_memory: bool = False) -> harness.Usage:
        return harness.run(
            [self.interpreter, "-m", "dagbundle.cli.main", *arguments],
            env=self.env,
            folder=self._home,
            watch_memory=watch_memory,
            parsing_depth=PARSING_DEPTH,
            accepted={Exit.OK, Exit.KEPT_BACK} if self._files.dags is None else {Exit.OK},
        )
