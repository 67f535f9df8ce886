from __future__ import annotations

import contextlib
import datetime as dt
import pathlib
import sqlite3
import subprocess
import sys

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from dagbundle import errors
from dagbundle.store import database, tables


class Refusal(psycopg.Error):
    """A driver's error with any SQLSTATE."""

    def __init__(self, state: str) -> None:
        super().__init__("the server's words")
        self.sqlstate = state


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("55P03", errors.StoreUnavailableError),
        ("57014", errors.StoreUnavailableError),
        ("57P01", errors.StoreUnavailableError),
        ("53300", errors.StoreUnavailableError),
        ("53100", errors.StoreUnusableError),
        ("28P01", errors.StoreUnusableError),
        ("3D000", errors.StoreUnusableError),
        ("40001", errors.StoreUnavailableError),
        ("40P01", errors.StoreUnavailableError),
        ("42P01", errors.SchemaError),
        ("42703", errors.SchemaError),
        ("3F000", errors.SchemaError),
        ("22021", errors.ContentError),
        ("22P05", errors.ContentError),
        ("42601", errors.StoreError),
    ],
)
def test_what_postgresql_says_is_one_error_of_the_tree(state: str, kind: type[errors.DagBundleError]) -> None:
    found = database.translate(exc.DBAPIError("SELECT 1", None, Refusal(state)), "postgresql://host/db")
    assert type(found) is kind
    assert "the server's words" in found.message


def test_a_row_that_somebody_else_wrote_first_is_a_conflict() -> None:
    error = exc.IntegrityError("INSERT", None, Refusal("23505"))
    assert type(database.translate(error, "here")) is errors.ConflictError


@pytest.mark.parametrize(
    ("table", "hint"),
    [
        ("dagbundle_bundle", "Run: dagbundle db upgrade"),
        ("dag_bundle", "Run: dagbundle db upgrade; a table of Airflow's: airflow db migrate"),
    ],
)
def test_a_missing_table_names_the_command_that_makes_it(table: str, hint: str) -> None:
    missing = sqlite3.OperationalError(f"no such table: {table}")
    assert database.translate(exc.OperationalError("SELECT 1", None, missing), "here").hint == hint


def test_a_statement_with_more_values_than_can_be_sent_is_a_content_error_and_no_absence() -> None:
    said = Exception("sending query failed: number of parameters must be between 0 and 65535")
    assert type(database.translate(exc.OperationalError("SELECT", None, said), "here")) is errors.ContentError


@pytest.mark.parametrize(
    "error", [UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), OverflowError("too large")]
)
def test_a_value_that_the_driver_cannot_send_is_a_content_error(error: Exception) -> None:
    assert type(database.translate(error, "here")) is errors.ContentError


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("SQLITE_BUSY", errors.StoreUnavailableError),
        ("SQLITE_IOERR_FSYNC", errors.StoreUnusableError),
        ("SQLITE_FULL", errors.StoreUnusableError),
        ("SQLITE_READONLY", errors.StoreUnusableError),
        ("SQLITE_CORRUPT", errors.StoreUnusableError),
        ("SQLITE_ERROR", errors.StoreError),
    ],
)
def test_what_sqlite_says_is_one_error_of_the_tree(name: str, kind: type[errors.DagBundleError]) -> None:
    original = sqlite3.OperationalError("words")
    original.sqlite_errorname = name
    assert type(database.translate(exc.OperationalError("SELECT 1", None, original), "here")) is kind


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ('connection to server at "h", port 5 failed: FATAL:  database "x" does not exist', errors.StoreUnusableError),
        ("failed: FATAL:  password authentication failed for user", errors.StoreUnusableError),
        ("failed to resolve host 'nowhere.invalid': [Errno -2] Name or service not known", errors.StoreUnusableError),
        ("failed: server does not support SSL, but SSL was required", errors.StoreUnusableError),
        ('connection is bad: invalid sslmode value: "bad"', errors.StoreUnusableError),
        ("failed: Connection refused\n\tIs the server running on that host", errors.StoreUnavailableError),
        ("failed to resolve host 'h': [Errno -3] Temporary failure in name resolution", errors.StoreUnavailableError),
        ("failed: FATAL:  the database system is starting up", errors.StoreUnavailableError),
        ("failed: FATAL:  sorry, too many clients already", errors.StoreUnavailableError),
        ("failed: FATAL:  server login has been failing, cached error: no", errors.StoreUnavailableError),
        ("failed: SSL SYSCALL error: timeout expired", errors.StoreUnavailableError),
        ("server closed the connection unexpectedly", errors.StoreUnavailableError),
    ],
)
def test_a_connection_that_is_refused_for_good_is_not_said_to_come_back(
    words: str, kind: type[errors.DagBundleError]
) -> None:
    error = exc.OperationalError("SELECT 1", None, psycopg.OperationalError(words))
    assert type(database.translate(error, "here")) is kind


def test_only_lost_transactions_are_repeated() -> None:
    calls: list[int] = []
    db = database.Database("sqlite://")

    def work(_: sa.Connection) -> None:
        calls.append(1)
        raise exc.DBAPIError("SELECT 1", None, Refusal("40001" if len(calls) < 3 else "42601"))

    with pytest.raises(errors.StoreError, match="refused a statement"):
        db.write(work)
    assert len(calls) == 3
    db.close()


def test_a_transaction_that_is_always_lost_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "FIRST_PAUSE", 0.0)
    calls: list[int] = []
    db = database.Database("sqlite://")

    def work(_: sa.Connection) -> None:
        calls.append(1)
        raise exc.DBAPIError("SELECT 1", None, Refusal("40P01"))

    with pytest.raises(errors.StoreUnavailableError):
        db.write(work)
    assert len(calls) == database.ATTEMPTS
    db.close()


def test_a_password_is_never_shown() -> None:
    db = database.Database("postgresql://user:secret@host/db")
    assert "secret" not in db.name
    assert db.file is None


@pytest.mark.parametrize("url", ["postgresql://u@h/d", "postgresql+psycopg2://u@h/d", "postgres://u@h/d"])
def test_every_spelling_of_a_postgresql_url_uses_the_driver_that_is_shipped(url: str) -> None:
    assert database.Database(url).engine.driver == "psycopg"


def test_all_tables_have_their_own_place() -> None:
    on_postgresql, on_sqlite = tables.tables_of("postgresql"), tables.tables_of("sqlite")
    assert {table.schema for table in on_postgresql.metadata.sorted_tables} == {"dagbundle"}
    assert all(table.name.startswith("dagbundle_") for table in on_sqlite.metadata.sorted_tables)
    assert (on_postgresql.version_table, on_sqlite.version_table) == ("alembic_version", "dagbundle_alembic_version")


def test_times_are_aware_and_in_utc() -> None:
    kind = tables.UtcDateTime()
    sqlite = sa.create_engine("sqlite://").dialect
    with pytest.raises(ValueError, match="without a zone"):
        kind.process_bind_param(dt.datetime(2026, 1, 1), sqlite)  # noqa: DTZ001 - naive on purpose
    east = dt.datetime(2026, 1, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    stored = kind.process_bind_param(east, sqlite)
    assert stored == dt.datetime(2026, 1, 1)  # noqa: DTZ001 - what SQLite keeps
    assert kind.process_result_value(stored, sqlite) == east


def test_opening_the_store_loads_neither_alembic_nor_a_driver_that_is_not_used() -> None:
    code = (
        "import sys, dagbundle.store; print([name for name in ('alembic', 'psycopg', 'mako') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_a_file_that_cannot_be_written_says_that_its_folder_must_be_writable_even_to_read(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "a.db").touch()
    with (
        contextlib.closing(sqlite3.connect(f"file:{tmp_path / 'a.db'}?mode=ro", uri=True)) as connection,
        pytest.raises(sqlite3.OperationalError) as caught,
    ):
        connection.execute("CREATE TABLE a (b)")
    error = exc.OperationalError("CREATE TABLE a (b)", None, caught.value)
    found = database.translate(error, "sqlite:///a.db")
    assert (type(found), "readonly database" in found.message) == (errors.StoreUnusableError, True)
    assert "make the file and its folder writable for this user" in found.hint


def test_a_file_that_cannot_be_made_names_the_next_step(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.StoreUnusableError, match="cannot be created") as caught:
        database.private_file(tmp_path / "file/a.db")
    assert caught.value.hint == "make its folder writable for this user, or name another place"
