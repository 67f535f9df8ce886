"""Sessions for Airflow's functions, in a savepoint of our transaction."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from dagbundle import errors


@contextlib.contextmanager
def session_in(connection: Connection) -> Iterator[Session]:
    """Lend Airflow's functions a session in a savepoint of our transaction.

    Raises:
        TargetError: One of them rolled it back and went on: then a part is missing.
    """
    session = Session(
        bind=connection, join_transaction_mode="create_savepoint", autoflush=False, expire_on_commit=False
    )

    rolled_back: list[object] = []

    def note(_session: Session, transaction: object) -> None:
        rolled_back.append(transaction)
        if sys.exc_info()[0] is None:  # else the cause is on its way
            raise _rolled_back()

    event.listen(session, "after_soft_rollback", note)
    try:
        yield session
        session.flush()
        if rolled_back:
            raise _rolled_back()
        session.commit()
    finally:
        event.remove(session, "after_soft_rollback", note)
        session.close()


def _rolled_back() -> errors.TargetError:
    return errors.TargetError("Airflow rolled a part of the publication back: nothing of it is kept")
