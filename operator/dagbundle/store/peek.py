"""One question to a SQLite file that is worth asking before SQLAlchemy is loaded: is there anything to skip by?

Where nothing is remembered, every file will be parsed, so the parser may import Airflow at once. A wrong no costs that
head start and nothing else, so whatever is not plain is a no.
"""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3
import urllib.parse

_PREFIX = "sqlite:///"


def remembers_nothing(url: str) -> bool:
    """Tell whether a store has no file that a parse could skip; False where that cannot be told at a glance.

    Args:
        url: The database's URL. PostgreSQL is never asked: connecting takes as long as the head start.
    """
    if not url.startswith(_PREFIX):
        return False
    path = url.removeprefix(_PREFIX).partition("?")[0]
    if not path or path == ":memory:" or not pathlib.Path(path).exists():
        return True
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{urllib.parse.quote(path)}?mode=ro", uri=True, timeout=0)
        ) as connection:
            return connection.execute("SELECT 1 FROM dagbundle_source_file LIMIT 1").fetchone() is None
    except sqlite3.Error:  # locked, damaged, or no tables yet: opening the store says which
        return False
