"""What Airflow expects of a DAG processor besides parsing: that it lives, refreshes dates, and takes requests.

Nobody else moves `next_dagrun` of a paused DAG: without that a DAG that is unpaused after hours starts with a run of
hours ago. Everything here is a few statements over all bundles together.
"""

from __future__ import annotations

import datetime as dt
import getpass
import socket
from collections.abc import Collection, Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagbundle.targets.airflow import adapter
from dagbundle.targets.airflow.sessions import session_in

JOB_TYPE = "DagProcessorJob"
"""What Airflow's health page looks for."""
MARK = "dagbundle"
"""Where a scheduler would name its executor, our rows say whose they are."""
OVERDUE = dt.timedelta(minutes=1)
"""How long after its next run was due a DAG's dates are looked at: the scheduler makes it in seconds."""
MAX_OVERDUE = 500
"""DAGs whose dates are computed in one refresh."""


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
        Paths of files, relative to their bundle's root, by the bundle's name in Airflow.
    """
    table = airflow.ParsingRequest.__table__
    rows = connection.execute(
        sa.select(table.c.id, table.c.bundle_name, table.c.relative_fileloc).where(table.c.bundle_name.in_(names))
    ).all()
    if rows:
        connection.execute(sa.delete(table).where(table.c.id.in_([row.id for row in rows])))
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row.bundle_name, set()).add(row.relative_fileloc)
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


def refresh(airflow: adapter.Adapter, connection: Connection, names: Collection[str]) -> int:
    """Say that what is live was looked at, compute overdue dates, and drop what DAGs that went left behind.

    Returns:
        How many DAGs' dates were computed.
    """
    dag = airflow.Dag.__table__
    now = dt.datetime.now(dt.UTC)
    ours = sa.and_(dag.c.bundle_name.in_(names), ~dag.c.is_stale)
    connection.execute(sa.update(dag).where(ours).values(last_parsed_time=now))
    warning = airflow.DagWarning.__table__
    gone = sa.select(dag.c.dag_id).where(dag.c.bundle_name.in_(names), dag.c.is_stale)
    connection.execute(sa.delete(warning).where(warning.c.dag_id.in_(gone)))
    at_limit = dag.c.get("exceeds_max_non_backfill")  # 3.1 clears such a DAG's dates instead
    overdue = connection.execute(
        sa.select(dag.c.dag_id, dag.c.bundle_name, dag.c.bundle_version, dag.c.last_parse_duration)
        .where(
            ours,
            dag.c.next_dagrun_create_after < now - OVERDUE,
            dag.c.is_paused if at_limit is None else sa.or_(dag.c.is_paused, at_limit),
        )
        .order_by(dag.c.dag_id)
        .limit(MAX_OVERDUE)
        .with_for_update(skip_locked=True)
    ).all()
    groups: dict[tuple[str, str | None, float | None], list[str]] = {}
    for row in overdue:
        groups.setdefault((row.bundle_name, row.bundle_version, row.last_parse_duration), []).append(row.dag_id)
    with session_in(connection) as session:
        for (name, version, duration), dag_ids in groups.items():
            airflow.refresh(session, name, version, dag_ids, duration)
        airflow.clear_triggers(session)  # whose DAGs somebody deleted in Airflow: no publication speaks of those
    return len(overdue)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's arbitrary UID has no name
        return socket.gethostname()
