"""The databases that both sides write to: a fresh file of SQLite, or a fresh database on one PostgreSQL server."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sys
from typing import TYPE_CHECKING

import sqlalchemy

from bench import harness

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterator


@dataclasses.dataclass(frozen=True)
class Database:
    """An empty database."""

    url: str
    """For SQLAlchemy, without a driver."""

    @property
    def kind(self) -> str:
        """`sqlite` or `postgresql`."""
        return sqlalchemy.make_url(self.url).drivername

    def with_driver(self, driver: str) -> str:
        """Return the URL for one driver of PostgreSQL; SQLite's needs none."""
        url = sqlalchemy.make_url(self.url)
        if self.kind == "postgresql":
            url = url.set(drivername=f"postgresql+{driver}")
        return url.render_as_string(hide_password=False)

    def count(self, table: str, where: str = "true") -> int:
        """Count the rows of a table of either side."""
        engine = sqlalchemy.create_engine(self.with_driver("psycopg"))
        try:
            with engine.connect() as connection:
                query = sqlalchemy.text(f"SELECT count(*) FROM {table} WHERE {where}")  # noqa: S608 - our own names
                return int(connection.execute(query).scalar_one())
        finally:
            engine.dispose()


class Server:
    """Hands out fresh databases of one kind."""

    def __init__(self, create: Callable[[], str] | None) -> None:
        self._create = create
        self._numbers = itertools.count(1)

    def fresh(self, folder: pathlib.Path) -> Database:
        """Make an empty database; SQLite's file is put into the folder."""
        if self._create is None:
            return Database(f"sqlite:///{folder}/database_{next(self._numbers)}.db")
        return Database(self._create())


@contextlib.contextmanager
def server(kind: str) -> Iterator[Server]:
    """Start what a kind of database needs, and stop it afterwards."""
    if kind == "sqlite":
        yield Server(None)
        return
    sys.path.append(str(harness.ROOT / "tests"))
    from support import postgres  # noqa: PLC0415 - the tests' own way to a real server, found only now

    with postgres.running_postgres() as running:
        yield Server(running.create_database)
