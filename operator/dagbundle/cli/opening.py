"""Opens the store for commands: makes or upgrades a SQLite file where that is right, and tells it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Literal

import typer

from dagbundle import errors, targets
from dagbundle.cli import inputs
from dagbundle.store import schema
from dagbundle.store.dagstore import DagStore
from dagbundle.store.database import Database


@contextlib.contextmanager
def opened_store(
    url: str | None, *, target: str | None = None, missing: Literal["refuse", "make", "empty"] = "refuse"
) -> Iterator[DagStore]:
    """Open the store that a command works on; older tables in a SQLite file are brought up to date, which it tells.

    Args:
        url: The option `--database-url`.
        target: Where else is published; default: what DAGBUNDLE_TARGET says.
        missing: What to do where the SQLite file, or our tables in it, are not there: only who publishes makes
            them, so that a mistyped path is no empty store. `empty` is a store with nothing in it that is gone
            afterwards, for who only compares.

    Raises:
        UsageError: The URL is none, or the file is not there.
        StoreError: The database cannot be used; the tables are not there, or newer than this program.
    """
    with contextlib.ExitStack() as stack:
        resolved = inputs.database_url(url)
        database = Database(resolved)
        stack.callback(database.close)
        if database.file is not None and not database.file.exists() and missing != "make":
            if missing == "refuse":
                raise errors.UsageError(
                    f"the database {database.name} is not there",
                    hint="check --database-url and DAGBUNDLE_DATABASE_URL; the first `dagbundle apply` makes the file",
                )
            typer.echo(f"{database.name} is not there yet: compared with nothing", err=True)
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dagbundle-"))
            resolved, missing = f"sqlite:///{folder}/empty.db", "make"
            database = Database(resolved)
            stack.callback(database.close)
        before = None if database.is_postgresql else schema.current(database)
        if before is not None or (missing == "make" and not database.is_postgresql):
            saved = schema.upgrade(database)
            if saved is not None:
                typer.echo(_moved(database, before, saved), err=True)
        else:
            schema.check(database)
        store = DagStore(database)
        store.target = targets.named(os.environ.get("DAGBUNDLE_TARGET", "") if target is None else target)
        yield store


def _moved(database: Database, before: str | None, saved: pathlib.Path) -> str:
    """Say that the tables were upgraded, and what to do where that was not wanted: after a downgrade, for example."""
    return (
        f"{database.name} had tables of version {before}, and was upgraded to {schema.HEAD} for this command; the copy "
        f"from before is {saved}. For an older dagbundle, run: dagbundle db downgrade {before}, and then no command of "
        "this one"
    )
