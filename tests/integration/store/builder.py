"""Small bundles to stage and publish: what a parser and the judge would hand to the store, without either."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from dagbundle.rollout.content import split
from dagbundle.rollout.document import RolloutDocument
from dagbundle.rollout.model import (
    BundleKey,
    Change,
    Changeset,
    Claim,
    DagChange,
    DagContent,
    FileOutcome,
    FileProblem,
    Judgement,
    Live,
    LiveDag,
    ParsedDag,
    ParseWarning,
    Problem,
    RunOutcome,
    StagedFile,
    Verdict,
)
from dagbundle.store.dagstore import DagStore
from dagbundle.store.records import RolloutRow

SALES = BundleKey("team-sales", "sales")
OPS = BundleKey("team-ops", "ops")
SYNTAX_ERROR = Problem("SyntaxError", "invalid syntax", 3)

Files = Mapping[str, Mapping[str, str] | Problem | None]
"""By path: the DAGs that it defines with what tells their definitions apart, or a problem; None when unchanged."""

_versions = itertools.count(1)


def document(dag_id: str, salt: str = "", *, tasks: int = 2, depth: int = 0, path: str = "") -> dict[str, Any]:
    """Return a document in the shape of Airflow's: tasks in a row, the first inside `depth` nested groups."""
    ids = [f"task_{index}" for index in range(tasks)]
    group: dict[str, Any] = {"_group_id": None, "children": {name: ["operator", name] for name in ids[1:]}}
    names = [".".join(f"g{level}" for level in range(1, number + 1)) for number in range(1, depth + 1)]
    inner = group
    for name in names:
        child: dict[str, Any] = {"_group_id": name, "children": {}, "downstream_task_ids": ids[1:2]}
        inner["children"] = {name: ["taskgroup", child], **inner["children"]}
        inner = child
    if ids:
        inner["children"] = {ids[0]: ["operator", ids[0]], **inner["children"]}
    return {
        "__version": 3,
        "dag": {
            "dag_id": dag_id,
            "relative_fileloc": path or f"{dag_id}.py",
            "description": salt,
            "tasks": [
                {
                    "__type": "operator",
                    "__var": {"task_id": name, "doc_md": "é" + salt}
                    | ({"downstream_task_ids": [ids[index + 1]]} if index + 1 < tasks else {}),
                }
                for index, name in enumerate(ids)
            ],
            "task_group": group,
        },
    }


@functools.lru_cache(maxsize=10_000)
def content(dag_id: str, salt: str = "", path: str = "", tasks: int = 2) -> DagContent:
    return split(document(dag_id, salt, path=path, tasks=tasks), dag_hash="0" * 32)


def staged(path: str, what: Mapping[str, str] | Problem | None, *, warn: bool = False) -> StagedFile:
    if what is None:
        return StagedFile(FileOutcome(path, unchanged=True))
    if isinstance(what, Problem):
        return StagedFile(FileOutcome(path, problems=(what,)), sources={path: "broken("})
    contents = tuple(content(dag_id, salt, path) for dag_id, salt in what.items())
    return StagedFile(
        FileOutcome(
            path,
            dags=tuple(ParsedDag(item.dag_id, item.sha256) for item in contents),
            warnings=(ParseWarning("DeprecationWarning", "old", 1),) if warn else (),
            duration=0.5,
        ),
        contents=contents,
        fingerprint="f1",
        closure={path: "0" * 64},
        sources={path: f"# {sorted(what.items())}"},
        memory=1,
    )


def start(store: DagStore, bundle: BundleKey, subdirs: Sequence[str] = (".",), version: str = "") -> RolloutRow:
    store.register_bundle(bundle, str(bundle))
    version = version or f"v{next(_versions)}"
    return store.start_rollout(
        bundle, version=version, template_hash=f"hash-{version}", subdirs=subdirs, document=RolloutDocument()
    )


def run(store: DagStore, rollout: RolloutRow, subdir: str, files: Sequence[StagedFile], attempt: str = "1") -> None:
    run_id = store.open_run(rollout.id, subdir, attempt=attempt, airflow="3.0.0", python="3.11")
    store.stage(run_id, attempt, files)
    store.close_run(run_id, attempt, [file.outcome.path for file in files])


def changeset(store: DagStore, rollout: RolloutRow) -> Changeset:
    return Changeset(
        bundle=rollout.bundle,
        version=rollout.version,
        template_hash=rollout.template_hash,
        base_revision=store.live(rollout.bundle).revision,
        runs=store.outcomes(rollout.id),
    )


def judged(
    live: Live,
    runs: Sequence[RunOutcome],
    owners: Mapping[str, BundleKey] | None = None,
    *,
    keep: bool = True,
    held_back: Collection[str] = (),
) -> Judgement:
    """Judge as simply as possible: keep the last good definition of broken files, leave foreign dag_ids as claims."""
    changes: dict[str, DagChange] = {}
    problems, claims = [], []
    for subdir, file in [(item.subdir, file) for item in runs for file in item.files]:
        problems += [FileProblem(subdir, file.path, problem) for problem in file.problems]
        for parsed in () if file.problems else file.dags:
            owner = (owners or {}).get(parsed.dag_id, live.bundle)
            if owner == live.bundle:
                changes[parsed.dag_id] = _change(live.dags.get(parsed.dag_id), parsed, subdir, file.path)
            else:
                claims.append(Claim(parsed.dag_id, subdir, file.path, owner))
    broken = {(item.subdir, item.path) for item in problems} if keep else set()
    for dag in live.dags.values():
        if dag.dag_id not in changes and dag.subdir not in held_back:
            change = Change.KEPT if (dag.subdir, dag.path) in broken else Change.REMOVED
            changes[dag.dag_id] = DagChange(change, dag.dag_id, dag.subdir, dag.path, dag.sha256, dag.sha256)
    kept = any(change.change is Change.KEPT for change in changes.values())
    return Judgement(
        Verdict.PUBLISH,
        "KeptLastGood" if kept else "Published",
        "",
        ready=not kept,
        changes=tuple(changes.values()),
        problems=tuple(problems),
        claims=tuple(claims),
        subdirs=tuple(item.subdir for item in runs),
    )


def _change(old: LiveDag | None, parsed: ParsedDag, subdir: str, path: str) -> DagChange:
    if old is None:
        return DagChange(Change.ADDED, parsed.dag_id, subdir, path, parsed.sha256)
    change = Change.UNCHANGED if old.sha256 == parsed.sha256 else Change.CHANGED
    if (old.subdir, old.path) != (subdir, path):
        change = Change.MOVED
    return DagChange(change, parsed.dag_id, subdir, path, parsed.sha256, old.sha256)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A rollout that is staged, closed and judged: one call away from being published."""

    rollout: RolloutRow
    changeset: Changeset
    judgement: Judgement

    def publish(self, store: DagStore) -> int:
        return store.publish(self.rollout.id, self.changeset, self.judgement)


def prepare(
    store: DagStore,
    bundle: BundleKey,
    files: Files | Mapping[str, Files],
    *,
    version: str = "",
    keep: bool = True,
    warn: Collection[str] = (),
    claims: bool = False,
) -> Prepared:
    """Stage a bundle. `files` is by path, or by subdir and then path when every key names a mapping of mappings."""
    by_subdir: Mapping[str, Files] = files if _is_by_subdir(files) else {".": files}  # type: ignore[assignment] # told apart by shape
    rollout = start(store, bundle, tuple(by_subdir), version)
    for subdir, found in by_subdir.items():
        run(store, rollout, subdir, [staged(path, what, warn=path in warn) for path, what in found.items()])
    result = changeset(store, rollout)
    ids = {dag.dag_id for item in result.runs for file in item.files for dag in file.dags}
    owners = store.owners(ids) if claims else None
    return Prepared(rollout, result, judged(store.live(bundle), result.runs, owners, keep=keep))


def apply(store: DagStore, bundle: BundleKey, files: Files | Mapping[str, Files], **options: Any) -> int:
    return prepare(store, bundle, files, **options).publish(store)


def counted(store: DagStore, table: str) -> int:
    """Count a table's rows."""
    chosen = getattr(store.db.tables, table)
    return int(store.db.read(lambda c: c.execute(sa.select(sa.func.count()).select_from(chosen)).scalar_one()))


def _is_by_subdir(files: Mapping[str, Any]) -> bool:
    return bool(files) and all(
        isinstance(found, Mapping) and all(not isinstance(what, str) for what in found.values()) and "." not in name[1:]
        for name, found in files.items()
    )
