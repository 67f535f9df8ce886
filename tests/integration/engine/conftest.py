"""Engine tests run on real databases; only what a parser says is scripted."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from dagbundle.store import DagStore
from support.postgres import (  # noqa: F401 - fixtures
    empty_postgres_url,
    migrated_template,
    postgres_server,
    postgres_url,
)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgres_url")
        return url
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def store(database_url: str) -> Iterator[DagStore]:
    with DagStore.open(database_url, upgrade=True) as opened:
        yield opened
