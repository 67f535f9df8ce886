"""What became of a rollout's runs: the shards of each subdir put together again, for the judge and for people.

A subdir counts as closed only when every one of its shards closed and no two of them speak of one file. One that no
parser reported for is not closed either, so that nobody takes it for a subdir that left the bundle.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagbundle.rollout.model import FileOutcome, RunOutcome
from dagbundle.store import bulk, staging
from dagbundle.store.records import Ingestion, JobRow, RunState, RunStateRow
from dagbundle.store.tables import AnyRow, Tables

_INGESTION = tuple(item.name for item in dataclasses.fields(Ingestion))


def outcomes(connection: Connection, tables: Tables, rollout_id: str) -> tuple[RunOutcome, ...]:
    """See `DagReader.outcomes`."""
    submission = tables.submission
    runs = _current_runs(connection, tables, rollout_id)
    files: dict[str, list[FileOutcome]] = {row.id: [] for rows in runs.values() for row in rows}
    rows = connection.execute(
        sa.select(
            submission.c.run,
            submission.c.path,
            submission.c.unchanged,
            submission.c.duration,
            sa.cast(submission.c.outcome, sa.Text),
        )
        .where(submission.c.run.in_(files))
        .order_by(submission.c.run, submission.c.path)
    ).all()
    documents = json.loads(f"[{','.join([row[4] for row in rows])}]")  # one by one takes three times as long
    for (run, path, unchanged, duration, _), document in zip(rows, documents, strict=True):
        files[run].append(staging.read_outcome(path, document, unchanged=unchanged, duration=duration))
    shards = _shards(connection, tables, rollout_id)
    subdirs = sorted({*runs, *_subdirs(connection, tables, rollout_id)})
    return tuple(_merged(subdir, runs.get(subdir, ()), shards.get(subdir, 1), files) for subdir in subdirs)


def closed(connection: Connection, tables: Tables, rollout_id: str) -> dict[str, str]:
    """Return the subdirs of which every shard closed, with the Airflow that serialized them; empty where none did."""
    wanted: dict[str, int] = {}
    shards: dict[str, set[int]] = {}
    airflow: dict[str, str] = {}
    for row in connection.execute(_closed(tables), {"rollout": rollout_id}):
        wanted[row.subdir] = row.shards
        shards.setdefault(row.subdir, set()).add(row.shard)
        airflow[row.subdir] = row.airflow or airflow.get(row.subdir, "")
    return {subdir: airflow[subdir] for subdir, found in shards.items() if found == set(range(wanted[subdir]))}


@functools.cache
def _closed(tables: Tables) -> sa.Select[Any]:
    run, job = tables.parse_run, tables.job
    return (
        sa.select(run.c.subdir, run.c.shard, run.c.airflow, sa.func.coalesce(job.c.shards, 1).label("shards"))
        .outerjoin(job, sa.and_(job.c.rollout == run.c.rollout, job.c.subdir == run.c.subdir))
        .where(run.c.rollout == sa.bindparam("rollout", type_=sa.Text), run.c.state == RunState.CLOSED)
    )


def run_states(connection: Connection, tables: Tables, rollout_id: str) -> tuple[RunStateRow, ...]:
    """See `DagReader.run_states`."""
    shards = _shards(connection, tables, rollout_id)
    runs = _current_runs(connection, tables, rollout_id)
    return tuple([_state(row, shards.get(subdir, 1)) for subdir, rows in sorted(runs.items()) for row in rows])


def states_of(
    connection: Connection, tables: Tables, jobs: Mapping[str, Sequence[JobRow]], rollouts: Collection[str]
) -> dict[str, tuple[RunStateRow, ...]]:
    """Return what `run_states` does for each rollout that somebody reported for, given their Jobs."""
    run = tables.parse_run
    shards = {(rollout, job.subdir): job.shards for rollout, found in jobs.items() for job in found}
    states: dict[str, tuple[RunStateRow, ...]] = {}
    for row in connection.execute(
        sa.select(run)
        .where(bulk.is_in(connection, run.c.rollout, rollouts), run.c.state != RunState.FENCED)
        .order_by(run.c.rollout, run.c.subdir, run.c.shard)
    ):
        found = _state(row, shards.get((row.rollout, row.subdir), 1))
        states[row.rollout] = (*states.get(row.rollout, ()), found)
    return states


def _state(row: AnyRow, shards: int) -> RunStateRow:
    return RunStateRow(
        subdir=row.subdir,
        shard=row.shard,
        shards=shards,
        attempt=row.attempt,
        state=RunState(row.state),
        failure=row.failure,
        files=row.files,
        dags=row.dags,
        import_errors=row.import_errors,
        airflow=row.airflow,
        python=row.python,
        started_at=row.started_at,
        closed_at=row.closed_at,
        ingestion=_ingestion(row.ingestion),
    )


def _ingestion(found: Mapping[str, Any] | None) -> Ingestion | None:
    """Read what a run's row has; what a newer version of this program adds is left out."""
    return None if found is None else Ingestion(**{name: found[name] for name in _INGESTION if name in found})


def _current_runs(connection: Connection, tables: Tables, rollout_id: str) -> dict[str, list[AnyRow]]:
    """Return the newest attempt at every shard, by subdir, in the shards' order."""
    run = tables.parse_run
    found: dict[str, list[AnyRow]] = {}
    for row in connection.execute(
        sa.select(run)
        .where(run.c.rollout == rollout_id, run.c.state != RunState.FENCED)
        .order_by(run.c.subdir, run.c.shard)
    ):
        found.setdefault(row.subdir, []).append(row)
    return found


def _shards(connection: Connection, tables: Tables, rollout_id: str) -> dict[str, int]:
    """Return how many shards the subdirs with a Job have; every other has one."""
    job = tables.job
    rows = connection.execute(sa.select(job.c.subdir, job.c.shards).where(job.c.rollout == rollout_id))
    return {row.subdir: row.shards for row in rows}


def _subdirs(connection: Connection, tables: Tables, rollout_id: str) -> Sequence[str]:
    table = tables.rollout
    found: Sequence[str] | None = connection.execute(
        sa.select(table.c.subdirs).where(table.c.id == rollout_id)
    ).scalar()
    return found or ()


def _merged(subdir: str, rows: Sequence[AnyRow], shards: int, files: Mapping[str, list[FileOutcome]]) -> RunOutcome:
    failure = _failure(rows, shards)
    if len(rows) == 1:
        return RunOutcome(subdir=subdir, closed=not failure, files=tuple(files[rows[0].id]), failure=failure)
    found = sorted((file for row in rows for file in files[row.id]), key=lambda file: file.path)
    twice = [path for path, count in Counter(file.path for file in found).items() if count > 1]
    if not failure and twice:
        failure = f"{twice[0]} was reported by two shards: all shards must parse the same files of the same image"
    return RunOutcome(subdir=subdir, closed=not failure, files=tuple(found), failure=failure)


def _failure(rows: Sequence[AnyRow], shards: int) -> str:
    """Say why a subdir is not closed; empty when it is."""
    if not rows:
        return "No parser reported"
    by_shard = {row.shard: row for row in rows}
    for shard in range(shards):
        row = by_shard.get(shard)
        where = f"Shard {shard} of {shards}: " if shards > 1 else ""
        if row is None:
            return f"{where}no parser reported"
        if row.state == RunState.OPEN:
            return f"{where}The run did not close{row.failure}"
        if row.state != RunState.CLOSED:
            return where + (row.failure or "The run did not close")
    if len(rows) > shards:
        return f"Shard {max(by_shard)} reported, but there are only {shards}"
    return ""
