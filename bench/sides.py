"""Both sides set up for one corpus on one kind of database, and what is compared between them."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

from bench import databases, harness, ours, stock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench import corpus


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sides:
    """One corpus, two stores, both with their tables made and nothing in them."""

    ours: ours.DagBundleApply
    peer: stock.StockAirflow

    def check(self) -> None:
        """Hold both to the same number of DAGs."""
        if self.ours.dags() != self.peer.dags():
            raise harness.BenchError(f"We published {self.ours.dags()} DAGs, stock Airflow {self.peer.dags()}")


@contextlib.contextmanager
def fresh(files: corpus.Corpus, server: databases.Server, settings: harness.Settings) -> Iterator[Sides]:
    """Set both sides up in folders that last as long as the block."""
    with harness.scratch("ours") as ours_home, harness.scratch("peer") as peer_home:
        sides = Sides(
            ours=ours.DagBundleApply(files, server.fresh(ours_home), settings, ours_home),
            peer=stock.StockAirflow(files, server.fresh(peer_home), settings, peer_home),
        )
        sides.ours.migrate()
        sides.peer.migrate()
        yield sides


def rounds(files: corpus.Corpus, settings: harness.Settings) -> range:
    """Say how often to measure a corpus: as asked for, else 3 times, and the long ones once."""
    return range(settings.repeat or (1 if files.is_long else 3))
