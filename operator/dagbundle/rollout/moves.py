"""What one publication changed of what is live, for whoever keeps a copy of it elsewhere (a target).

A target is told inside the publishing transaction: what it writes with the same connection is committed together with
our own tables, or not at all (docs/architecture.md, Targets).
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from dagbundle.rollout.model import BundleKey, DagContent, Json


@dataclass(frozen=True, slots=True)
class WrittenDag:
    """A DAG whose definition, place or source text is another one than before."""

    dag_id: str
    path: str
    """Of its file, or archive, relative to the bundle's root."""
    relative_fileloc: str
    """As the parser saw it: inside an archive it names the member."""
    bundle_version: str
    content: DagContent
    source: str
    """The text of its file; empty where none was submitted."""
    duration: float | None
    """Seconds that its file took to parse; None where it was not parsed for this publication."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A DAG that a publication would write, before it is judged for the last time."""

    dag_id: str
    subdir: str
    path: str
    content: DagContent


@dataclass(frozen=True, slots=True)
class Note:
    """An import error of a file."""

    path: str
    message: str


@dataclass(frozen=True, slots=True)
class Move:
    """One publication: the whole next state by reference, and in full what differs from the one before."""

    bundle: BundleKey
    airflow_name: str
    """The name that Airflow knows the bundle by."""
    root: str
    """Absolute path of the bundle where it was parsed; empty where nobody said."""
    version: str
    written: tuple[WrittenDag, ...]
    active: bool
    """Whether the bundle is in use: False once it was deactivated."""
    standing: AbstractSet[str]
    """Live DAGs that are as they were, by dag_id."""
    pinned: Mapping[str, str] = field(default_factory=dict)
    """The bundle version of each live DAG that runs another one than `version`."""
    errors: tuple[Note, ...] = ()
    """Every import error that is visible now."""
    assets: tuple[Json, ...] = ()
    """The owners' definitions of the assets that written DAGs name: those count, whatever the DAGs say."""
    restated: tuple[Json, ...] = ()
    """Other assets of which another definition counts than before."""
    airflow: Mapping[str, str] = field(default_factory=dict)
    """By subdir, the Airflow that serialized its DAGs; without those that nobody said."""


@dataclass(frozen=True, slots=True)
class Symptom:
    """Something about a target that will go wrong, or that somebody should know."""

    level: str
    """`error`: publishing fails or shows something else; `warning`: it works, and may not for long; `info`."""
    text: str
    hint: str = ""
    """What to do next; empty where nothing is to be done."""
