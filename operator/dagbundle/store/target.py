"""What a target is: a copy of what is live, elsewhere in the same database, such as Airflow's metadata database.

The store calls it, `dagbundle.targets` implements it, and following.py decides when.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.engine import Connection

from dagbundle.rollout import assets as rollout_assets
from dagbundle.rollout.document import RolloutDocument
from dagbundle.rollout.model import BundleKey, LookupKind, LookupValue, Problem
from dagbundle.rollout.moves import Candidate, Move, Symptom


@dataclass(frozen=True, slots=True)
class Origin:
    """What a rollout's DAGs were parsed from, and with."""

    document: RolloutDocument
    airflow: Mapping[str, str]
    """The version that serialized them, by subdir; without those of which nobody said."""


class Target(Protocol):
    """Keeps a copy of what is live, in the same database."""

    name: str
    """What its progress is kept under."""

    @property
    def owns_assets(self) -> bool:
        """Whether an asset belongs to the bundle that defines it; False: the DAG that is written last defines it."""
        ...

    def move(self, connection: Connection, move: Move, /) -> None:
        """Write what a publication changed. Whatever it raises takes the whole publication back."""
        ...

    def prepare(self) -> None:
        """Begin what `refused` and `move` will need and what takes a while. Returns at once."""
        ...

    def refused(self, candidates: Sequence[Candidate], bundle: BundleKey, /) -> Mapping[str, Problem]:
        """Return what is wrong with DAGs that a bundle's publication would write, by dag_id: their files are broken.

        Raises:
            TargetError: There is too much wrong to look at it all.
        """
        ...

    def forbidden(self, connection: Connection, candidates: Sequence[Candidate], /) -> Mapping[str, Problem]:
        """Return likewise what is wrong by what the target has in its database, of DAGs that were not refused."""
        ...

    def named(self, connection: Connection, dags: Collection[str], few: int, /) -> Collection[rollout_assets.Mention]:
        """Return the assets that DAGs name which it has; nothing may be returned where they are `few` or less."""
        ...

    def owners(self, connection: Connection, dag_ids: Collection[str], /) -> Mapping[str, str]:
        """Return the target's names of the bundles that have live DAGs of these names, whether they are ours or not."""
        ...

    def refresh(self, connection: Connection, names: Collection[str], /) -> None:
        """Refresh what nobody else does, for bundles by their names in the target."""
        ...

    def overdue(self, connection: Connection, names: Mapping[str, str], /) -> Iterator[Callable[[Connection], None]]:
        """Return steps that compute what has become due, each for a transaction of its own, and taken in this order.

        Bundles are given by their names in the target, each with its namespace: namespaces have equal shares.
        """
        ...

    def missing(self, connection: Connection, live: Mapping[str, Collection[str]], /) -> set[str]:
        """Return the names of the bundles of which it does not show every live DAG."""
        ...

    def beat(self, connection: Connection, identity: str, /) -> None:
        """Show that a processor lives."""
        ...

    def rest(self, connection: Connection, identity: str, /) -> None:
        """Show that it ended in order."""
        ...

    def examine(self, connection: Connection, live: Mapping[str, Collection[str]], /) -> Sequence[Symptom]:
        """Say what would go wrong with it, given what is live by the bundles' names in the target."""
        ...

    def look_up(self, connection: Connection, kind: LookupKind, key: str, /) -> LookupValue | None:
        """Return a Variable's text or a Connection's fields; None where there is none.

        Raises:
            TargetError: It cannot be said; the message holds nothing of a value.
        """
        ...

    def take_requests(self, connection: Connection, names: Collection[str], /) -> Mapping[str, set[str]]:
        """Take the requests to parse files of these bundles again, and return the files by bundle."""
        ...
