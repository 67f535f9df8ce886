"""A glance at the SQLite file before the store is loaded: only a certain yes starts the parser's import of Airflow."""

from __future__ import annotations

import pathlib
import sqlite3

import pytest

from dagbundle.store import peek
from dagbundle.store.dagstore import DagStore


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "a store #1.db"


def url(file: pathlib.Path) -> str:
    return f"sqlite:///{file}"


def test_a_file_that_is_not_there_remembers_nothing(file: pathlib.Path) -> None:
    assert peek.remembers_nothing(url(file))
    assert not file.exists()


def test_a_store_in_memory_remembers_nothing() -> None:
    assert peek.remembers_nothing("sqlite:///:memory:")


def test_empty_tables_remember_nothing(file: pathlib.Path) -> None:
    DagStore.open(url(file), upgrade=True).close()
    assert peek.remembers_nothing(url(file))


def test_one_remembered_file_is_enough_for_a_no(file: pathlib.Path) -> None:
    DagStore.open(url(file), upgrade=True).close()
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        columns = [row[1] for row in connection.execute("PRAGMA table_info(dagbundle_source_file)")]
        connection.execute(
            f"INSERT INTO dagbundle_source_file VALUES ({', '.join('?' * len(columns))})",  # noqa: S608 - only question marks
            ["1"] * len(columns),
        )
    connection.close()
    assert not peek.remembers_nothing(url(file))


@pytest.mark.parametrize("content", [b"", b"no database at all, but long enough to be taken for one" * 10])
def test_what_is_not_plain_is_a_no(file: pathlib.Path, content: bytes) -> None:
    file.write_bytes(content)
    assert not peek.remembers_nothing(url(file))


def test_postgresql_is_never_asked() -> None:
    assert not peek.remembers_nothing("postgresql://nobody@nowhere.invalid/nothing")
