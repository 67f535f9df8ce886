"""Explains changes task by task: joins the judge's changes with the contents they speak of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dagbundle import errors
from dagbundle.rollout import diff, judge
from dagbundle.rollout.model import BundleKey, Change, DagChange, DagContent, FileProblem, Judgement, Live
from dagbundle.store.dagstore import DagStore


@dataclass(frozen=True, slots=True)
class Explained:
    """One DAG's change with what differs in it."""

    change: DagChange
    diff: diff.DagDiff


@dataclass(frozen=True, slots=True)
class Compared:
    """Two revisions of a bundle, compared."""

    items: tuple[Explained, ...]
    problems: Mapping[int, tuple[FileProblem, ...]]
    """The broken files of each of the two that has some, by revision: their DAGs are as they were kept."""


_QUIET = frozenset({Change.UNCHANGED, Change.KEPT})


def of_judgement(
    store: DagStore, judgement: Judgement, contents: Mapping[str, DagContent] | None = None
) -> tuple[Explained, ...]:
    """Explain a judgement's changes; `contents` holds those that are not in the store. Unchanged DAGs are left out."""
    return _explain(store, judgement.changes, contents or {})


def between(store: DagStore, key: BundleKey, from_revision: int | None, to_revision: int | None) -> Compared:
    """Explain what changed between two revisions of a bundle.

    Args:
        store: The store.
        key: The bundle.
        from_revision: Default: the one before `to_revision`; 0 is the empty bundle.
        to_revision: Default: what is live now.

    Raises:
        NotFoundError: There is no such bundle or revision.
    """
    now = store.live(key)
    to = now.revision if to_revision is None else to_revision
    start = max(to - 1, 0) if from_revision is None else from_revision
    for revision in (start, to):
        if not 0 <= revision <= now.revision:
            raise errors.NotFoundError(
                f"bundle {key.namespace}/{key.name} has no revision {revision} (it is at revision {now.revision})",
                hint=f"`dagbundle history {key.namespace}/{key.name}` lists its revisions",
            )
    before = Live(key) if start == 0 else store.state_at(key, start)
    after = Live(key) if to == 0 else store.state_at(key, to)
    problems = {revision: store.problems(key, revision) for revision in {start, to} - {0}}
    return Compared(
        _explain(store, judge.compare(before, after), {}),
        {revision: problems[revision] for revision in sorted(problems) if problems[revision]},
    )


def _explain(store: DagStore, changes: Iterable[DagChange], fresh: Mapping[str, DagContent]) -> tuple[Explained, ...]:
    shown = [change for change in changes if change.change not in _QUIET]
    wanted = {sha for change in shown for sha in (change.before, change.sha256) if sha and sha not in fresh}
    contents = {**_stored(store, sorted(wanted)), **fresh}
    explained = []
    for change in shown:
        before = contents.get(change.before) if change.before else None
        after = None if change.change is Change.REMOVED else contents.get(change.sha256)
        explained.append(Explained(change, diff.diff(before, after)))
    return tuple(explained)


def _stored(store: DagStore, shas: Sequence[str]) -> Mapping[str, DagContent]:
    return store.contents(shas) if shas else {}
