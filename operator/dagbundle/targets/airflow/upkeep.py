"""What Airflow expects of a DAG processor besides parsing: that it lives, refreshes dates, and takes requests.

Nobody else moves `next_dagrun` of a paused DAG: without that a DAG that is unpaused after hours starts with a run of
hours ago. Everything here is a few statements over all bundles together.
"""

from __future__ import annotations

import datetime as dt
import functools
import getpass
import logging
import random
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError

from dagbundle.targets.airflow import adapter, shares
from dagbundle.targets.airflow.examining import on_behalf_of
from dagbundle.targets.airflow.next_runs import Spent
from dagbundle.targets.airflow.sessions import session_in

JOB_TYPE = "DagProcessorJob"
"""What Airflow's health page looks for."""
MARK = "dagbundle"
"""Where a scheduler would name its executor, our rows say whose they are."""
MAX_REQUESTS = 200
"""Requests of one bundle that are looked at one by one: far more than files that a pass takes."""
OVERDUE = dt.timedelta(minutes=1)
"""How long after its next run was due a DAG's dates are looked at: the scheduler makes it in seconds."""
MAX_OVERDUE = 500
"""DAGs whose dates are computed in one refresh; namespaces have them in turn, and in each its bundles."""
_AT_ONCE = 10
"""DAGs of a bundle between two looks at what it has taken of the examiner."""

Step = Callable[[Connection], None]
_Group = tuple[str, str | None, float | None]
"""Bundle, version and parse duration, which the rows of DAGs that are computed together have in common."""

_log = logging.getLogger(__name__)


def beat(airflow: adapter.Adapter, connection: Connection, identity: str) -> None:
    """Show as a live DAG processor: the row of this identity is made, or renewed.

    Args:
        airflow: The installed Airflow.
        connection: In a transaction.
        identity: Names this replica; shown as the host.
    """
    job = airflow.Job.__table__
    now = dt.datetime.now(dt.UTC)
    mine = sa.and_(job.c.job_type == JOB_TYPE, job.c.hostname == identity, job.c.state == "running")
    if connection.execute(sa.update(job).where(mine).values(latest_heartbeat=now)).rowcount:
        return
    connection.execute(
        sa.insert(job).values(
            job_type=JOB_TYPE,
            state="running",
            executor_class=MARK,
            hostname=identity,
            unixname=_user(),
            start_date=now,
            latest_heartbeat=now,
        )
    )


def rest(airflow: adapter.Adapter, connection: Connection, identity: str) -> None:
    """Show as ended in order."""
    job = airflow.Job.__table__
    mine = sa.and_(job.c.job_type == JOB_TYPE, job.c.hostname == identity, job.c.state == "running")
    connection.execute(sa.update(job).where(mine).values(state="success", end_date=dt.datetime.now(dt.UTC)))


def take_requests(airflow: adapter.Adapter, connection: Connection, names: Collection[str]) -> Mapping[str, set[str]]:
    """Take the requests to parse files of these bundles again out of Airflow's table: a second one gets 409 until then.

    Returns:
        Paths of files, relative to their bundle's root, by the bundle's name in Airflow; of each bundle, some
        `MAX_REQUESTS` at most.
    """
    table = airflow.ParsingRequest.__table__
    place = sa.func.row_number().over(partition_by=table.c.bundle_name, order_by=table.c.id).label("place")
    asked = sa.select(table.c.id, table.c.bundle_name, table.c.relative_fileloc, place)
    ranked = asked.where(table.c.bundle_name.in_(names)).subquery()
    found: dict[str, set[str]] = {}
    ids: dict[str, list[str]] = {}
    for row in connection.execute(sa.select(ranked).where(ranked.c.place <= MAX_REQUESTS)):
        found.setdefault(row.bundle_name, set()).add(row.relative_fileloc)
        ids.setdefault(row.bundle_name, []).append(row.id)
    for name, taken in ids.items():
        # of a bundle with more, all are taken: all of it will be parsed
        mine = table.c.id.in_(taken) if len(taken) < MAX_REQUESTS else table.c.bundle_name == name
        connection.execute(sa.delete(table).where(mine))
    return found


def missing(airflow: adapter.Adapter, connection: Connection, live: Mapping[str, Collection[str]]) -> set[str]:
    """Return which bundles have live DAGs that Airflow does not show: somebody deleted them, or made them stale.

    Args:
        airflow: The installed Airflow.
        connection: In a transaction.
        live: dag_ids that are live, by their bundle's name in Airflow.
    """
    dag = airflow.Dag.__table__
    rows = connection.execute(
        sa.select(dag.c.bundle_name, dag.c.dag_id).where(dag.c.bundle_name.in_(list(live)), ~dag.c.is_stale)
    )
    there: dict[str, set[str]] = {}
    for row in rows:
        there.setdefault(row.bundle_name, set()).add(row.dag_id)
    return {name for name, dag_ids in live.items() if not set(dag_ids) <= there.get(name, set())}


def refresh(airflow: adapter.Adapter, connection: Connection, names: Collection[str]) -> None:
    """Say that what is live was looked at, and drop what DAGs that went left behind."""
    dag = airflow.Dag.__table__
    connection.execute(sa.update(dag).where(_ours(dag, names)).values(last_parsed_time=dt.datetime.now(dt.UTC)))
    warning = airflow.DagWarning.__table__
    gone = sa.select(dag.c.dag_id).where(dag.c.bundle_name.in_(names), dag.c.is_stale)
    connection.execute(sa.delete(warning).where(warning.c.dag_id.in_(gone)))
    with session_in(connection) as session:
        airflow.clear_triggers(session)  # whose DAGs somebody deleted in Airflow: no publication speaks of those


def overdue(airflow: adapter.Adapter, connection: Connection, names: Mapping[str, str]) -> Iterator[Step]:
    """Return what computes the overdue dates of DAGs, a few DAGs at a time.

    Each step is taken in a transaction of its own: it waits for the examiner, and other DAGs' rows are not locked then.

    Args:
        airflow: The installed Airflow.
        connection: In a transaction.
        names: Our bundles by their names in Airflow, each with its namespace.
    """
    dag = airflow.Dag.__table__
    late = sa.and_(_ours(dag, list(names)), _is_overdue(dag))
    counted = sa.select(dag.c.bundle_name, sa.func.count()).where(late).group_by(dag.c.bundle_name)
    counts = {row[0]: row[1] for row in connection.execute(counted)}
    places = shares.places(counts, names, MAX_OVERDUE)
    groups: dict[_Group, list[str]] = {}
    for row in connection.execute(_most_overdue(dag, late, places)).all() if places else ():
        groups.setdefault((row.bundle_name, row.bundle_version, row.last_parse_duration), []).append(row.dag_id)
    parts = [
        (key, dag_ids[i : i + _AT_ONCE]) for key, dag_ids in groups.items() for i in range(0, len(dag_ids), _AT_ONCE)
    ]
    random.shuffle(parts)  # where there is not enough time for all, those that were left come first some other time
    return _steps(airflow, parts, names)


def _steps(airflow: adapter.Adapter, parts: list[tuple[_Group, list[str]]], names: Mapping[str, str]) -> Iterator[Step]:
    """Return steps, each for the namespace whose DAGs have taken the least time so far."""
    spent, left = Spent(names), 0
    waiting: dict[str, list[tuple[_Group, list[str]]]] = {}
    for part in parts:
        waiting.setdefault(names[part[0][0]], []).append(part)
    while waiting:
        namespace = min(waiting, key=spent.of)
        group, dag_ids = waiting[namespace].pop()
        if not waiting[namespace]:
            del waiting[namespace]
        if spent.allows(group[0]):
            yield functools.partial(_move, airflow, group=group, dag_ids=dag_ids, spent=spent)
        else:
            left += len(dag_ids)
    if left:  # those that fail are in the log
        _log.warning(
            "%d of %d DAGs' next runs were left for the next upkeep", left, sum(len(dag_ids) for _, dag_ids in parts)
        )


def _move(airflow: adapter.Adapter, connection: Connection, *, group: _Group, dag_ids: list[str], spent: Spent) -> None:
    """Compute the dates of those of these DAGs that are overdue still, and that nobody else has in hand."""
    dag = airflow.Dag.__table__
    found = sa.select(dag.c.dag_id).where(dag.c.dag_id.in_(dag_ids), _ours(dag, [group[0]]), _is_overdue(dag))
    there = connection.scalars(found.order_by(dag.c.dag_id).with_for_update(skip_locked=True)).all()
    if there:
        _compute(airflow, connection, group, list(there), spent)


def _compute(airflow: adapter.Adapter, connection: Connection, group: _Group, dag_ids: list[str], spent: Spent) -> None:
    """Compute DAGs' next runs, one by one where they cannot be computed together."""
    name, version, duration = group
    try:
        with on_behalf_of(spent.namespace(name)), session_in(connection) as session:
            airflow.refresh(session, name, version, dag_ids, duration=duration, spent=spent)
    except OperationalError:  # the database is gone, or somebody else has the rows
        raise
    except Exception as error:  # noqa: BLE001 - whatever Airflow makes of a row that somebody changed: other DAGs' dates still move
        if len(dag_ids) > 1:
            for dag_id in dag_ids:
                _compute(airflow, connection, group, [dag_id], spent)
            return
        _log.error(
            "the next run of DAG %s of bundle %s cannot be stored: %s: %.500s",
            *dag_ids,
            name,
            type(error).__name__,
            error,
        )


def _ours(dag: sa.Table, names: Collection[str]) -> sa.ColumnElement[bool]:
    return sa.and_(dag.c.bundle_name.in_(names), ~dag.c.is_stale)


def _is_overdue(dag: sa.Table) -> sa.ColumnElement[bool]:
    at_limit = dag.c.get("exceeds_max_non_backfill")  # 3.1 clears such a DAG's dates instead
    return sa.and_(
        dag.c.next_dagrun_create_after < dt.datetime.now(dt.UTC) - OVERDUE,
        dag.c.is_paused if at_limit is None else sa.or_(dag.c.is_paused, at_limit),
    )


def _most_overdue(dag: sa.Table, late: sa.ColumnElement[bool], places: Mapping[str, int]) -> sa.Select[Any]:
    """Find the most overdue DAGs of bundles, of each so many."""
    by_count: dict[int, list[str]] = {}
    for bundle, count in places.items():
        by_count.setdefault(count, []).append(bundle)
    turn = sa.func.row_number().over(partition_by=dag.c.bundle_name, order_by=dag.c.next_dagrun_create_after)
    ranked = sa.select(dag.c.dag_id, turn.label("turn")).where(late, dag.c.bundle_name.in_(list(places))).subquery()
    placed = [
        sa.and_(dag.c.bundle_name.in_(bundles), ranked.c.turn <= count) for count, bundles in sorted(by_count.items())
    ]
    return (
        sa.select(dag.c.dag_id, dag.c.bundle_name, dag.c.bundle_version, dag.c.last_parse_duration)
        .join(ranked, ranked.c.dag_id == dag.c.dag_id)
        .where(sa.or_(*placed))
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's arbitrary UID has no name
        return socket.gethostname()
