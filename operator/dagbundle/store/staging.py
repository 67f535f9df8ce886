"""The staging area: what runs report, kept apart from what is live until a publish points at it.

Content is written here, once for whoever sends it, and is harmless: nothing reads it before a publish. A newer attempt
at the same subdir fences the older one, and whatever a parser sends twice must be the same twice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.functions import Function

from dagbundle import errors
from dagbundle.rollout.content import canonical, storable
from dagbundle.rollout.model import (
    DagContent,
    FileOutcome,
    ParsedDag,
    ParseWarning,
    Problem,
    StagedFile,
)
from dagbundle.store import assets, bulk, database, texts
from dagbundle.store.bundles import new_id, now
from dagbundle.store.records import Ingestion, RolloutState, RunState
from dagbundle.store.tables import REMEMBERED, AnyRow, Tables

CONTENT_LOCK = 0x6461_6763
"""Advisory lock on PostgreSQL: shared by who refers to content, exclusive for who collects garbage."""
_UNCHANGED = "unchanged"


def open_run(
    connection: Connection,
    tables: Tables,
    rollout_id: str,
    subdir: str,
    *,
    shard: int,
    attempt: str,
    airflow: str | None,
    python: str,
    keep_closed: bool,
    ingestion: Ingestion | None,
) -> str:
    """See `DagStore.open_run`."""
    table = tables.parse_run
    same_place = sa.and_(table.c.rollout == rollout_id, table.c.subdir == subdir, table.c.shard == shard)
    same_attempt = sa.select(table).where(same_place, table.c.attempt == attempt)
    row = connection.execute(same_attempt).first()
    if row is not None and row.state == RunState.CLOSED:
        return str(row.id)  # its answer was lost; whatever became of the rollout since, it may hear it again
    require_open(connection, tables, rollout_id, lock=True)
    row = connection.execute(same_attempt).first()
    if row is not None:
        _require_current(row, attempt)
        return str(row.id)
    if keep_closed:
        closed = connection.execute(
            sa.select(table.c.attempt).where(same_place, table.c.state == RunState.CLOSED)
        ).scalar()
        if closed is not None:
            raise errors.RunClosedError(f"Attempt {closed} has closed the run of {subdir} already")
    fence(connection, tables, same_place)
    run_id = new_id()
    connection.execute(
        sa.insert(table).values(
            id=run_id,
            rollout=rollout_id,
            subdir=subdir,
            shard=shard,
            attempt=attempt,
            state=RunState.OPEN,
            failure="",
            files=0,
            dags=0,
            import_errors=0,
            airflow=airflow,
            python=python,
            ingestion=None if ingestion is None else dataclasses.asdict(ingestion),
            started_at=now(),
        )
    )
    return run_id


def fence(connection: Connection, tables: Tables, place: sa.ColumnElement[bool]) -> None:
    """Discard what the attempts at some place have staged, and let them stage no more."""
    run = tables.parse_run
    older = sa.select(run.c.id).where(place)
    connection.execute(sa.delete(tables.submission).where(tables.submission.c.run.in_(older)))
    connection.execute(sa.update(run).where(place).values(state=RunState.FENCED))


def stage(connection: Connection, tables: Tables, run_id: str, attempt: str, files: Sequence[StagedFile]) -> None:
    """See `DagStore.stage`."""
    run = _require_run(connection, tables, run_id, attempt, states=(RunState.OPEN, RunState.CLOSED))
    hold_content(connection)
    rows: dict[str, tuple[Any, ...]] = {}
    for file in files:
        row = _submission(run_id, file)
        if rows.setdefault(row[1], row) != row:
            raise errors.ProtocolError(f"{row[1]} was reported twice in {run.subdir}, and differently")
    known = _staged_digests(connection, tables, run_id, rows)
    for path, digest in known.items():
        if rows.pop(path)[2] != digest:
            raise errors.ProtocolError(f"{path} was reported twice in {run.subdir}, and differently")
    if run.state == RunState.CLOSED:
        if rows:
            raise errors.ConflictError(f"The run of {run.subdir} is {run.state}")
        return
    fresh = [file for file in files if file.outcome.path in rows]
    store_contents(connection, tables, [item for file in fresh for item in file.contents])
    _require_contents(connection, tables, fresh)
    _store_sources(connection, tables, fresh)
    skipped = {path for path, row in rows.items() if row[2] == _UNCHANGED}
    if skipped:
        _copy_remembered(connection, tables, run, skipped)
    parsed = [row for path, row in sorted(rows.items()) if path not in skipped]
    bulk.insert(connection, tables.submission, ("run", "path", "digest", "unchanged", *REMEMBERED), parsed)


def close_run(connection: Connection, tables: Tables, run_id: str, attempt: str, listing: Sequence[str]) -> None:
    """See `DagStore.close_run`."""
    run = _require_run(connection, tables, run_id, attempt, states=(RunState.OPEN, RunState.CLOSED))
    table = tables.submission
    staged = set(connection.execute(sa.select(table.c.path).where(table.c.run == run_id)).scalars())
    if len(set(listing)) != len(listing) or staged != set(listing):
        listed = set(listing)
        odd = sorted(listed ^ staged)
        raise errors.ProtocolError(
            f"The listing of {run.subdir} names {len(listing)} files, but {len(staged)} were reported"
            + (f"; the first that differs is {odd[0]!r:.200}" if odd else "; one is named twice")
        )
    if run.state == RunState.CLOSED:
        return
    texts.require_few(connection, tables, run)
    connection.execute(
        sa.update(tables.parse_run)
        .where(tables.parse_run.c.id == run_id)
        .values(
            state=RunState.CLOSED,
            failure="",  # a report that was cut before, and came again, may have left a note
            files=len(staged),
            closed_at=now(),
        )
    )
    count(connection, tables, run_id)
    database.notify(connection, run.rollout)


def count(connection: Connection, tables: Tables, run_id: str) -> None:
    """Keep how many DAGs and errors a run has, for people who only want to know how many."""
    table, run = tables.submission, tables.parse_run
    dags, problems = connection.execute(
        sa.select(_sum_of(connection, table.c.outcome, "dags"), _sum_of(connection, table.c.outcome, "problems")).where(
            table.c.run == run_id
        )
    ).one()
    connection.execute(sa.update(run).where(run.c.id == run_id).values(dags=dags or 0, import_errors=problems or 0))


def note_cut(connection: Connection, tables: Tables, run_id: str, note: str) -> None:
    """See `DagStore.note_cut`."""
    run = tables.parse_run
    still_open = sa.and_(run.c.id == run_id, run.c.state == RunState.OPEN)
    connection.execute(sa.update(run).where(still_open).values(failure=storable(note)))


def fail_run(connection: Connection, tables: Tables, run_id: str, attempt: str, failure: str) -> None:
    """See `DagStore.fail_run`."""
    run = _require_run(connection, tables, run_id, attempt, states=(RunState.OPEN, RunState.FAILED))
    connection.execute(
        sa.update(tables.parse_run)
        .where(tables.parse_run.c.id == run_id)
        .values(state=RunState.FAILED, failure=storable(failure), closed_at=now())
    )
    database.notify(connection, run.rollout)


def store_contents(connection: Connection, tables: Tables, contents: Iterable[DagContent]) -> None:
    """Store what is not stored yet. The parts of one content are written by whoever wrote its first row."""
    wanted = {item.sha256: item for item in contents}
    table = tables.dag_content
    known = set(
        connection.execute(sa.select(table.c.sha256).where(bulk.is_in(connection, table.c.sha256, wanted))).scalars()
    )
    missing = [wanted[sha] for sha in sorted(wanted.keys() - known)]
    if not missing:
        return
    numbers = bulk.insert_missing_numbered(
        connection,
        table,
        ("sha256", "dag_id", "dag_hash", "relative_fileloc", "task_count", "header"),
        [
            (item.sha256, item.dag_id, item.dag_hash, item.relative_fileloc, len(item.tasks), _text(item.header))
            for item in missing
        ],
    )
    ours = [(numbers[item.sha256], item) for item in missing if item.sha256 in numbers]
    bulk.insert(
        connection,
        tables.task_group,
        ("content_id", "group_id", "parent_id", "position", "data"),
        [
            (number, group.group_id, group.parent_id, group.position, _text(group.data))
            for number, item in ours
            for group in item.groups
        ],
    )
    bulk.insert(
        connection,
        tables.task,
        ("content_id", "task_id", "group_id", "position", "group_position", "sha256", "data"),
        [
            (number, task.task_id, task.group_id, task.position, task.group_position, task.sha256, _text(task.data))
            for number, item in ours
            for task in item.tasks
        ],
    )
    bulk.insert(
        connection,
        tables.edge,
        ("content_id", "upstream", "downstream"),
        [(number, edge.upstream, edge.downstream) for number, item in ours for edge in item.edges],
    )
    assets.store(connection, tables, ours)


def hold_content(connection: Connection, *, exclusive: bool = False) -> None:
    """Keep garbage collection away from content that this transaction is about to refer to (or everybody from it)."""
    if connection.dialect.name == "postgresql":  # SQLite has one writer at a time anyway
        lock = "pg_advisory_xact_lock" if exclusive else "pg_advisory_xact_lock_shared"
        connection.exec_driver_sql(f"SELECT {lock}({CONTENT_LOCK:d})")


def outcome_document(outcome: FileOutcome) -> dict[str, Any]:
    """Return what is stored of an outcome; its path, duration and `unchanged` are columns of their own."""
    return {
        "dags": [[dag.dag_id, dag.sha256] for dag in outcome.dags],
        "problems": [[item.kind, item.message, item.line] for item in outcome.problems],
        "warnings": [[item.category, item.message, item.line] for item in outcome.warnings],
    }


def read_outcome(path: str, document: dict[str, Any], *, unchanged: bool, duration: float) -> FileOutcome:
    """Rebuild an outcome from what `outcome_document` made of it."""
    problems, warnings = document["problems"], document["warnings"]
    return FileOutcome(
        path,
        tuple([ParsedDag(*item) for item in document["dags"]]),
        tuple([Problem(*item) for item in problems]) if problems else (),
        tuple([ParseWarning(*item) for item in warnings]) if warnings else (),
        unchanged,
        duration,
    )


def _submission(run_id: str, file: StagedFile) -> tuple[Any, ...]:
    """Return the file's row; its third value tells a repeated report from a different one."""
    outcome = file.outcome
    if outcome.unchanged:
        return (run_id, outcome.path, _UNCHANGED)
    sources = {place: _sha_of(text) for place, text in file.sources.items()}
    remembered = (
        _text(outcome_document(outcome)),
        file.fingerprint,
        _text(file.closure),
        _text(sources),
        file.loader,
        outcome.duration,
        file.memory,
    )
    digest = hashlib.sha256(json.dumps(remembered).encode()).hexdigest()
    return (run_id, outcome.path, digest, False, *remembered)


def _staged_digests(connection: Connection, tables: Tables, run_id: str, paths: Collection[str]) -> dict[str, str]:
    table = tables.submission
    rows = connection.execute(
        sa.select(table.c.path, table.c.digest).where(
            table.c.run == run_id, bulk.is_in(connection, table.c.path, paths)
        )
    )
    return {row.path: row.digest for row in rows}


def _require_contents(connection: Connection, tables: Tables, files: Iterable[StagedFile]) -> None:
    """Refuse a submission that refers to content which neither came with it nor is stored."""
    sent = {item.sha256 for file in files for item in file.contents}
    referred = {dag.sha256: dag.dag_id for file in files for dag in file.outcome.dags if dag.sha256 not in sent}
    if not referred:
        return
    table = tables.dag_content
    known = set(
        connection.execute(sa.select(table.c.sha256).where(bulk.is_in(connection, table.c.sha256, referred))).scalars()
    )
    if missing := sorted(referred.keys() - known):
        raise errors.ProtocolError(f"DAG {referred[missing[0]]} refers to content {missing[0]}, which was never sent")


def _store_sources(connection: Connection, tables: Tables, files: Iterable[StagedFile]) -> None:
    texts = {_sha_of(text): text for file in files for text in file.sources.values()}
    bulk.insert_missing(connection, tables.source_code, ("sha256", "text"), sorted(texts.items()))


def _copy_remembered(connection: Connection, tables: Tables, run: AnyRow, paths: Collection[str]) -> None:
    """Stage skipped files by copying what is remembered of them, inside the database."""
    source, target = tables.source_file, tables.submission
    remembered = [source.c[name] for name in REMEMBERED]
    copied = connection.execute(
        sa.insert(target).from_select(
            ["run", "path", "digest", "unchanged", *REMEMBERED],
            sa.select(sa.literal(run.id), source.c.path, sa.literal(_UNCHANGED), sa.literal(True), *remembered).where(
                source.c.bundle_id == run.bundle_id,
                source.c.subdir == run.subdir,
                bulk.is_in(connection, source.c.path, paths),
            ),
        ),
        execution_options={"preserve_rowcount": True},
    ).rowcount
    if copied != len(paths):
        raise errors.ProtocolError(
            f"{len(paths) - copied} files of {run.subdir} were reported as unchanged, but none of them is remembered",
            hint="Apply again; if it persists, apply with --force",
        )


def require_open(connection: Connection, tables: Tables, rollout_id: str, *, lock: bool = False) -> None:
    """Refuse a rollout that is over; with `lock`, no attempt at one of its subdirs is opened at the same time.

    Raises:
        NotFoundError: There is none.
        SupersededError: A newer one took its place.
        ConflictError: It is published or blocked.
    """
    table = tables.rollout
    statement = sa.select(table.c.state, table.c.message).where(table.c.id == rollout_id)
    row = connection.execute(statement.with_for_update() if lock else statement).first()
    if row is None:
        raise errors.NotFoundError(f"There is no rollout {rollout_id}")
    if row.state == RolloutState.SUPERSEDED:
        raise errors.SupersededError(f"Rollout {rollout_id} was superseded: {row.message}")
    if row.state != RolloutState.OPEN:
        raise errors.ConflictError(f"Rollout {rollout_id} is {row.state}: {row.message or 'it is finished'}")


def _require_run(
    connection: Connection,
    tables: Tables,
    run_id: str,
    attempt: str,
    *,
    states: tuple[RunState, ...] = (RunState.OPEN,),
) -> AnyRow:
    """Return the run's row, locked, with its bundle; refuse a fenced attempt and a rollout that is over."""
    run, rollout = tables.parse_run, tables.rollout
    statement = (
        sa.select(run, rollout.c.bundle_id).join(rollout, rollout.c.id == run.c.rollout).where(run.c.id == run_id)
    )
    row = connection.execute(statement.with_for_update(of=run)).first()
    if row is None:
        raise errors.NotFoundError(f"There is no run {run_id}")
    _require_current(row, attempt)
    if row.state != RunState.CLOSED:  # a closed one can be told again what it was told, whatever came of its rollout
        require_open(connection, tables, row.rollout)
    if row.state not in states:
        raise errors.ConflictError(f"The run of {row.subdir} is {row.state}")
    return row


def _require_current(row: AnyRow, attempt: str) -> None:
    if row.attempt != attempt or row.state == RunState.FENCED:
        raise errors.FencedError(
            f"Attempt {attempt} at {row.subdir} is not the current one: a newer attempt took its place"
        )


def _sum_of(connection: Connection, outcome: sa.ColumnElement[Any], member: str) -> sa.ColumnElement[int]:
    """Add up the lengths of one list of the outcomes, inside the database."""
    lists = (outcome, f"$.{member}") if connection.dialect.name == "sqlite" else (outcome.op("->")(member),)
    # not by `sa.func`: SQLAlchemy-Utils, which comes with FAB, puts a function of its own in this one's place
    return sa.func.sum(Function("json_array_length", *lists, type_=sa.Integer()))


def _text(value: object) -> str:
    return canonical(value).decode()


def _sha_of(text: str) -> str:
    try:
        return hashlib.sha256(text.encode()).hexdigest()
    except UnicodeEncodeError as error:
        raise errors.ContentError(f"A source text holds a lone surrogate: {text[:60]!r}") from error
