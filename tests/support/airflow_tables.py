"""What is in an Airflow metadata database, row by row, so that two deployments can be compared.

A row's surrogate key is dropped and what refers to one is replaced by the row it refers to, since numbers and UUIDs
differ between any two databases. Moments and durations are replaced by whether there is one.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import json
import re
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

Rows = dict[str, list[dict[str, Any]]]

NOT_PARSING = frozenset({"alembic_version", "log", "job", "slot_pool", "session"})
"""Tables that a dag-processor run or a migration writes besides what it parses."""
_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")
_UNORDERED = frozenset({("dag", "owners")})
"""Airflow joins a set of these."""
_PASSING = frozenset({("dag", "last_parse_duration"), ("dag", "next_dagrun_partition_key")})
"""What the two sides see differently because they look one after the other."""


def dump(url: str) -> Rows:
    """Return every table that has rows, with its rows in an order of their own."""
    engine = sa.create_engine(url)
    metadata = _tables(url)
    with engine.connect() as connection:
        found = {
            table.name: [dict(row._mapping) for row in connection.execute(sa.select(table))]
            for table in metadata.sorted_tables
            if table.name not in NOT_PARSING and not table.name.startswith("dagbundle_")
        }
    engine.dispose()
    keyed = {
        name: {tuple(row[column.name] for column in metadata.tables[name].primary_key): row for row in rows}
        for name, rows in found.items()
    }
    dumped = {
        name: sorted((_plain(metadata.tables[name], row, metadata, keyed) for row in rows), key=_text)
        for name, rows in found.items()
    }
    return {name: rows for name, rows in dumped.items() if rows}


@functools.cache
def _tables(url: str) -> sa.MetaData:
    """Read a database's tables once: that takes longer than reading their rows."""
    engine = sa.create_engine(url)
    metadata = sa.MetaData()
    metadata.reflect(engine)
    engine.dispose()
    return metadata


def differences(ours: Rows, stock: Rows) -> dict[str, Any]:
    """Return, by table, the rows that only one of the two has."""
    told = {}
    for name in sorted(ours.keys() | stock.keys()):
        left, right = [_text(row) for row in ours.get(name, [])], [_text(row) for row in stock.get(name, [])]
        only_ours, only_stock = _without(left, right), _without(right, left)
        if only_ours or only_stock:
            told[name] = {"only ours": only_ours, "only stock": only_stock}
    return told


def _without(rows: list[str], others: list[str]) -> list[str]:
    left = list(others)
    missing = []
    for row in rows:
        if row in left:
            left.remove(row)
        else:
            missing.append(row)
    return missing


def _plain(
    table: sa.Table, row: Mapping[str, Any], metadata: sa.MetaData, keyed: Mapping[str, Mapping[Any, Any]]
) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for column in table.columns:
        value = row[column.name]
        reference = next(iter(column.foreign_keys), None)
        if reference is not None and value is not None:
            target = reference.column.table
            if len(target.primary_key) == 1 and target.name in keyed and _is_surrogate(target):
                other = keyed[target.name].get((value,))
                plain[column.name] = _plain(target, other, metadata, keyed) if other else "missing"
                continue
        if column.primary_key and _is_surrogate(table):
            continue
        if (table.name, column.name) in _PASSING:
            value = value is not None
        elif (table.name, column.name) in _UNORDERED:
            value = sorted(str(value).split(", "))
        plain[column.name] = _value(value)
    return plain


def _is_surrogate(table: sa.Table) -> bool:
    keys = list(table.primary_key)
    return len(keys) == 1 and keys[0].name == "id"


def _value(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return "a moment"
    if isinstance(value, str) and value[:1] in {"{", "["}:
        with contextlib.suppress(ValueError):  # a text that begins like JSON
            value = json.loads(value)
    if isinstance(value, dict):
        return {key: _value(item) for key, item in value.items() if key not in {"id", "fileloc"}}
    if isinstance(value, list):
        items = [_value(item) for item in value]
        return sorted(items, key=_text)
    if isinstance(value, str) and _UUID.fullmatch(value):
        return "a uuid"
    return value


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
