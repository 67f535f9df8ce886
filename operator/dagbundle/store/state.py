"""What is live, or was at a revision: the same queries for reading, publishing and rolling back.

Everything that a team sees of a bundle is kept in half-open intervals of revisions `[from_revision, to_revision)`; NULL
means live. So the state at any revision is a condition on those two columns, and nothing is copied to remember it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagbundle import errors
from dagbundle.rollout.model import BundleKey, FileProblem, Hold, Live, LiveDag, Problem
from dagbundle.store import bundles
from dagbundle.store.tables import AnyRow, Tables


class Definition(NamedTuple):
    """Where one DAG's definition is, as a publish compares it."""

    dag_id: str
    subdir: str
    path: str
    content_id: int
    sha256: str
    relative_fileloc: str
    source: str | None
    number: int

    @property
    def place(self) -> tuple[str, str, int]:
        """What makes it another version when it differs."""
        return (self.subdir, self.path, self.content_id)


@dataclass(frozen=True, slots=True)
class Pin:
    """The bundle version that a DAG runs when that is not its bundle's."""

    bundle_version: str
    kept: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """An import error or a parse warning with its place."""

    subdir: str
    path: str
    kind: str
    message: str
    line: int | None


@dataclass(frozen=True, slots=True)
class Basis:
    """What is read of a bundle at a revision. It never changes, so a publish need not read it again under its lock."""

    bundle_id: int
    revision: int
    definitions: Mapping[str, Definition]
    pins: Mapping[str, Pin]
    held: bool
    """Whether a version may be held: only a new revision holds one, and a hold that is lifted meanwhile is gone."""


@dataclass(frozen=True, slots=True)
class Present:
    """All of a bundle that a publish compares and moves, as it is live now."""

    basis: Basis
    errors: Mapping[Finding, int]
    warnings: Mapping[Finding, int]
    claims: frozenset[tuple[str, str, str, str]]
    """As `claims` returns them."""

    @property
    def definitions(self) -> Mapping[str, Definition]:
        """What is live, by dag_id."""
        return self.basis.definitions

    @property
    def pins(self) -> Mapping[str, Pin]:
        """What runs another version than the bundle's, by dag_id."""
        return self.basis.pins


def during(table: sa.Table, revision: int | None) -> sa.ColumnElement[bool]:
    """Select the rows that were live at `revision`, or that are now."""
    if revision is None:
        return table.c.to_revision.is_(None)
    return sa.and_(
        table.c.from_revision <= revision,
        sa.or_(table.c.to_revision.is_(None), table.c.to_revision > revision),
    )


def definitions(
    connection: Connection, tables: Tables, bundle_id: int, revision: int | None = None
) -> dict[str, Definition]:
    """Return a bundle's definitions by dag_id, as they are live now or were at `revision`."""
    rows = connection.execute(_definitions(tables, revision), {"of_bundle": bundle_id}).all()
    return {row[0]: Definition._make(row) for row in rows}


@functools.lru_cache(maxsize=64)
def _definitions(tables: Tables, revision: int | None) -> sa.Select[Any]:
    table = tables.dag if revision is None else tables.dag_version
    content = tables.dag_content
    statement = (
        sa.select(
            table.c.dag_id,
            table.c.subdir,
            table.c.path,
            table.c.content_id,
            content.c.sha256,
            content.c.relative_fileloc,
            table.c.source,
            table.c.number,
        )
        .join(content, content.c.id == table.c.content_id)
        .where(table.c.bundle_id == sa.bindparam("of_bundle"))
    )
    return statement if revision is None else statement.where(during(table, revision))


def pins(connection: Connection, tables: Tables, bundle_id: int, revision: int | None = None) -> dict[str, Pin]:
    """Return a bundle's pins by dag_id, as they hold now or did at `revision`."""
    table = tables.pin
    rows = connection.execute(
        sa.select(table.c.dag_id, table.c.bundle_version, table.c.kept).where(
            table.c.bundle_id == bundle_id, during(table, revision)
        )
    )
    return {row.dag_id: Pin(row.bundle_version, row.kept) for row in rows}


def findings(
    connection: Connection, table: sa.Table, bundle_id: int, revision: int | None = None
) -> dict[Finding, int]:
    """Return a bundle's import errors or warnings with their rows' ids, visible now or at `revision`."""
    rows = connection.execute(
        sa.select(table.c.subdir, table.c.path, table.c.kind, table.c.message, table.c.line, table.c.id).where(
            table.c.bundle_id == bundle_id, during(table, revision)
        )
    )
    return {Finding(*row[:5]): row[5] for row in rows}


def present(connection: Connection, tables: Tables, owner: AnyRow, basis: object = None) -> Present:
    """Return what is live of a bundle, the part of it that `basis` has from there."""
    if not isinstance(basis, Basis) or (basis.bundle_id, basis.revision) != (owner.id, owner.revision):
        basis = _basis(connection, tables, owner, held=True)
    errors: dict[Finding, int] = {}
    warnings: dict[Finding, int] = {}
    claims: list[tuple[str, str, str, str]] = []
    for kind, number, *values in connection.execute(_visible(tables), {"bundle_id": owner.id}):
        if kind == _CLAIM:
            subdir, path, dag_id, rollout, _ = values
            claims.append((dag_id, subdir, path, rollout))
        else:
            (errors if kind == _ERROR else warnings)[Finding(*values)] = number
    return Present(basis, errors, warnings, frozenset(claims))


_ERROR, _WARNING, _CLAIM = range(3)


@functools.cache
def _visible(tables: Tables) -> sa.CompoundSelect[Any]:
    """Read the errors, warnings and claims of a bundle at once."""
    error, warning, claim = tables.import_error.c, tables.parse_warning.c, tables.claim.c
    number, bundle_id = sa.cast(sa.null(), sa.BigInteger), sa.bindparam("bundle_id", type_=sa.BigInteger)
    claimed = (number, claim.subdir, claim.path, claim.dag_id, claim.rollout, sa.cast(sa.null(), sa.Integer))
    findings = (
        sa.select(
            sa.literal_column(str(kind), sa.Integer),
            item.id,
            item.subdir,
            item.path,
            item.kind,
            item.message,
            item.line,
        ).where(item.bundle_id == bundle_id, item.to_revision.is_(None))
        for kind, item in ((_ERROR, error), (_WARNING, warning))
    )
    claims = sa.select(sa.literal_column(str(_CLAIM), sa.Integer), *claimed).where(claim.bundle_id == bundle_id)
    return sa.union_all(*findings, claims)


def _basis(connection: Connection, tables: Tables, owner: AnyRow, *, held: bool) -> Basis:
    found = definitions(connection, tables, owner.id)
    return Basis(owner.id, owner.revision, found, pins(connection, tables, owner.id), held)


def live(connection: Connection, tables: Tables, bundle: BundleKey) -> Live:
    """See `DagStore.live`."""
    owner = connection.execute(sa.select(tables.bundle).where(bundles.matches(tables, bundle))).first()
    if owner is None:
        return Live(bundle=bundle)
    held = holds(connection, tables, owner.id)
    basis = _basis(connection, tables, owner, held=bool(held))
    return Live(
        bundle=bundle,
        revision=owner.revision,
        version=owner.version,
        template_hash=owner.template_hash,
        dags=_dags(basis.definitions, basis.pins, str(owner.version)),
        holds=held,
        basis=basis,
    )


def state_at(connection: Connection, tables: Tables, bundle: BundleKey, revision: int) -> Live:
    """See `DagStore.state_at`."""
    owner = bundles.find(connection, tables, bundle)
    then = publication(connection, tables, owner, revision) if revision else None
    return Live(
        bundle=bundle,
        revision=revision,
        version=then.version if then else "",
        template_hash=then.template_hash if then else "",
        dags=_dags(
            definitions(connection, tables, owner.id, revision),
            pins(connection, tables, owner.id, revision),
            then.version if then else "",
        ),
        holds=holds(connection, tables, owner.id),
    )


def publication(connection: Connection, tables: Tables, owner: AnyRow, revision: int) -> AnyRow:
    """Return the row of one revision.

    Raises:
        NotFoundError: There is no such revision, or what was live at it was collected.
    """
    table = tables.publication
    row = connection.execute(
        sa.select(table).where(table.c.bundle_id == owner.id, table.c.revision == revision)
    ).first()
    key = bundles.key_of(owner)
    if row is None:
        raise errors.NotFoundError(
            f"Bundle {key} has no revision {revision}; it is at {owner.revision}", hint=f"Run: dagbundle history {key}"
        )
    if revision < owner.oldest:
        raise errors.NotFoundError(
            f"What was live in bundle {key} at revision {revision} was collected; the oldest kept is {owner.oldest}"
        )
    return row


def claims(connection: Connection, tables: Tables, bundle_id: int) -> frozenset[tuple[str, str, str, str]]:
    """Return a bundle's claims: dag_id, subdir, path and rollout."""
    table = tables.claim
    statement = sa.select(table.c.dag_id, table.c.subdir, table.c.path, table.c.rollout)
    return frozenset(tuple(row) for row in connection.execute(statement.where(table.c.bundle_id == bundle_id)))


def holds(connection: Connection, tables: Tables, bundle_id: int) -> tuple[Hold, ...]:
    """Return a bundle's holds, oldest first."""
    table, publication = tables.hold, tables.publication
    revision = sa.select(sa.func.max(publication.c.revision)).where(
        publication.c.bundle_id == table.c.bundle_id, publication.c.template_hash == table.c.template_hash
    )
    rows = connection.execute(
        sa.select(table.c.template_hash, table.c.version, table.c.reason, revision.scalar_subquery().label("revision"))
        .where(table.c.bundle_id == bundle_id)
        .order_by(table.c.created_at, table.c.template_hash)
    )
    return tuple([Hold(row.template_hash, row.version, row.reason, row.revision or 0) for row in rows])


def problems(
    connection: Connection, tables: Tables, bundle: BundleKey, revision: int | None
) -> tuple[FileProblem, ...]:
    """See `DagReader.problems`."""
    found = findings(connection, tables.import_error, bundles.find(connection, tables, bundle).id, revision)
    ordered = sorted(found, key=lambda item: (item.subdir, item.path, found[item]))
    return tuple([FileProblem(i.subdir, i.path, Problem(i.kind, i.message, i.line)) for i in ordered])


def owners(connection: Connection, tables: Tables, condition: sa.ColumnElement[bool]) -> dict[str, BundleKey]:
    """Return the bundles that own live DAGs which meet a condition, by dag_id."""
    dag, bundle = tables.dag, tables.bundle
    rows = connection.execute(
        sa.select(dag.c.dag_id, bundle.c.cluster, bundle.c.namespace, bundle.c.name)
        .join(bundle, bundle.c.id == dag.c.bundle_id)
        .where(condition)
    )
    return {row.dag_id: bundles.key_of(row) for row in rows}


def pin_of(live: sa.Table, pin: sa.Table) -> sa.ColumnElement[bool]:
    """Join a live DAG with its pin, where it has one."""
    return sa.and_(pin.c.dag_id == live.c.dag_id, pin.c.bundle_id == live.c.bundle_id, pin.c.to_revision.is_(None))


def _dags(found: Mapping[str, Definition], pinned: Mapping[str, Pin], version: str) -> dict[str, LiveDag]:
    dags = {}
    for dag_id, item in found.items():
        pin = pinned.get(dag_id)
        dags[dag_id] = LiveDag(
            dag_id=dag_id,
            subdir=item.subdir,
            path=item.path,
            sha256=item.sha256,
            bundle_version=pin.bundle_version if pin else version,
            kept=pin.kept if pin else False,
        )
    return dags


def published_as(connection: Connection, tables: Tables, token: str) -> int | None:
    """Return the revision that this very call published before, when its commit's answer was lost on the way."""
    table = tables.publication
    revision: int | None = connection.execute(sa.select(table.c.revision).where(table.c.token == token)).scalar()
    return revision
