"""Many rows in one statement: what makes a publish cost the database's time and not the driver's.

SQLite takes rows fastest through the driver's `executemany`; PostgreSQL through COPY, or, where a conflict must be
answered, as one JSON document that the server turns into rows. Either way the number of statements depends on the
size of the texts, not on the number of rows.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagbundle import errors

_PART = 1 << 20
"""Characters of text in one statement: more are in memory as rows, as a document, and in the driver's buffers."""

Row = Sequence[Any]
"""One row's values in the order of the named columns; JSON columns already as canonical text."""


def insert(connection: Connection, table: sa.Table, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Insert new rows; a conflict is an error.

    Raises:
        ContentError: A text holds NUL or a lone surrogate.
    """
    if not rows:
        return
    _check_text(rows)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(_sqlite_insert(table, tuple(columns), conflict=""), list(map(tuple, rows)))
        return
    names = ", ".join(columns)
    if len(rows) == 1:  # as most publishes need it; a COPY is three exchanges with the server
        connection.exec_driver_sql(_row_insert(table, tuple(columns)), tuple(rows[0]))
        return
    driver = connection.connection.driver_connection
    if driver is None:  # pragma: no cover - a pooled connection has its driver's
        raise errors.StoreUnavailableError("the connection was closed")
    with driver.cursor() as cursor, cursor.copy(f"COPY {table.fullname} ({names}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def insert_missing(connection: Connection, table: sa.Table, columns: Sequence[str], rows: Sequence[Row]) -> int:
    """Insert the rows whose key is not there yet, and return how many those were.

    A row that another transaction is inserting is waited for. Rows are sent in the caller's order: sorted by key, two
    transactions cannot wait for each other.

    Raises:
        ContentError: A text holds NUL or a lone surrogate.
    """
    if not rows:
        return 0
    _check_text(rows)
    if connection.dialect.name == "sqlite":
        statement = _sqlite_insert(table, tuple(columns), conflict=" ON CONFLICT DO NOTHING")
        return connection.exec_driver_sql(statement, list(map(tuple, rows))).rowcount
    added = 0
    for part in _parts(rows):
        if len(part) == 1:
            statement = f"{_row_insert(table, tuple(columns))} ON CONFLICT DO NOTHING"
            added += connection.exec_driver_sql(statement, tuple(part[0])).rowcount
        else:
            statement = _recordset_insert(table, tuple(columns))
            added += connection.exec_driver_sql(statement, (_document(columns, part),)).rowcount
    return added


def insert_missing_numbered(
    connection: Connection, table: sa.Table, columns: Sequence[str], rows: Sequence[Row]
) -> dict[str, int]:
    """Insert like `insert_missing`; the first column is the key.

    Returns:
        The number (`id`) of every row that this call inserted, by its key.
    """
    if not rows:
        return {}
    if connection.dialect.name == "sqlite":  # the caller looked and nobody else writes: all rows are missing
        insert(connection, table, columns, rows)
        key = table.c[columns[0]]
        found = connection.execute(sa.select(key, table.c.id).where(is_in(connection, key, [row[0] for row in rows])))
        return {row[0]: row[1] for row in found}
    _check_text(rows)
    statement = f"{_recordset_insert(table, tuple(columns))} RETURNING {columns[0]}, id"
    return {
        row[0]: row[1]
        for part in _parts(rows)
        for row in connection.exec_driver_sql(statement, (_document(columns, part),))
    }


def update(
    connection: Connection, table: sa.Table, key: Sequence[str], values: Sequence[str], rows: Sequence[Row]
) -> int:
    """Set `values` in the rows named by `key`, and return how many there were.

    Each of `rows` is its key's values, then the new ones.

    Raises:
        ContentError: A text holds NUL or a lone surrogate.
    """
    if not rows:
        return 0
    _check_text(rows)
    if connection.dialect.name == "sqlite":
        settings = ", ".join(f"{name} = ?" for name in values)
        where = " AND ".join(f"{name} = ?" for name in key)
        statement = f"UPDATE {table.fullname} SET {settings} WHERE {where}"  # noqa: S608 - names are the metadata's
        split = len(key)
        return connection.exec_driver_sql(statement, [(*row[split:], *row[:split]) for row in rows]).rowcount
    settings = ", ".join(f"{name} = r.{name}" for name in values)
    where = " AND ".join(f"t.{name} = r.{name}" for name in key)
    columns = (*key, *values)
    shape = _shape(table, columns)
    statement = f"UPDATE {table.fullname} t SET {settings} FROM json_to_recordset(%s::json) AS r({shape}) WHERE {where}"  # noqa: S608 - likewise
    return sum(connection.exec_driver_sql(statement, (_document(columns, part),)).rowcount for part in _parts(rows))


def is_in(connection: Connection, column: sa.ColumnElement[Any], values: Collection[str]) -> sa.ColumnElement[bool]:
    """Compare a text column with any number of values in one parameter, past every driver's limit on their number."""
    ordered = sorted(values)
    if connection.dialect.name == "sqlite":
        elements = sa.func.json_each(json.dumps(ordered)).table_valued("value")
        return column.in_(sa.select(elements.c.value))
    return column == sa.any_(sa.literal(ordered, sa.ARRAY(sa.Text)))


def is_among(dialect: str, column: sa.ColumnElement[Any], name: str) -> sa.ColumnElement[bool]:
    """Compare a column of texts or numbers with what `among` makes for the parameter `name`.

    That is for statements that are built once: to build one takes longer than to run it.
    """
    if dialect == "sqlite":
        elements = sa.func.json_each(sa.bindparam(name, type_=sa.Text)).table_valued("value")
        return column.in_(sa.select(elements.c.value))
    kind = sa.BigInteger if isinstance(column.type, sa.Integer) else sa.Text
    return column == sa.any_(sa.bindparam(name, type_=sa.ARRAY(kind)))


def among(dialect: str, values: Iterable[Any]) -> str | list[Any]:
    """Return the parameter that `is_among` compares with."""
    ordered = sorted(values)
    return json.dumps(ordered) if dialect == "sqlite" else ordered


def dialect_insert(dialect: str, table: sa.Table) -> Any:
    """Return an INSERT that can answer a conflict, which each dialect has as a construct of its own."""
    if dialect == "sqlite":
        from sqlalchemy.dialects.sqlite import insert  # noqa: PLC0415 - only one dialect's is ever needed
    else:
        from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]  # noqa: PLC0415 - likewise
    return insert(table)


def _parts(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Split rows, in their order, so that no statement has more than `_PART` characters of text, except for one row.

    A statement is in memory several times while it is made and sent.
    """
    begin = size = 0
    for end, row in enumerate(rows):
        length = sum(len(value) for value in row if isinstance(value, str))
        if begin < end and size + length > _PART:
            yield rows[begin:end]
            begin, size = end, 0
        size += length
    yield rows[begin:]


def _check_text(rows: Iterable[Row]) -> None:
    """Refuse what one of our databases cannot store, on both, before any row is sent."""
    for row in rows:
        for value in row:
            if isinstance(value, str) and ("\x00" in value or not (value.isascii() or _is_unicode(value))):
                raise errors.ContentError(f"A text holds NUL or a lone surrogate and cannot be stored: {value!r:.100}")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@functools.cache
def _sqlite_insert(table: sa.Table, columns: tuple[str, ...], *, conflict: str) -> str:
    marks = ", ".join("?" * len(columns))
    return f"INSERT INTO {table.fullname} ({', '.join(columns)}) VALUES ({marks}){conflict}"  # noqa: S608 - names are the metadata's


@functools.cache
def _row_insert(table: sa.Table, columns: tuple[str, ...]) -> str:
    marks = ", ".join(["%s"] * len(columns))
    return f"INSERT INTO {table.fullname} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - names are the metadata's


@functools.cache
def _recordset_insert(table: sa.Table, columns: tuple[str, ...]) -> str:
    names = ", ".join(columns)
    picked = ", ".join(
        f"r.{name}::json" if isinstance(table.c[name].type, sa.JSON) else f"r.{name}" for name in columns
    )
    return (
        f"INSERT INTO {table.fullname} ({names}) SELECT {picked} "  # noqa: S608 - names are the metadata's
        f"FROM json_to_recordset(%s::json) AS r({_shape(table, columns)}) ON CONFLICT DO NOTHING"
    )


@functools.cache
def _shape(table: sa.Table, columns: tuple[str, ...]) -> str:
    """Name the columns' PostgreSQL types; JSON travels as text, so that its canonical spelling is what is stored."""
    return ", ".join(f"{name} {_server_type(table.c[name].type)}" for name in columns)


def _server_type(kind: sa.types.TypeEngine[Any]) -> str:
    if isinstance(kind, sa.JSON | sa.Text):
        return "text"
    from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - takes as long to import as a small apply on SQLite

    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # untyped in SQLAlchemy
    return str(kind.compile(dialect=dialect))


def _document(columns: Sequence[str], rows: Sequence[Row]) -> str:
    return json.dumps([dict(zip(columns, row, strict=True)) for row in rows], ensure_ascii=False)
