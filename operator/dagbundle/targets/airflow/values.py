"""Variables and Connections, as Airflow's API server looks them up for a task or a stock DAG processor.

The deployment's secrets backend comes first, then the environment, then Airflow's own tables, which are decrypted.
Unlike there, a backend that fails does not count as one that has no such value where no other has it: a DAG file would
take its default instead, and that would be published.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dagbundle import errors
from dagbundle.rollout.model import LookupKind, LookupValue
from dagbundle.targets.airflow import adapter
from dagbundle.targets.airflow.sessions import session_in

_FIELDS = ("conn_type", "host", "schema", "login", "password", "port", "extra")
REASON = "ValueUnavailable"


def look_up(airflow: adapter.Adapter, connection: Connection, kind: LookupKind, key: str) -> LookupValue | None:
    """Return a Variable's text or a Connection's fields; None where nobody has it.

    Args:
        airflow: The installed Airflow.
        connection: In a transaction.
        kind: Of what.
        key: Its name.

    Raises:
        TargetError: A backend failed, and no other has it. What it said is kept back: it may hold a value.
    """
    failed = ""
    with session_in(connection) as session:
        for backend in airflow.secrets_backends():
            try:
                found = _ask(airflow, backend, session, kind, key)
            except (SQLAlchemyError, errors.DagBundleError):
                raise
            except Exception as error:  # noqa: BLE001 - a deployment's backend may raise anything
                failed = failed or f"{type(backend).__name__} failed with {type(error).__name__}"
            else:
                if found is not None:
                    return found
    if failed:
        raise _unavailable(kind, key, failed)
    return None


def _ask(airflow: adapter.Adapter, backend: Any, session: Session, kind: LookupKind, key: str) -> LookupValue | None:
    ours = {"session": session} if isinstance(backend, airflow.MetastoreBackend) else {}
    if ours and _is_unreadable(airflow, session, kind, key):
        raise _unavailable(kind, key, "it cannot be decrypted")
    if kind == "variable":
        text = backend.get_variable(key=key, **ours)
        return None if text is None else str(text)
    found = backend.get_connection(conn_id=key, **ours)
    return None if found is None else {name: getattr(found, name) for name in _FIELDS}


def _is_unreadable(airflow: adapter.Adapter, session: Session, kind: LookupKind, key: str) -> bool:
    """Tell whether Airflow's table has it in a form that this program cannot read: Airflow would say it has none."""
    model = airflow.Variable if kind == "variable" else airflow.Connection
    name = model.key if kind == "variable" else model.conn_id
    row = session.scalar(sa.select(model).where(name == key).limit(1))
    if row is None:
        return False
    session.expunge(row)
    if not airflow.decrypts and (row.is_encrypted or getattr(row, "is_extra_encrypted", False)):
        return True
    return kind == "variable" and row.get_val() is None


def _unavailable(kind: LookupKind, key: str, why: str) -> errors.TargetError:
    return errors.TargetError(
        f"{kind} {key!r} cannot be looked up: {why}",
        hint="Give this program the deployment's AIRFLOW__CORE__FERNET_KEY and its settings of [secrets]",
        reason=REASON,
    )
