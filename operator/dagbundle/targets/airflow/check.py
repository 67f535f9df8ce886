"""Looks at an Airflow deployment from its database, and says what would go wrong with publishing into it."""

from __future__ import annotations

import datetime as dt
import importlib.util
from collections.abc import Collection, Iterator, Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagbundle.rollout.moves import Symptom
from dagbundle.targets.airflow import adapter, upkeep, vetting

ALIVE = dt.timedelta(seconds=60)
"""How old the last heartbeat of a processor may be that is taken for alive; Airflow's health page says 30 s."""
_SHOWN = 5
_FAB_USERS = "ab_user"


def examine(
    airflow: adapter.Adapter, connection: Connection, live: Mapping[str, Collection[str]], allowed: vetting.Allowed
) -> Iterator[Symptom]:
    """Look at everything.

    Args:
        airflow: The installed Airflow.
        connection: In a transaction.
        live: dag_ids that are live in our tables, by their bundle's name in Airflow.
        allowed: What documents may name.
    """
    yield Symptom("info", f"this program has Airflow {airflow.version}")
    if not sa.inspect(connection).has_table("alembic_version"):
        yield Symptom(
            "error",
            "the database has no tables of Airflow's",
            hint="DAGBUNDLE_DATABASE_URL must name Airflow's own database, migrated by `airflow db migrate`",
        )
        return
    yield from _migrated(airflow, connection)
    yield from _processors(airflow, connection)
    yield from _bundles(airflow, connection, live)
    yield from _dags(airflow, connection, live)
    yield from _permissions(airflow, connection)
    yield from _callbacks(airflow, allowed)
    if not airflow.setting("core", "fernet_key"):
        yield Symptom(
            "warning",
            "[core] fernet_key is not set here: arguments of asset watchers' triggers are stored unencrypted, and DAG "
            "files cannot read encrypted Variables and Connections while they are parsed",
            hint="give this program the deployment's AIRFLOW__CORE__FERNET_KEY",
        )


def _migrated(airflow: adapter.Adapter, connection: Connection) -> Iterator[Symptom]:
    found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    if found != airflow.schema:
        yield Symptom(
            "error",
            f"the database is at Airflow's revision {found}, and {airflow.version} has {airflow.schema}",
            hint="use the image of the Airflow that the deployment runs, or finish its migration",
        )


def _processors(airflow: adapter.Adapter, connection: Connection) -> Iterator[Symptom]:
    job = airflow.Job.__table__
    since = dt.datetime.now(dt.UTC) - ALIVE
    alive = connection.execute(
        sa.select(job.c.hostname, job.c.executor_class).where(
            job.c.job_type == upkeep.JOB_TYPE, job.c.state == "running", job.c.latest_heartbeat > since
        )
    ).all()
    stock = sorted(str(row.hostname) for row in alive if row.executor_class != upkeep.MARK)
    ours = len(alive) - len(stock)
    if stock:
        yield Symptom(
            "warning",
            f"a dag-processor of Airflow's own runs on {', '.join(stock[:_SHOWN])}: without our bundles in its "
            "settings it marks them as inactive when it starts",
            hint="name its bundles with `airflow dag-processor --bundle-name` (docs/airflow.md)",
        )
    if not ours:
        yield Symptom("info", "no controller of ours is alive: Airflow's health page shows no DAG processor of ours")


def _bundles(
    airflow: adapter.Adapter, connection: Connection, live: Mapping[str, Collection[str]]
) -> Iterator[Symptom]:
    table = airflow.DagBundle.__table__
    rows = {row.name: row.active for row in connection.execute(sa.select(table.c.name, table.c.active))}
    for name in sorted(live):
        if name in rows and not rows[name]:
            yield Symptom(
                "error",
                f"bundle {name} is marked as inactive in Airflow by a dag-processor without this bundle",
                hint="stop that processor or name its bundles, then `dagbundle airflow sync`",
            )


def _dags(airflow: adapter.Adapter, connection: Connection, live: Mapping[str, Collection[str]]) -> Iterator[Symptom]:
    dag = airflow.Dag.__table__
    rows = connection.execute(sa.select(dag.c.dag_id, dag.c.bundle_name, dag.c.is_stale)).all()
    owner = {row.dag_id: row.bundle_name for row in rows if not row.is_stale}
    for name in sorted(live):
        taken = sorted(dag_id for dag_id in live[name] if owner.get(dag_id, name) != name)
        if taken:
            yield Symptom(
                "error",
                f"DAGs of bundle {name} belong to another bundle in Airflow ({len(taken)}): {_some(taken, owner)}",
                hint="take them out of that bundle, or let its processor go",
            )
        absent = sorted(dag_id for dag_id in live[name] if dag_id not in owner)
        if absent:
            yield Symptom(
                "error",
                f"DAGs of bundle {name} are not shown by Airflow ({len(absent)}): {', '.join(absent[:_SHOWN])}",
                hint="run: dagbundle airflow sync",
            )
    others: dict[str, int] = {}
    for name in owner.values():
        if name not in live:
            others[name] = others.get(name, 0) + 1
    for name, number in sorted(others.items()):
        yield Symptom("info", f"bundle {name} is not ours; DAGs that are live in it: {number}")


def _permissions(airflow: adapter.Adapter, connection: Connection) -> Iterator[Symptom]:
    if airflow.has_fab_permissions:
        if importlib.util.find_spec("airflow.providers.fab") is None:
            yield Symptom(
                "error",
                "[core] auth_manager is FAB's, and its provider is not installed here: no DAG can be published",
                hint="add the deployment's apache-airflow-providers-fab to this program's image",
            )
    elif sa.inspect(connection).has_table(_FAB_USERS) and connection.scalar(
        sa.select(sa.exists().select_from(sa.table(_FAB_USERS)))
    ):
        yield Symptom(
            "warning",
            "the database has users of FAB's, and [core] auth_manager is another here: DAGs' access_control is not "
            "carried out",
            hint="set AIRFLOW__CORE__AUTH_MANAGER as the deployment does; if that has left FAB, all is well",
        )


def _callbacks(airflow: adapter.Adapter, allowed: vetting.Allowed) -> Iterator[Symptom]:
    """Compare the executors that may be given a deadline's callback with what they can do."""
    for name in sorted(allowed.callback_executors):
        carries = airflow.carries_callbacks(None if name == vetting.DEFAULT_EXECUTOR else name)
        if carries is None:
            yield Symptom(
                "warning",
                f"DAGBUNDLE_ALLOWED_CALLBACK_EXECUTORS names {name}, which [core] executor does not name "
                "here, or which is not installed here: whether it carries out callbacks is not known",
                hint="give this program the deployment's AIRFLOW__CORE__EXECUTOR",
            )
        elif not carries:
            yield Symptom(
                "error",
                f"DAGBUNDLE_ALLOWED_CALLBACK_EXECUTORS names {name}, which cannot carry out callbacks: a deadline's "
                "SyncCallback for it ends the scheduler, again at each start",
                hint="take it out of airflow.allowed.callbackExecutors",
            )


def _some(dag_ids: Collection[str], owner: Mapping[str, str]) -> str:
    return ", ".join(f"{dag_id} ({owner[dag_id]})" for dag_id in list(dag_ids)[:_SHOWN])
