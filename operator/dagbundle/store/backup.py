"""Copies of the store that can be put back: made on request, and before every migration of a SQLite file."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sqlite3

from dagbundle import errors
from dagbundle.store import database


def backup_sqlite(db: database.Database, target: pathlib.Path) -> None:
    """Copy a SQLite store as of one moment, while others go on reading and writing (SQLite's online backup).

    Args:
        db: The store's database.
        target: A file that does not exist yet; only this user can read it. It is whole or it is not there.

    Raises:
        UsageError: The store is no SQLite file, the file is not there, or `target` exists.
        StoreUnusableError: The copy could not be written.
    """
    if db.file is None:
        raise errors.UsageError(f"{db.name} is no SQLite file", hint="Use pg_dump --schema=dagbundle for PostgreSQL")
    if not db.file.exists():
        raise errors.UsageError(f"{db.name} is not there", hint="check --database-url and DAGBUNDLE_DATABASE_URL")
    if target.exists():
        raise errors.UsageError(f"{target} exists already; a backup overwrites nothing")
    partial = target.with_name(f"{target.name}.partial")
    database.private_file(partial)
    try:
        with (
            contextlib.closing(sqlite3.connect(db.file)) as source,
            contextlib.closing(sqlite3.connect(partial)) as copy,
        ):
            source.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, whole by itself
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.rename(target)
    except (sqlite3.Error, OSError) as error:
        partial.unlink(missing_ok=True)
        raise errors.StoreUnusableError(
            f"{db.file} could not be copied to {target}: {error}",
            hint="this user must be able to write into both folders, and the disk must have room",
        ) from error
