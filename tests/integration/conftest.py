"""Fixtures of all integration tests: each has databases of its own, SQLite files or those of a real PostgreSQL."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Iterator

import pytest

from dagbundle.store.dagstore import DagStore
from support.postgres import (  # noqa: F401 - fixtures
    empty_postgres_url,
    migrated_template,
    postgres_server,
    postgres_url,
)


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("template") / "store.db"
    DagStore.open(f"sqlite:///{path}", upgrade=True).close()
    return path


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """A database with all tables."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgres_url")
        return url
    shutil.copy(request.getfixturevalue("migrated_file"), tmp_path / "store.db")
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """A database without tables; on SQLite not even a file."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("empty_postgres_url")
        return url
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def store(database_url: str) -> Iterator[DagStore]:
    with DagStore.open(database_url) as opened:
        yield opened


@pytest.fixture
def sqlite_store(migrated_file: pathlib.Path, tmp_path: pathlib.Path) -> Iterator[DagStore]:
    shutil.copy(migrated_file, tmp_path / "store.db")
    with DagStore.open(f"sqlite:///{tmp_path / 'store.db'}", timeout=0.3) as opened:
        yield opened


@pytest.fixture
def postgres_store(postgres_url: str) -> Iterator[DagStore]:  # noqa: F811 - the fixture
    with DagStore.open(postgres_url, timeout=5) as opened:
        yield opened
