"""The owners of Airflow's assets: the first bundle that publishes a definition, until its last definition goes.

What a content says of assets is stored beside it (`asset`), so a query finds the bundles that define an asset.
`asset_owner` has one row for each asset with an owner. A publish locks the row while it decides, so that two bundles
cannot both take the asset.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagbundle import errors
from dagbundle.rollout import assets
from dagbundle.rollout.assets import AssetOwner
from dagbundle.rollout.content import canonical
from dagbundle.rollout.model import BundleKey, Claim, DagContent, FileProblem, Json
from dagbundle.rollout.moves import Candidate
from dagbundle.store import bulk, bundles
from dagbundle.store.state import Definition
from dagbundle.store.tables import AnyRow, Tables

_SHOWN = 5


def store(connection: Connection, tables: Tables, stored: Iterable[tuple[int, DagContent]]) -> None:
    """Store what new contents define, by their numbers."""
    rows = [
        (number, item.key, item.digest, item.owns, canonical(item.document).decode())
        for number, content in stored
        for item in assets.named(content).values()
        if item is not None
    ]
    bulk.insert(connection, tables.asset, ("content_id", "key", "digest", "owns", "document"), rows)


def owners(
    connection: Connection, tables: Tables, keys: Collection[str], *, share: bool = False
) -> dict[str, AssetOwner]:
    """Return the owners of these assets, by key, without assets that have no owner.

    Args:
        connection: In a transaction.
        tables: The tables.
        keys: Of the assets.
        share: Keep the answer true until the transaction ends.
    """
    if not keys:
        return {}
    table, bundle = tables.asset_owner, tables.bundle
    statement = (
        sa.select(table.c.key, table.c.digest, table.c.document, bundle.c.cluster, bundle.c.namespace, bundle.c.name)
        .join(bundle, bundle.c.id == table.c.bundle_id)
        .where(bulk.is_in(connection, table.c.key, keys))
        .order_by(table.c.key)
    )
    rows = connection.execute(statement.with_for_update(read=True, of=table) if share else statement)
    return {row.key: AssetOwner(bundles.key_of(row), row.digest, row.document) for row in rows}


def refused(
    candidates: Collection[Candidate], found: Mapping[str, AssetOwner], mine: BundleKey
) -> tuple[list[FileProblem], list[Claim]]:
    """Return what is wrong with DAGs that define another bundle's assets differently, and what they wait for.

    Args:
        candidates: DAGs that a publication would write.
        found: The owners of the assets that they name.
        mine: The bundle's key.
    """
    problems: list[FileProblem] = []
    claims: list[Claim] = []
    for item in candidates:
        for key, definition in assets.named(item.content).items():
            owner = found.get(key)
            if definition and owner and owner.bundle != mine and owner.digest != definition.digest:
                problem = assets.owned(item.dag_id, definition, owner.bundle, mine)
                problems.append(FileProblem(item.subdir, item.path, problem))
                claims.append(
                    Claim(item.dag_id, item.subdir, item.path, owner.bundle, asset=assets.subject(definition))
                )
    return problems, claims


def settle(
    connection: Connection,
    tables: Tables,
    owner: AnyRow,
    before: Mapping[str, Definition],
    after: Mapping[str, Definition],
    *,
    enforce: bool,
) -> dict[str, Json]:
    """Set the owners of assets, now that the pointers have moved.

    Args:
        connection: In the publishing transaction.
        tables: The tables.
        owner: The bundle's row.
        before: What was live of it.
        after: What is.
        enforce: Refuse definitions that differ from those of the assets' owners.

    Returns:
        The assets of which another definition counts than before, by key, each with that definition.

    Raises:
        OwnershipError: An asset was defined by another bundle at the same time.
    """
    was, now = ({item.content_id for item in some.values()} for some in (before, after))
    said = _said(connection, tables, was ^ now)
    if not said:
        return {}
    keys = {row.key for row in said}
    mine = _defined_in(connection, tables, tables.dag.c.bundle_id == owner.id, keys)
    held = _held(connection, tables, keys)
    fresh = {key: item for key, item in mine.items() if key not in held}
    if fresh:
        rows = [(key, owner.id, item.digest, canonical(item.document).decode()) for key, item in sorted(fresh.items())]
        if bulk.insert_missing(connection, tables.asset_owner, ("key", "bundle_id", "digest", "document"), rows) != len(
            rows
        ):
            held |= _held(connection, tables, fresh)  # another bundle took one at the same time
    ours = {key for key, row in held.items() if row.bundle_id == owner.id}
    if enforce:
        _refuse_owned(connection, tables, owner, [row for row in said if row.content_id in now], held)
    changed = {key: (owner.id, mine[key]) for key in ours & mine.keys() if (mine[key].digest != held[key].digest)}
    ended = ours - mine.keys()
    if ended:
        others = _defined_in(connection, tables, tables.dag.c.bundle_id != owner.id, ended)
        changed |= {key: (item.bundle_id, item) for key, item in others.items()}
    gone = ended - changed.keys()
    if gone:
        table = tables.asset_owner
        connection.execute(sa.delete(table).where(bulk.is_in(connection, table.c.key, gone)))
    if changed:
        _restate(connection, tables, changed)
    return {
        **{key: item.document for key, (_, item) in changed.items()},
        **{key: assets.bare(held[key].document) for key in gone},
    }


def _restate(connection: Connection, tables: Tables, changed: Mapping[str, tuple[int, AnyRow]]) -> None:
    table = tables.asset_owner
    statement = sa.update(table).where(table.c.key == sa.bindparam("of_key"))
    rows = [
        {"of_key": key, "bundle_id": by, "digest": item.digest, "document": item.document}
        for key, (by, item) in sorted(changed.items())
    ]
    connection.execute(statement, rows)


def _said(connection: Connection, tables: Tables, contents: Collection[int]) -> list[AnyRow]:
    """Return what these contents define."""
    if not contents:
        return []
    table, dialect = tables.asset.c, connection.dialect.name
    statement = sa.select(table.content_id, table.key, table.digest).where(
        bulk.is_among(dialect, table.content_id, "contents")
    )
    return list(connection.execute(statement, {"contents": bulk.among(dialect, contents)}).all())


def _defined_in(
    connection: Connection, tables: Tables, bundle: sa.ColumnElement[bool], keys: Collection[str]
) -> dict[str, AnyRow]:
    """Return the definitions that count of these assets: that of the first bundle, and there of the first dag_id."""
    asset, dag = tables.asset, tables.dag
    rows = connection.execute(
        sa.select(asset.c.key, asset.c.digest, asset.c.document, dag.c.bundle_id)
        .join(dag, dag.c.content_id == asset.c.content_id)
        .where(bundle, asset.c.owns, bulk.is_in(connection, asset.c.key, keys))
        .order_by(dag.c.bundle_id.desc(), dag.c.dag_id.desc())
    )
    return {row.key: row for row in rows}


def _held(connection: Connection, tables: Tables, keys: Collection[str]) -> dict[str, AnyRow]:
    """Lock and return the rows of these assets' owners."""
    table = tables.asset_owner
    rows = connection.execute(
        sa.select(table).where(bulk.is_in(connection, table.c.key, keys)).order_by(table.c.key).with_for_update()
    )
    return {row.key: row for row in rows}


def _refuse_owned(
    connection: Connection, tables: Tables, owner: AnyRow, said: Iterable[AnyRow], held: Mapping[str, AnyRow]
) -> None:
    taken = {
        row.key
        for row in said
        if row.key in held and held[row.key].bundle_id != owner.id and held[row.key].digest != row.digest
    }
    if taken:
        found = owners(connection, tables, taken)
        names = [f"{item.document['name']!r:.200} belongs to bundle {item.bundle}" for item in found.values()]
        raise errors.OwnershipError(
            f"Bundle {bundles.key_of(owner)} cannot publish, since its DAGs define assets of other bundles otherwise: "
            + "; ".join(sorted(names)[:_SHOWN]),
            hint="Name the asset without an extra, a group and watchers, or have the other definition removed",
        )


def handed_over(connection: Connection, tables: Tables) -> frozenset[str]:
    """Return the claims that can be settled: the asset has no owner, is the claimant's, or has this definition now."""
    claim, table = tables.claim, tables.asset_owner
    key, digest = sa.func.substr(claim.c.dag_id, 7, 64), sa.func.substr(claim.c.dag_id, 72)
    rows = connection.execute(
        sa.select(claim.c.dag_id)
        .outerjoin(table, table.c.key == key)
        .where(
            claim.c.dag_id.like("asset:%"),
            sa.or_(table.c.key.is_(None), table.c.bundle_id == claim.c.bundle_id, table.c.digest == digest),
        )
    )
    return frozenset(rows.scalars())
