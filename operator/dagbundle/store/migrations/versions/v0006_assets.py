"""Assets: what each content defines, and whose each asset is, of what is stored already too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from dagbundle.store.migrations.place import Place

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
KEY = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
_SOUGHT = '%"__type":"asset"%'
_AT_ONCE = 1_000


def upgrade() -> None:
    """Add the tables and fill them. An asset that several bundles define is that of the oldest one."""
    place = Place(op.get_bind().dialect.name)
    asset = op.create_table(
        place.table("asset"),
        sa.Column(
            "content_id", BIG, sa.ForeignKey(place.column("dag_content.id")), primary_key=True, autoincrement=False
        ),
        sa.Column("key", KEY, primary_key=True),
        sa.Column("digest", KEY, nullable=False),
        sa.Column("owns", sa.Boolean, nullable=False),
        sa.Column("document", sa.JSON, nullable=False),
        schema=place.schema,
    )
    op.create_index(op.f(f"{place.prefix}asset_key_idx"), place.table("asset"), ["key"], schema=place.schema)
    owner = op.create_table(
        place.table("asset_owner"),
        sa.Column("key", KEY, primary_key=True),
        sa.Column("bundle_id", BIG, sa.ForeignKey(place.column("bundle.id")), nullable=False),
        sa.Column("digest", KEY, nullable=False),
        sa.Column("document", sa.JSON, nullable=False),
        schema=place.schema,
    )
    op.create_index(
        op.f(f"{place.prefix}asset_owner_bundle_id_idx"), place.table("asset_owner"), ["bundle_id"], schema=place.schema
    )
    _fill(op.get_bind(), place, asset, owner)


def downgrade() -> None:
    """Take them away, and the claims of assets, which the older program takes for dag_ids that nobody has."""
    place = Place(op.get_bind().dialect.name)
    claim = sa.table(place.table("claim"), sa.column("dag_id"), schema=place.schema)
    op.execute(sa.delete(claim).where(claim.c.dag_id.like("asset:%")))
    op.drop_table(place.table("asset_owner"), schema=place.schema)
    op.drop_table(place.table("asset"), schema=place.schema)


def _fill(connection: sa.Connection, place: Place, asset: sa.Table, owner: sa.Table) -> None:
    found: dict[int, dict[str, dict[str, Any]]] = {}
    for content_id, document in _stored(connection, place):
        for item in _assets(document):
            if row := _row(item):
                found.setdefault(content_id, {})[row["key"]] = row
    rows = [{"content_id": content_id, **row} for content_id, items in found.items() for row in items.values()]
    for start in range(0, len(rows), _AT_ONCE):
        connection.execute(sa.insert(asset), rows[start : start + _AT_ONCE])
    dag = _table(place, "dag", "dag_id", "bundle_id", "content_id")
    live = sa.select(dag.c.bundle_id, dag.c.content_id).order_by(dag.c.bundle_id, dag.c.dag_id)
    owned: dict[str, dict[str, Any]] = {}
    for bundle_id, content_id in connection.execute(live):
        for key, row in found.get(content_id, {}).items():
            if row["owns"]:
                taken = {"key": key, "bundle_id": bundle_id, "digest": row["digest"], "document": row["document"]}
                owned.setdefault(key, taken)
    if owned:
        connection.execute(sa.insert(owner), list(owned.values()))


def _stored(connection: sa.Connection, place: Place) -> Iterator[tuple[int, Any]]:
    """Return what may hold assets: timetables, then what tasks read and write, with the content's number."""
    head, task = (
        _table(place, "dag_content", "id", "header"),
        _table(place, "task", "content_id", "position", "data"),
    )
    header, data = sa.cast(head.c.header, sa.Text), sa.cast(task.c.data, sa.Text)
    for content_id, text in connection.execute(sa.select(head.c.id, header).where(header.like(_SOUGHT))):
        yield content_id, json.loads(text).get("dag", {}).get("timetable")
    tasks = sa.select(task.c.content_id, data).where(data.like(_SOUGHT)).order_by(task.c.content_id, task.c.position)
    for content_id, text in connection.execute(tasks):
        yield content_id, _ports(json.loads(text))


def _table(place: Place, name: str, *columns: str) -> Any:
    return sa.table(place.table(name), *(sa.column(item) for item in columns), schema=place.schema)


def _ports(data: dict[str, Any]) -> list[Any]:
    body = data.get("__var")
    if not isinstance(body, dict):
        return []
    places = [item for item in (body, body.get("partial_kwargs")) if isinstance(item, dict)]
    return [item[port] for item in places for port in ("inlets", "outlets") if port in item]


def _assets(value: Any) -> Iterator[dict[str, Any]]:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(reversed(item))
        elif isinstance(item, dict):
            if item.get("__type") == "asset":
                inner = item.get("__var", item)
                if isinstance(inner, dict):
                    yield inner
            else:
                pending.extend(reversed(list(item.values())))


def _row(document: dict[str, Any]) -> dict[str, Any] | None:
    name, uri, group = document.get("name"), document.get("uri"), document.get("group")
    extra, watchers = document.get("extra") or {}, document.get("watchers") or []
    if not isinstance(name, str) or not isinstance(uri, str):
        return None
    if not isinstance(group, str) or group in {"", "asset", "dataset", "model"}:
        group = "asset"
        if not extra and not watchers:
            return None
    what = {"group": group, "extra": extra, **({"watchers": watchers} if watchers else {})}
    canonical = json.dumps(what, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return {
        "key": hashlib.sha256(f"{name}\0{uri}".encode("utf-8", "surrogatepass")).hexdigest(),
        "digest": hashlib.sha256(canonical).hexdigest(),
        "owns": bool(extra or watchers),
        "document": {"name": name, "uri": uri, **what},
    }
