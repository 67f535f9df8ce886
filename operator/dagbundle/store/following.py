"""Copies to a target what a publication changes, inside its transaction.

How far a target has followed is kept for each bundle. A target that was added later, or that lost rows, gets all that
is live instead of the difference.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagbundle import errors
from dagbundle.rollout import assets as rollout_assets
from dagbundle.rollout.document import RolloutDocument
from dagbundle.rollout.model import (
    BundleKey,
    Change,
    DagContent,
    Json,
    Judgement,
)
from dagbundle.rollout.moves import Candidate, Move, Note, Symptom, WrittenDag
from dagbundle.store import assets, bulk, bundles, passes, reading, state
from dagbundle.store.records import RolloutState, RunState
from dagbundle.store.state import Definition, Finding, Pin
from dagbundle.store.tables import AnyRow, Tables
from dagbundle.store.target import Origin, Target


def is_behind(connection: Connection, tables: Tables, target: Target | None, owner: AnyRow) -> bool:
    """Tell whether a target has not followed the bundle to its present revision."""
    return target is not None and _followed(connection, tables, target, owner.id) != owner.revision


def is_settled(
    connection: Connection,
    tables: Tables,
    target: Target | None,
    key: BundleKey,
    *,
    revision: int,
    document: RolloutDocument,
    judgement: Judgement,
) -> bool:
    """See `DagStore.is_settled`."""
    bundle, rollout = tables.bundle, tables.rollout
    waiting = [table.c.bundle_id == bundle.c.id for table in (tables.hold, tables.claim, tables.parse_request)]
    row = connection.execute(
        sa.select(bundle.c.id, bundle.c.revision, rollout.c.spec)
        .join(rollout, rollout.c.id == bundle.c.rollout)
        .where(
            bundles.matches(tables, key),
            bundle.c.revision == revision,
            rollout.c.template_hash == bundle.c.template_hash,
            rollout.c.state == RolloutState.PUBLISHED,
            rollout.c.reason == judgement.reason,
            rollout.c.message == judgement.message,
            *(~sa.exists().where(condition) for condition in waiting),
        )
    ).one_or_none()
    if row is None or RolloutDocument.from_json(row.spec) != document:
        return False
    return not is_behind(connection, tables, target, row)


@dataclass(frozen=True, slots=True)
class LiveChange:
    """What a revision makes live, against what was live before."""

    revision: int
    version: str
    before: Mapping[str, Definition]
    after: Mapping[str, Definition]
    pins: Mapping[str, Pin]
    errors: Collection[Finding]
    heads: Sequence[AnyRow] = ()
    """Of contents that were not live before (`reading.heads`); the missing ones are looked up."""
    origin: Origin | None = None
    """What parsed it; None looks it up."""
    durations: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Seconds that each file took to parse, by (subdir, path)."""
    restated: Mapping[str, Json] = field(default_factory=dict)
    """Documents of assets that the DAG of another bundle defined until now, by key."""


def mirror(connection: Connection, tables: Tables, target: Target | None, owner: AnyRow, change: LiveChange) -> None:
    """Copy a change to the target, and keep how far it has followed."""
    if target is None:
        _refuse_without(connection, tables, owner)
        return
    active = owner.rollout is not None or bool(change.after)  # a bundle that is deactivated has no rollout
    # of an inactive bundle the next publication copies everything: at least that it is active again
    is_known = _keep(connection, tables, target, owner, change.revision if active else 0)
    before = change.before if is_known else {}
    pinned = {dag_id: pin.bundle_version for dag_id, pin in change.pins.items() if pin.bundle_version != change.version}
    written = [item for dag_id, item in change.after.items() if _differs(before.get(dag_id), item)]
    origin = change.origin or _origin(connection, tables, owner.rollout)
    dags, named = _written(connection, tables, written, change, pinned)
    if not target.owns_assets:
        named = set()
    restated = change.restated if target.owns_assets else {}
    target.move(
        connection,
        Move(
            bundle=bundles.key_of(owner),
            airflow_name=owner.airflow_name,
            root=origin.document.path,
            version=change.version,
            active=active,
            written=dags,
            standing=change.after.keys() - {item.dag_id for item in written},
            pinned=pinned,
            errors=tuple(
                Note(item.path, item.message)
                for item in sorted(change.errors, key=lambda item: (item.path, item.line or 0, item.message))
            ),
            airflow=origin.airflow,
            assets=tuple(item.document for item in assets.owners(connection, tables, named, share=True).values()),
            restated=tuple(document for key, document in sorted(restated.items()) if key not in named),
        ),
    )


def _written(
    connection: Connection,
    tables: Tables,
    written: Sequence[Definition],
    change: LiveChange,
    pinned: Mapping[str, str],
) -> tuple[tuple[WrittenDag, ...], set[str]]:
    """Return the DAGs that the target writes in full, and the keys of the assets that they name."""
    wanted, heads = {item.sha256 for item in written}, change.heads
    if missing := wanted - {row.sha256 for row in heads}:
        heads = (*heads, *reading.heads(connection, tables, missing))
    contents = reading.whole(connection, tables, heads) if heads else {}
    texts = _texts(connection, tables, {item.source for item in written if item.source})
    dags = tuple(
        WrittenDag(
            dag_id=item.dag_id,
            path=item.path,
            relative_fileloc=item.relative_fileloc or item.path,
            bundle_version=pinned.get(item.dag_id, change.version),
            content=contents[item.sha256],
            source=texts.get(item.source or "", ""),
            duration=change.durations.get((item.subdir, item.path)),
        )
        for item in sorted(written, key=lambda item: item.dag_id)
    )
    return dags, {key for item in written for key in rollout_assets.named(contents[item.sha256])}


_WRITTEN = frozenset({Change.ADDED, Change.CHANGED, Change.MOVED})


def candidates(judgement: Judgement, contents: Mapping[str, DagContent]) -> list[Candidate]:
    """Return the DAGs that publishing a judgement would write into a target, of those whose contents are given."""
    return [
        Candidate(change.dag_id, change.subdir, change.path, contents[change.sha256])
        for change in judgement.changes
        if change.change in _WRITTEN and change.sha256 in contents
    ]


def written(judgement: Judgement) -> set[str]:
    """Return the contents that publishing a judgement would write into a target."""
    return {change.sha256 for change in judgement.changes if change.change in _WRITTEN}


def owners(
    connection: Connection, tables: Tables, target: Target | None, dag_ids: Collection[str]
) -> dict[str, BundleKey]:
    """See `DagStore.owners`."""
    found = state.owners(connection, tables, bulk.is_in(connection, tables.dag.c.dag_id, dag_ids))
    unknown = set(dag_ids) - found.keys()
    if target is None or not unknown:
        return found
    foreign = target.owners(connection, unknown)
    bundle = tables.bundle
    ours = set(connection.execute(sa.select(bundle.c.airflow_name)).scalars()) if foreign else set()
    return found | {dag_id: BundleKey("", name) for dag_id, name in foreign.items() if name not in ours}


def follow(connection: Connection, tables: Tables, target: Target, bundle: BundleKey) -> None:
    """See `DagStore.follow`."""
    owner = bundles.find(connection, tables, bundle, lock=True)
    if not owner.revision:
        return
    mine = sa.and_(tables.target.c.bundle_id == owner.id, tables.target.c.name == target.name)
    connection.execute(sa.delete(tables.target).where(mine))
    change = LiveChange(
        owner.revision,
        owner.version,
        before={},
        after=state.definitions(connection, tables, owner.id),
        pins=state.pins(connection, tables, owner.id),
        errors=state.findings(connection, tables.import_error, owner.id),
    )
    mirror(connection, tables, target, owner, change)


def refresh(
    connection: Connection, tables: Tables, target: Target, names: Mapping[str, BundleKey]
) -> tuple[BundleKey, ...]:
    """See `DagStore.refresh`; of some bundles by their names in the target."""
    target.refresh(connection, names.keys())
    live = _live(connection, tables, bulk.is_in(connection, tables.bundle.c.airflow_name, names))
    return tuple(sorted(names[name] for name in target.missing(connection, live)))


def examine(connection: Connection, tables: Tables, target: Target) -> Sequence[Symptom]:
    """See `DagStore.examine`."""
    return target.examine(connection, _live(connection, tables, sa.true()))


def _live(connection: Connection, tables: Tables, condition: sa.ColumnElement[bool]) -> dict[str, list[str]]:
    """Return what is live by the bundles' names in the target."""
    dag, bundle = tables.dag, tables.bundle
    found: dict[str, list[str]] = {}
    for row in connection.execute(
        sa.select(bundle.c.airflow_name, dag.c.dag_id).join(bundle, bundle.c.id == dag.c.bundle_id).where(condition)
    ):
        found.setdefault(row.airflow_name, []).append(row.dag_id)
    return found


def attend(connection: Connection, tables: Tables, target: Target, cluster: str) -> Mapping[BundleKey, Collection[str]]:
    """See `DagStore.attend`; its heartbeat is a transaction of its own."""
    names = names_of(connection, tables, cluster)
    asked = target.take_requests(connection, names.keys()) if names else {}
    bundle = tables.bundle
    found = {}
    for name, locations in asked.items():
        owner = connection.execute(sa.select(bundle).where(bundle.c.airflow_name == name)).one()
        found[names[name]] = files = _files(connection, tables, owner.id, locations)
        passes.ask(connection, tables, owner, files or None)
    return found


def _files(connection: Connection, tables: Tables, bundle_id: int, locations: Collection[str]) -> frozenset[str]:
    """Return the files of these locations: of a DAG in an archive, the archive. Empty where one is not live."""
    dag, content = tables.dag, tables.dag_content
    rows = connection.execute(
        sa.select(content.c.relative_fileloc, dag.c.path)
        .join(content, content.c.id == dag.c.content_id)
        .where(dag.c.bundle_id == bundle_id, bulk.is_in(connection, content.c.relative_fileloc, locations))
    )
    found = {row.relative_fileloc: row.path for row in rows}
    return frozenset(found.values()) if found.keys() == set(locations) else frozenset()


def names_of(connection: Connection, tables: Tables, cluster: str) -> dict[str, BundleKey]:
    """Return a cluster's bundles by their names in the target."""
    bundle = tables.bundle
    rows = connection.execute(
        sa.select(bundle.c.cluster, bundle.c.namespace, bundle.c.name, bundle.c.airflow_name).where(
            bundle.c.cluster == cluster, bundle.c.revision > 0
        )
    )
    return {row.airflow_name: bundles.key_of(row) for row in rows}


def _refuse_without(connection: Connection, tables: Tables, owner: AnyRow) -> None:
    """Refuse to move our pointers alone where a target has a copy of them: the two would differ from then on."""
    table = tables.target
    name = connection.execute(sa.select(table.c.name).where(table.c.bundle_id == owner.id)).scalar()
    if name is not None:
        raise errors.TargetError(
            f"Bundle {bundles.key_of(owner)} is published into {name} as well, and this program was not told to",
            hint=f"Set DAGBUNDLE_TARGET={name}",
        )


def _differs(old: Definition | None, new: Definition) -> bool:
    return old is not new and (old is None or old.place != new.place or old.source != new.source)


def retire(connection: Connection, tables: Tables, owner: AnyRow) -> None:
    """Have targets told what comes next of a bundle, also where nothing of it is live."""
    table = tables.target
    connection.execute(sa.update(table).where(table.c.bundle_id == owner.id).values(revision=0))


def _followed(connection: Connection, tables: Tables, target: Target, bundle_id: int) -> int:
    """Return the revision that the target has; 0 where it has none."""
    table = tables.target
    statement = sa.select(table.c.revision).where(table.c.bundle_id == bundle_id, table.c.name == target.name)
    return int(connection.execute(statement).scalar() or 0)


def _keep(connection: Connection, tables: Tables, target: Target, owner: AnyRow, revision: int) -> bool:
    """Keep that the target has this revision, and return whether it had the one before."""
    table = tables.target
    mine = sa.and_(table.c.bundle_id == owner.id, table.c.name == target.name)
    followed = sa.update(table).where(mine, table.c.revision == owner.revision).values(revision=revision)
    if connection.execute(followed).rowcount:
        return True
    connection.execute(sa.delete(table).where(mine))
    connection.execute(sa.insert(table).values(bundle_id=owner.id, name=target.name, revision=revision))
    return False


def _texts(connection: Connection, tables: Tables, shas: Collection[str]) -> dict[str, str]:
    if not shas:
        return {}
    table = tables.source_code
    rows = connection.execute(
        sa.select(table.c.sha256, table.c.text).where(bulk.is_in(connection, table.c.sha256, shas))
    )
    return {row.sha256: row.text for row in rows}


def _origin(connection: Connection, tables: Tables, rollout: str | None) -> Origin:
    if rollout is None:
        return Origin(RolloutDocument(), {})
    table, run = tables.rollout, tables.parse_run
    spec = connection.execute(sa.select(table.c.spec).where(table.c.id == rollout)).scalar()
    rows = connection.execute(
        sa.select(run.c.subdir, run.c.airflow).where(
            run.c.rollout == rollout, run.c.state == RunState.CLOSED, run.c.airflow.is_not(None)
        )
    )
    return Origin(RolloutDocument.from_json(spec or {}), {row.subdir: row.airflow for row in rows})
