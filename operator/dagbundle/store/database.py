"""Connections and transactions: the one place that knows drivers, their errors, and what can be repeated.

Every unit of work is a function of a connection. It runs in one transaction and, when the database says that the
transaction is gone but the work could succeed (serialization failure, deadlock, lost connection), is run again
whole. So nothing above this module sees a driver's exception, and nothing below it is half done.
"""

from __future__ import annotations

import enum
import os
import pathlib
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import Connection, Engine

from dagbundle import errors
from dagbundle.rollout import content
from dagbundle.store import tables

T = TypeVar("T")

ATTEMPTS = 6
"""How often a unit of work is tried when its transaction was lost through no fault of its own."""
FIRST_PAUSE = 0.05
"""Seconds before the second attempt; doubled each time, so all attempts together wait about 1.5 s."""


class Mode(enum.Enum):
    """What a transaction is for."""

    READ = "read"
    """One consistent snapshot."""
    STAGE = "stage"
    """Writes that are worthless until a later `PUBLISH` commits (a run's close, say): the disk is not waited for."""
    PUBLISH = "publish"
    """Writes that must survive a power cut, with everything staged before them."""


class Database:
    """An engine with this project's rules about transactions.

    Attributes:
        engine: The SQLAlchemy engine.
        tables: The tables in this dialect's place.
    """

    def __init__(self, url: str, *, timeout: float = 15.0) -> None:
        """Prepare, without connecting.

        Args:
            url: `sqlite:///…` or `postgresql://…`.
            timeout: Seconds to wait for another writer's lock.

        Raises:
            UsageError: The URL is none, or names another database.
        """
        self.engine = _create_engine(url, timeout)
        self.tables = tables.tables_of(self.engine.dialect.name)

    @property
    def is_postgresql(self) -> bool:
        """True on PostgreSQL, False on SQLite."""
        return self.engine.dialect.name == "postgresql"

    @property
    def name(self) -> str:
        """The URL as messages may show it, without its password."""
        return self.engine.url.render_as_string(hide_password=True)

    @property
    def label(self) -> str:
        """The name without the place: the SQLite file's, or PostgreSQL's name of the database."""
        return pathlib.Path(self.engine.url.database or self.name).name

    @property
    def file(self) -> pathlib.Path | None:
        """The SQLite file; None on PostgreSQL and for a database in memory."""
        database = self.engine.url.database
        if self.is_postgresql or not database or database == ":memory:":
            return None
        return pathlib.Path(database)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on one consistent snapshot. Raises a `StoreError` where the database says no."""
        return self._run(work, Mode.READ)

    def write(self, work: Callable[[Connection], T], *, mode: Mode = Mode.PUBLISH) -> T:
        """Run `work` in one transaction, again from its start when the transaction was lost.

        `work` may run several times; a run whose commit was lost on the way back may have taken effect, so `work`
        must recognise what it has done before.

        Raises:
            StoreError: The database says no, as the subclass says.
            ContentError: A value cannot be stored.
        """
        return self._run(work, mode)

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()

    def _run(self, work: Callable[[Connection], T], mode: Mode) -> T:
        pause = FIRST_PAUSE
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self.engine.connect().execution_options(dagbundle_mode=mode) as connection, connection.begin():
                    return work(connection)
            except (exc.SQLAlchemyError, UnicodeEncodeError, OverflowError) as error:
                if attempt == ATTEMPTS or not _is_repeatable(error):
                    raise translate(error, self.name) from error
            time.sleep(pause)
            pause *= 2
        raise AssertionError  # pragma: no cover - the last attempt returns or raises


def _create_engine(url: str, timeout: float) -> Engine:
    try:
        parsed = sa.make_url(url)
    except exc.ArgumentError as error:
        raise errors.UsageError(f"{url!r:.200} is no database URL", hint=_URL_HINT) from error
    backend = parsed.get_backend_name()
    shared: dict[str, Any] = {
        "json_serializer": lambda value: content.canonical(value).decode(),
        "hide_parameters": True,  # what tenants wrote stays out of logs and messages
    }
    if backend == "sqlite":
        if parsed.host or parsed.port or parsed.username:  # with two slashes a file's name is a host's
            raise errors.UsageError(f"{url!r:.200} names a host, which SQLite does not have", hint=_URL_HINT)
        engine = sa.create_engine(parsed, connect_args={"timeout": timeout}, **shared)
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if backend in {"postgresql", "postgres"}:
        return _create_postgresql(parsed, timeout, shared)
    raise errors.UsageError(f"{backend} is not supported as a database", hint=_URL_HINT)


_URL_HINT = "Set DAGBUNDLE_DATABASE_URL to sqlite:///path/to/file or postgresql://user:password@host/database"


def _create_postgresql(parsed: sa.URL, timeout: float, shared: dict[str, Any]) -> Engine:
    """Return an engine that leaves nothing on a connection after a transaction, and needs nothing there before it.

    A pooler such as PgBouncer gives each transaction whatever connection is free: what one transaction sets or prepares
    is missing in the next, or disturbs another program. So settings are sent with each BEGIN, in the same message, and
    the driver prepares no statements. The driver is in its autocommit mode, else it would send a BEGIN of its own.
    """
    arguments = {"application_name": "dagbundle", "connect_timeout": 10}
    arguments = {key: value for key, value in arguments.items() if key not in parsed.query}
    engine = sa.create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        connect_args={**arguments, "prepare_threshold": None},
        isolation_level="AUTOCOMMIT",
        pool_use_lifo=True,  # the driver's buffers grow with what a connection has sent, and never shrink
        **shared,
    )
    begin = _begins(parsed, timeout)

    def begin_postgresql(connection: Connection) -> None:
        connection.exec_driver_sql(begin[connection.get_execution_options().get("dagbundle_mode", Mode.PUBLISH)])

    event.listen(engine, "begin", begin_postgresql)
    return engine


def _begins(parsed: sa.URL, timeout: float) -> dict[Mode, str]:
    """Return what begins a transaction of each mode, without the settings that the URL's own `options` names."""
    settings = {
        "lock_timeout": str(int(timeout * 1000)),
        "statement_timeout": "120000",
        "idle_in_transaction_session_timeout": "120000",
        "timezone": "'UTC'",
    }
    if parsed.username == tables.SCHEMA:
        # by default PostgreSQL looks first into the schema of the user's name, and ours has a `dag` and a `job` too
        settings["search_path"] = "public"
    own = str(parsed.query.get("options", "")).lower()
    lines = [f"SET LOCAL {name} TO {value}" for name, value in settings.items() if name not in own]
    later = "SET LOCAL synchronous_commit TO off"  # as on SQLite: the next publish flushes what was staged
    return {
        Mode.READ: "; ".join(["BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", *lines]),
        Mode.STAGE: "; ".join(["BEGIN ISOLATION LEVEL READ COMMITTED", *lines, later]),
        Mode.PUBLISH: "; ".join(["BEGIN ISOLATION LEVEL READ COMMITTED", *lines]),
    }


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver begins no transactions behind our back; _begin_sqlite does
    for pragma in ("journal_mode=WAL", "foreign_keys=ON", "temp_store=MEMORY", "wal_autocheckpoint=8000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """Begin a transaction; a writer takes the lock at once, since a reader that becomes one cannot wait for it."""
    mode = connection.get_execution_options().get("dagbundle_mode", Mode.PUBLISH)
    if mode is Mode.READ:
        connection.exec_driver_sql("BEGIN")
        return
    # In WAL mode a commit under NORMAL is atomic but may be lost in a power cut, together with all after it; one
    # under FULL syncs the log up to itself. So only commits that somebody relies on pay for the disk.
    connection.exec_driver_sql(f"PRAGMA synchronous={'NORMAL' if mode is Mode.STAGE else 'FULL'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE")


CHANNEL = "dagbundle"
"""Where PostgreSQL's NOTIFY speaks of rollouts, by their ids (`notifications.listen`)."""


def notify(connection: Connection, rollout_id: str | None) -> None:
    """Say, when this transaction commits, that something happened to a rollout; None says nothing.

    SQLite has no such thing, and no other program that waits for it.
    """
    if rollout_id is not None and connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_notify(%s, %s)", (CHANNEL, rollout_id))


# --- Errors ---------------------------------------------------------------------------------------------------------

_LOST_STATES = ("08", "57P01", "57P02", "57P03")
_REPEATABLE_STATES = ("40001", "40P01", *_LOST_STATES)
_UNUSABLE_STATES = ("28", "3D000", "53100", "58")
"""Account, database, disk and system: waiting mends none of them."""
_UNAVAILABLE_STATES = ("53", "55P03", "57014", "25P03", *_REPEATABLE_STATES)
_CONTENT_STATES = ("22", "23502", "23514", "54")
"""A value that its column cannot hold, that a constraint of its row refuses, or beyond a limit of PostgreSQL's."""
_TOO_MANY_VALUES = "number of parameters must be between"
"""The driver's own words: it sends no statement with more than 65,535 of them, and gives no SQLSTATE."""
_CONTENT_SQLITE = ("CONSTRAINT_NOTNULL", "CONSTRAINT_CHECK", "TOOBIG")
_SCHEMA_STATES = ("42P01", "42703", "3F000")
_UNAVAILABLE_SQLITE = ("BUSY", "LOCKED", "PROTOCOL")
_UNUSABLE_SQLITE = ("FULL", "READONLY", "CANTOPEN", "IOERR", "PERM", "NOTADB", "CORRUPT", "AUTH")
_WRITABLE = (
    "Nothing was changed; SQLite writes into the file's folder even to read: make the file and its folder writable "
    "for this user, or copy the file to another place"
)
_REFUSED_CONNECTION = re.compile(
    r"FATAL:|SSL|certificate|invalid |missing |no password supplied|\[Errno -[25]\]|could not translate host name"
)
"""What libpq says, without a SQLSTATE, where connecting again gives the same: account, database, option, host."""
_AWAY_FOR_NOW = re.compile(
    r"starting up|shutting down|recovery|not yet accepting|too many|connection slots|terminating|timeout"
    r"|Temporary failure|cannot connect|login has been failing|server login failed|no more connections|server closed",
    re.IGNORECASE,
)
"""Words of servers, and of PgBouncer, which refuse a connection that may be had soon."""


def sqlstate_of(error: BaseException) -> str:
    """Return PostgreSQL's five characters for an error, or an empty string."""
    return str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")


def is_missing_table(error: BaseException) -> bool:
    """Tell whether a statement failed because its table, column or schema does not exist."""
    return sqlstate_of(error).startswith(_SCHEMA_STATES) or "no such table" in str(getattr(error, "orig", ""))


def translate(error: BaseException, where: str) -> errors.DagBundleError:
    """Say what a driver's error means to a caller.

    Args:
        error: What SQLAlchemy or the driver raised.
        where: The database, without its password.
    """
    if _is_content(error):
        return errors.ContentError(f"A value cannot be stored: {_text_of(error)}")
    if is_missing_table(error):
        text = _text_of(error)
        is_ours = "dagbundle" in text  # our schema on PostgreSQL, our prefix on SQLite
        return errors.SchemaError(
            f"{where} does not have the tables that this program needs: {text}",
            hint="Run: dagbundle db upgrade" + ("" if is_ours else "; a table of Airflow's: airflow db migrate"),
        )
    if _is_unusable(error):
        return errors.StoreUnusableError(
            f"{where} cannot be used: {_text_of(error)}",
            hint=_WRITABLE
            if _sqlite_name(error).startswith("READONLY")
            else "Nothing was changed; mend the URL, the account, the file or the disk that this names",
        )
    if _is_unavailable(error):
        return errors.StoreUnavailableError(
            f"{where} is not available: {_text_of(error)}",
            hint="Nothing was changed; try again when the database is back or the other writer is done",
        )
    if isinstance(error, exc.IntegrityError):
        return errors.ConflictError(f"Somebody else changed {where} at the same time: {_text_of(error)}")
    return errors.StoreError(f"{where} refused a statement: {_text_of(error)}")


def _is_content(error: BaseException) -> bool:
    """Tell whether what was to be written is at fault, so that the same again ends the same."""
    if isinstance(error, exc.StatementError) and not isinstance(error, exc.DBAPIError):
        return True  # a value that has no form for the driver
    name = _sqlite_name(error)
    return (
        isinstance(error, UnicodeEncodeError | OverflowError | exc.DataError)
        or sqlstate_of(error).startswith(_CONTENT_STATES)
        or _TOO_MANY_VALUES in str(getattr(error, "orig", ""))
        or bool(name and name.startswith(_CONTENT_SQLITE))
    )


def _sqlite_name(error: BaseException) -> str:
    """Return SQLite's word for an error, or an empty string."""
    return str(getattr(getattr(error, "orig", None), "sqlite_errorname", "")).removeprefix("SQLITE_")


def _text_of(error: BaseException) -> str:
    text = " ".join(str(getattr(error, "orig", None) or error).split())
    return text[:500] or type(error).__name__


def _is_lost(error: BaseException) -> bool:
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return True
    return sqlstate_of(error).startswith(_LOST_STATES)


def _is_repeatable(error: BaseException) -> bool:
    return _is_lost(error) or sqlstate_of(error).startswith(_REPEATABLE_STATES)


def _is_unusable(error: BaseException) -> bool:
    state = sqlstate_of(error)
    if state:
        return state.startswith(_UNUSABLE_STATES)
    original = getattr(error, "orig", None)
    name = str(getattr(original, "sqlite_errorname", "")).removeprefix("SQLITE_")
    if name:
        return name.startswith(_UNUSABLE_SQLITE)
    if not isinstance(error, exc.OperationalError):
        return False
    text = str(original)
    return _REFUSED_CONNECTION.search(text) is not None and _AWAY_FOR_NOW.search(text) is None


def _is_unavailable(error: BaseException) -> bool:
    if _is_lost(error) or sqlstate_of(error).startswith(_UNAVAILABLE_STATES):
        return True
    if isinstance(error, exc.TimeoutError):  # every pooled connection is in use
        return True
    if name := _sqlite_name(error):
        return name.startswith(_UNAVAILABLE_SQLITE)
    return isinstance(error, exc.OperationalError) and not sqlstate_of(error)  # could not connect at all


def private_file(path: pathlib.Path) -> None:
    """Create a file, and the folders above it, that only this user can read: the store holds every tenant's sources.

    Raises:
        StoreUnusableError: The place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    except OSError as error:
        raise errors.StoreUnusableError(
            f"{path} cannot be created: {error.strerror}",
            hint="make its folder writable for this user, or name another place",
        ) from error
