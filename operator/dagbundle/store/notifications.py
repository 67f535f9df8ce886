"""Hears that something happened to a rollout, so that the controller need not ask the database again and again.

Transactions say so by NOTIFY (`database.notify`): it arrives after their commit, and never for what was rolled back.
It is a hint: what happened while nobody listened is made up for by asking once after every (re)connection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy import exc

from dagbundle import errors
from dagbundle.store.database import CHANNEL

_KEEPALIVE: dict[str, Any] = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
"""Seconds, seconds and tries: a server whose machine vanished is missed after a minute."""
_FOREVER = 3600.0


class Listener:
    """An open LISTEN. Its connection is its own: it is in no pool, and idle while nothing happens."""

    def __init__(self, connection: psycopg.Connection[object], where: str) -> None:
        self._connection = connection
        self._where = where

    def wait(self, seconds: float) -> frozenset[str]:
        """Wait for something to happen, for at most so many seconds.

        Returns:
            The ids of rollouts to which something happened since the last call; empty when the time was up.

        Raises:
            StoreUnavailableError: The connection broke, or was closed: listen again, and ask for what was missed.
        """
        try:
            found = {item.payload for item in self._connection.notifies(timeout=seconds, stop_after=1)}
            found |= {item.payload for item in self._connection.notifies(timeout=0)}
        except psycopg.Error as error:
            raise _gone(self._where, error) from error
        return frozenset(found)

    def __iter__(self) -> Iterator[str]:
        """Yield ids as they come, for ever. Raises like `wait`."""
        while True:
            yield from sorted(self.wait(_FOREVER))

    def close(self) -> None:
        """End it; from another thread too: who waits in it gets a `StoreUnavailableError`."""
        self._connection.close()


@contextlib.contextmanager
def listen(url: str) -> Iterator[Listener]:
    """Listen from now on, on a connection of its own, until the block is left. Who calls it connects again.

    Args:
        url: `postgresql://…`, as `DagReader.open` takes it, and past any pooler.

    Raises:
        UsageError: The URL is of another kind of database, or leads through a pooler.
        StoreUnavailableError: It cannot be reached.
    """
    try:
        parsed = sa.make_url(url)
    except exc.ArgumentError as error:
        raise errors.UsageError(f"{url!r:.200} is no database URL") from error
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise errors.UsageError("Only PostgreSQL tells what happens to rollouts", hint="Ask the store instead")
    where = parsed.render_as_string(hide_password=True)
    plain = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        connection: psycopg.Connection[object] = psycopg.connect(
            plain, autocommit=True, connect_timeout=10, application_name="dagbundle-listen", **_KEEPALIVE
        )
    except psycopg.Error as error:
        raise _gone(where, error) from error
    listener = Listener(connection, where)
    with contextlib.closing(listener):
        try:
            _refuse_pooler(connection, where)
            connection.execute(f"LISTEN {CHANNEL}")
        except psycopg.Error as error:
            raise _gone(where, error) from error
        yield listener


def _refuse_pooler(connection: psycopg.Connection[object], where: str) -> None:
    """Refuse a connection that ends in a pooler: it names another process than the one of PostgreSQL's that answers.

    Where transactions share connections, LISTEN hears nothing, and other programs get what it asked for.
    """
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    if row != (connection.info.backend_pid,):
        raise errors.UsageError(
            f"{where} leads through a pooler, where notifications cannot be heard",
            hint="Set DAGBUNDLE_LISTEN_URL to a URL of the same database that leads to PostgreSQL itself",
        )


def _gone(where: str, error: Exception) -> errors.StoreUnavailableError:
    text = " ".join(str(error).split())[:500]
    return errors.StoreUnavailableError(f"{where} cannot be listened to: {text}", hint="Listen again")
