"""What the store answers with beyond the domain's own values: rows for lists, details and histories.

Frozen dataclasses, so that the command line and later the read API show exactly what is here. All times are aware, in
UTC.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from dagbundle.rollout.document import RolloutDocument
from dagbundle.rollout.model import BundleKey, Hold, Json, ParseWarning, Problem

T = TypeVar("T")


class RolloutState(enum.StrEnum):
    """Where a rollout is."""

    OPEN = "Open"
    PUBLISHED = "Published"
    BLOCKED = "Blocked"
    SUPERSEDED = "Superseded"


class RunState(enum.StrEnum):
    """Where a run is."""

    OPEN = "Open"
    CLOSED = "Closed"
    FAILED = "Failed"
    FENCED = "Fenced"
    """A newer attempt took its place."""


class PublicationKind(enum.StrEnum):
    """Why a revision exists."""

    PUBLISH = "Publish"
    ROLLBACK = "Rollback"
    DEACTIVATE = "Deactivate"


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list."""

    items: tuple[T, ...]
    next_cursor: str | None = None
    """Pass it to get the next page; None on the last one. Opaque."""


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """One rollout as the store keeps it."""

    id: str
    bundle: BundleKey
    version: str
    template_hash: str
    state: RolloutState
    reason: str
    message: str
    base_revision: int
    """The bundle's revision when it started."""
    revision: int | None
    """The revision that it published; None until then."""
    subdirs: tuple[str, ...]
    document_json: Json
    """What `document` reads; one that cannot be read must not hide the other rollouts of a listing."""
    created_at: dt.datetime
    finished_at: dt.datetime | None

    @property
    def is_pass(self) -> bool:
        """Whether it amends another rollout (`store.passes`)."""
        return bool(self.document_json.get("amends"))

    @property
    def document(self) -> RolloutDocument:
        """What it was started with. Raises `StoreError` where a newer program wrote it."""
        return RolloutDocument.from_json(self.document_json)


@dataclass(frozen=True, slots=True)
class JobRow:
    """One Kubernetes Job: one subdir of one rollout, in one pod or in one for each shard."""

    run_id: str
    """In the pod's environment and in URLs; nobody can guess it."""
    rollout_id: str
    bundle: BundleKey
    subdir: str
    shards: int
    namespace: str
    service_account: str
    name: str
    uid: str
    """The live Job's UID; empty until it was created."""
    image_id: str
    """The digest of the image that its pods ran (`sha256:…`); empty until it is known."""
    request: Json
    """The run request without what only the server knows: `run`, `attempt`, `shard`, `shards` and `known`."""
    created_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Ingestion:
    """How a run was carried out, as its parser reports it."""

    name: str
    """The bundle parser's."""
    version: str
    processes: int | None = None
    """How many files are parsed at a time; None where an older parser did not report it, nor the origins."""
    parser_origin: str = ""
    """What decided it: `spec`, `manifest` or `default`."""
    processes_origin: str = ""


@dataclass(frozen=True, slots=True)
class RunStateRow:
    """The newest attempt at one shard of one subdir."""

    subdir: str
    shard: int
    shards: int
    attempt: str
    """On Kubernetes the pod's UID."""
    state: RunState
    failure: str
    """Why it failed, for people; while it is open, what its report was at when it was cut last. Else empty."""
    files: int
    """Counted when it closes, as `dags` and `import_errors` are; 0 until then."""
    dags: int
    import_errors: int
    airflow: str | None
    python: str
    started_at: dt.datetime
    """When the store first heard of it."""
    closed_at: dt.datetime | None
    """When it closed or failed."""
    ingestion: Ingestion | None = None
    """How it was carried out; None where nobody reported it."""


@dataclass(frozen=True, slots=True)
class Pass:
    """Some files of a rollout that are being parsed again (`store.passes`)."""

    rollout: RolloutRow
    jobs: tuple[JobRow, ...] = ()
    states: tuple[RunStateRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Head:
    """Where a bundle is: what is live, in numbers, and its newest rollout with its runs."""

    bundle: BundleKey
    revision: int = 0
    """0 for a bundle that never published, and for one that is not known."""
    version: str = ""
    template_hash: str = ""
    dags: int = 0
    kept: int = 0
    """How many of the DAGs are kept at the last good definition."""
    holds: tuple[Hold, ...] = ()
    counts: Mapping[str, int] | None = None
    """What the newest publish did, as `PublicationRow.counts`; None when there was none."""
    requested: bool = False
    """Another rollout was asked for, and none has started since."""
    asked: tuple[str, ...] = ()
    """Files that are to be parsed again, and no pass over them has started since."""
    amending: Pass | None = None
    """The open pass."""
    rollout: RolloutRow | None = None
    jobs: tuple[JobRow, ...] = ()
    states: tuple[RunStateRow, ...] = ()


@dataclass(frozen=True, slots=True)
class WaitingClaim:
    """A dag_id that a bundle defines but another one owned when it was judged."""

    bundle: BundleKey
    dag_id: str
    subdir: str
    path: str
    rollout_id: str
    """Its rollout's outcomes are still staged: it can be judged again without parsing."""


@dataclass(frozen=True, slots=True)
class BundleRow:
    """One bundle in a list."""

    bundle: BundleKey
    airflow_name: str
    revision: int
    version: str
    template_hash: str
    dags: int
    import_errors: int
    holds: int


@dataclass(frozen=True, slots=True)
class DagRow:
    """One live DAG in a list."""

    dag_id: str
    bundle: BundleKey
    subdir: str
    path: str
    sha256: str
    number: int
    """Its version's number, counted per dag_id."""
    bundle_version: str
    kept: bool


@dataclass(frozen=True, slots=True)
class DagDetails:
    """One live DAG with what is known of its definition."""

    dag_id: str
    bundle: BundleKey
    airflow_name: str
    subdir: str
    path: str
    relative_fileloc: str
    sha256: str
    dag_hash: str
    number: int
    bundle_version: str
    kept: bool
    task_count: int
    since_revision: int
    since: dt.datetime
    """When this definition was published."""


@dataclass(frozen=True, slots=True)
class DagVersionRow:
    """One definition of a DAG that is or was live during `[from_revision, to_revision)` of its bundle."""

    dag_id: str
    number: int
    bundle: BundleKey
    subdir: str
    path: str
    sha256: str
    bundle_version: str
    """The bundle version that it first came with."""
    from_revision: int
    to_revision: int | None
    """None while it is live."""
    created_at: dt.datetime


@dataclass(frozen=True, slots=True)
class ImportErrorRow:
    """One import error that is visible now."""

    bundle: BundleKey
    subdir: str
    path: str
    problem: Problem
    since_revision: int
    since: dt.datetime


@dataclass(frozen=True, slots=True)
class WarningRow:
    """One parse warning that is visible now."""

    bundle: BundleKey
    subdir: str
    path: str
    warning: ParseWarning
    since_revision: int


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task in a list, without its data."""

    task_id: str
    group_id: str
    sha256: str


@dataclass(frozen=True, slots=True)
class PublicationRow:
    """One revision of a bundle."""

    bundle: BundleKey
    revision: int
    kind: PublicationKind
    rollout_id: str | None
    restored: int | None
    """The revision that a rollback made live again."""
    version: str
    template_hash: str
    counts: Mapping[str, int]
    """DAGs by what happened to them: added, changed, moved, unchanged, kept, removed; and visible import errors."""
    created_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Garbage:
    """How many rows a collection deleted."""

    rollouts: int = 0
    versions: int = 0
    contents: int = 0
    sources: int = 0
