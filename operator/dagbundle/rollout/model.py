"""The values that plan, judge and diff work on, and that the store reads and writes.

They are immutable and without behaviour beyond naming, so that the domain stays a function of its inputs and every
layer above uses the same words (docs/glossary.md defines them). They are frozen dataclasses, but for what
every DAG or file of a bundle has one of in each rollout: those are named tuples, made in a quarter of the time.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Json = dict[str, Any]
"""A decoded JSON object whose keys are strings; its values were bounded by `rollout.content`."""

LookupKind = Literal["connection", "variable"]
"""What of Airflow's DAG files may read while they are parsed."""
LookupValue = str | Mapping[str, Any]
"""A Variable's text, or a Connection's fields."""


@dataclass(frozen=True, slots=True, order=True)
class BundleKey:
    """A bundle's identity: (cluster, namespace, name). `cluster` is empty where no clusterName is set."""

    namespace: str
    name: str
    cluster: str = ""

    def __str__(self) -> str:
        """The bundle as messages name it, and Airflow's default bundle name: `[<cluster>.]<namespace>.<name>`."""
        return ".".join(part for part in (self.cluster, self.namespace, self.name) if part)


def short_version(version: str) -> str:
    """Shorten a bundle version for people: a digest to its first 12 digits."""
    prefix, colon, digest = version.partition(":")
    return f"{prefix}:{digest[:12]}" if colon else version[:40]


# --- One DAG's content, split so that one task can be read without the rest ---------------------------------------


@dataclass(frozen=True, slots=True)
class Task:
    """One task. `data` is Airflow's serialized task without its `downstream_task_ids` (those are edges)."""

    task_id: str
    group_id: str
    """The innermost task group that holds it; empty for the root group."""
    position: int
    """Index in Airflow's task list; kept to rebuild the same order, not part of any hash."""
    group_position: int
    """Index among its group's children (tasks and groups are counted together); not part of any hash."""
    sha256: str
    """Hex SHA-256 over the canonical JSON of `data`."""
    data: Json


@dataclass(frozen=True, slots=True)
class TaskGroup:
    """One task group. `data` is the serialized group without its `children`."""

    group_id: str
    """Empty for the root group."""
    parent_id: str | None
    """None for the root group only."""
    position: int
    """Index among its parent's children (tasks and groups are counted together); not part of any hash."""
    data: Json


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """`upstream` runs before `downstream`; both are task ids."""

    upstream: str
    downstream: str


@dataclass(frozen=True, slots=True)
class DagContent:
    """A serialized DAG in the parts that the store keeps apart. Built by `rollout.content.split`.

    Content is addressed by `sha256`: the same content is stored once, whoever sends it. `fileloc` and
    `_processor_dags_folder` (absolute paths of the parser's machine) are no part of it.
    """

    dag_id: str
    sha256: str
    dag_hash: str
    """Airflow's own hash, as the parser reported it; for people and targets, never an identity of ours."""
    relative_fileloc: str
    header: Json
    """The serialized document without tasks, task groups and paths: `{"__version": …, "dag": {…}, …}`."""
    groups: tuple[TaskGroup, ...]
    tasks: tuple[Task, ...]
    edges: tuple[Edge, ...]


# --- What a parser reported -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """One error of one file. `kind` is a Python exception's name or one of ours (`DuplicateDagId`, `Timeout`, …)."""

    kind: str
    message: str
    """Up to 64 KiB of text, usually a traceback; NUL and lone surrogates are escaped."""
    line: int | None = None


@dataclass(frozen=True, slots=True)
class ParseWarning:
    """One Python warning of one file."""

    category: str
    message: str
    line: int | None = None


class ParsedDag(NamedTuple):
    """A DAG that a file defines, by reference to its stored content."""

    dag_id: str
    sha256: str


class FileOutcome(NamedTuple):
    """What the parser said about one file (its submission), or what the store remembers of an unchanged one."""

    path: str
    """Relative to the bundle's root, `/` separated."""
    dags: tuple[ParsedDag, ...] = ()
    problems: tuple[Problem, ...] = ()
    warnings: tuple[ParseWarning, ...] = ()
    unchanged: bool = False
    """True when the parser skipped it and the rest is what the store remembered."""
    duration: float = 0.0
    """Seconds that the parse took."""


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """One subdir's run. `closed` only when the full listing arrived and its counts and digest were right."""

    subdir: str
    """Relative to the bundle's root; `.` for the whole bundle."""
    closed: bool
    files: tuple[FileOutcome, ...] = ()
    """Every file of the listing; complete only when `closed`."""
    failure: str = ""
    """Why it did not close, for people; empty when closed."""


@dataclass(frozen=True, slots=True)
class Changeset:
    """The one thing that is ever judged and published."""

    bundle: BundleKey
    version: str
    """The bundle version: an image digest, a git commit or a content hash (`sha256:…`)."""
    template_hash: str
    """Hash of the resolved spec and version: what a hold refuses."""
    base_revision: int
    """The bundle's revision that `runs` will be judged against (compare-and-swap at publish)."""
    runs: tuple[RunOutcome, ...]


# --- What is live ---------------------------------------------------------------------------------------------------


class LiveDag(NamedTuple):
    """A DAG as it is published now."""

    dag_id: str
    subdir: str
    path: str
    sha256: str
    bundle_version: str
    """The version of the bundle that this definition came from; older than the bundle's while `kept`."""
    kept: bool = False
    """True while its file is broken and this is the last good definition."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A rolled-back version that must not be published again until somebody resumes."""

    template_hash: str
    version: str
    reason: str
    revision: int = field(default=0, compare=False)  # the newest one of this template; 0 where none is kept


@dataclass(frozen=True, slots=True)
class Live:
    """One bundle as it is published now; revision 0 with nothing in it when it never was."""

    bundle: BundleKey
    revision: int = 0
    version: str = ""
    template_hash: str = ""
    dags: Mapping[str, LiveDag] = field(default_factory=dict)
    holds: tuple[Hold, ...] = ()
    basis: object = field(default=None, compare=False, repr=False)
    """What the store read it from; a publish that is judged on it can compare with that."""


# --- What the judge decided -----------------------------------------------------------------------------------------


class Verdict(enum.Enum):
    """What becomes of a changeset."""

    PUBLISH = "Publish"
    BLOCK = "Block"


class Change(enum.Enum):
    """What happens to one DAG at a publish."""

    ADDED = "Added"
    CHANGED = "Changed"
    MOVED = "Moved"
    """Another file or subdir; its content may have changed as well."""
    UNCHANGED = "Unchanged"
    KEPT = "Kept"
    """Its file is broken: the last good definition stays, with its bundle version."""
    REMOVED = "Removed"


class DagChange(NamedTuple):
    """One DAG's part in a publish. `sha256`, `subdir` and `path` are the new ones (the last ones when REMOVED)."""

    change: Change
    dag_id: str
    subdir: str
    path: str
    sha256: str
    before: str | None = None
    """The content that was live before; None when ADDED."""


@dataclass(frozen=True, slots=True)
class FileProblem:
    """A problem with its place, as it becomes visible to the team."""

    subdir: str
    path: str
    problem: Problem


@dataclass(frozen=True, slots=True)
class Claim:
    """A dag_id, or an asset, that this bundle defines but another one owns; judged again when the owner lets go."""

    dag_id: str
    """The one that is claimed; of an asset, the DAG that defines it."""
    subdir: str
    path: str
    owner: BundleKey
    asset: str = ""
    """The claimed definition of an asset, as `rollout.assets.subject` names it; empty for a claim of the dag_id."""

    @property
    def subject(self) -> str:
        """What is claimed."""
        return self.asset or self.dag_id


@dataclass(frozen=True, slots=True)
class Judgement:
    """The judge's answer for one changeset: everything that a publish writes, or why nothing is published."""

    verdict: Verdict
    reason: str
    """A CamelCase reason as conditions use it: `Published`, `KeptLastGood`, `TooManyRemovedDags`, …"""
    message: str
    ready: bool
    """True when the desired version is published and nothing was kept back."""
    changes: tuple[DagChange, ...] = ()
    problems: tuple[FileProblem, ...] = ()
    claims: tuple[Claim, ...] = ()
    taken: tuple[str, ...] = ()
    """dag_ids that other bundles' kept DAGs give way with: those go in the same transaction."""
    subdirs: tuple[str, ...] = ()
    """The changeset's subdirs whose results are published; with scope Subdir a failed one is missing.

    A subdir that left the spec has no results: `changes` say what becomes of its DAGs."""


# --- What passes between the engine and the store ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What the store remembers of one file's last parse; the parser decides from it whether to skip the file.

    `closure` and `fingerprint` are the parser's own words (docs/architecture.md, "Skipping"): the trusted side
    stores them bounded and never interprets them. Both are empty when the file must not be skipped.
    """

    path: str
    fingerprint: str
    closure: Json
    parsed_at: float
    """UTC, seconds since the epoch, by the trusted side's clock."""


@dataclass(frozen=True, slots=True)
class StagedFile:
    """One validated submission on its way into the store. `contents` holds the DAGs that `outcome.dags` refers to."""

    outcome: FileOutcome
    contents: tuple[DagContent, ...] = ()
    fingerprint: str = ""
    closure: Json = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    """Source text by relative fileloc; for a zip its members, `archive.zip/member.py`."""
    loader: str = "python"
    memory: int = 0
    """Peak resident bytes of the child that parsed it; 0 when unknown."""
    printed: int = 0
    """Bytes that it wrote to its standard output and error."""
    output: str = ""
    """The end of that. It is shown to authors and never stored."""
