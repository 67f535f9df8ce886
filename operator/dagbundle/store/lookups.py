"""Which Variables and Connections the files of a run read, and whether they are the same now.

A value is kept nowhere. What is kept is a digest under a key of this database: equal values have equal digests for one
name, and who sees a digest alone can try no guesses.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagbundle.rollout.model import BundleKey, Json, LookupKind, LookupValue
from dagbundle.store import bulk, bundles, passes
from dagbundle.store.records import RolloutState
from dagbundle.store.tables import Tables


@dataclass(frozen=True, slots=True)
class Lookup:
    """One thing that a bundle's newest rollout asked for.

    Attributes:
        bundle: Whose files.
        document: The rollout's, as JSON.
        kind: Of what.
        key: Its name.
        digest: Of what the answer was; None for none.
    """

    bundle: BundleKey
    document_json: Json
    kind: LookupKind
    key: str
    digest: str | None


def record(
    connection: Connection,
    tables: Tables,
    run_id: str,
    *,
    kind: LookupKind,
    key: str,
    value: LookupValue | None,
    most: int,
) -> bool:
    """See `TargetedStore.record_lookup`."""
    table = tables.lookup
    same = sa.case((sa.and_(table.c.kind == kind, table.c.key == key), 1))
    known = connection.execute(sa.select(sa.func.count(), sa.func.count(same)).where(table.c.run_id == run_id)).one()
    if known[1]:
        return True  # the first answer counts: a run that was given two is followed by another
    if known[0] >= most:
        return False
    found = digest(secret(connection, tables), kind, key, value)
    bulk.insert_missing(connection, table, ("run_id", "kind", "key", "digest"), [(run_id, kind, key, found)])
    return True


def settled(connection: Connection, tables: Tables, cluster: str) -> tuple[Lookup, ...]:
    """See `TargetedStore.lookups`."""
    lookup, job, rollout, bundle = tables.lookup, tables.job, tables.rollout, tables.bundle
    request_ = tables.parse_request
    rows = connection.execute(
        sa.select(bundle.c.cluster, bundle.c.namespace, bundle.c.name, bundle.c.rollout, lookup)
        .select_from(bundle)
        .join(rollout, rollout.c.id == bundle.c.rollout)
        .join(job, job.c.rollout == rollout.c.id)
        .join(lookup, lookup.c.run_id == job.c.run_id)
        .where(
            bundle.c.cluster == cluster,
            rollout.c.state != RolloutState.OPEN,
            ~sa.exists().where(request_.c.bundle_id == bundle.c.id, request_.c.files.is_(None)),
        )
        .order_by(bundle.c.id, lookup.c.kind, lookup.c.key)
    ).all()
    found = bundles.rollouts(connection, tables, {row.rollout for row in rows}) if rows else {}
    return tuple(
        Lookup(bundles.key_of(row), found[row.rollout].document_json, row.kind, row.key, row.digest) for row in rows
    )


def secret(connection: Connection, tables: Tables) -> str:
    """Return the key of this database's digests; made when it is first asked for."""
    table = tables.digest_key
    found = connection.execute(sa.select(table.c.key)).scalar()
    if found is None:
        bulk.insert_missing(connection, table, ("id", "key"), [(1, secrets.token_hex(32))])
        found = connection.execute(sa.select(table.c.key)).scalar_one()
    return str(found)


def digest(key: str, kind: LookupKind, name: str, value: LookupValue | None) -> str | None:
    """Return what is kept of a value: an HMAC, hex; None for no value."""
    if value is None:
        return None
    document = json.dumps([kind, name, value], sort_keys=True)
    return hmac.new(bytes.fromhex(key), document.encode("ascii"), hashlib.sha256).hexdigest()


def request(connection: Connection, tables: Tables, wanted: Collection[BundleKey]) -> None:
    """See `TargetedStore.request_parse`."""
    for key in sorted(wanted):
        passes.ask(connection, tables, bundles.find(connection, tables, key), None)
