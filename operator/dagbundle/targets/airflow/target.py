"""Publishes into Airflow's metadata database, in the transaction that moves our own pointers.

What Airflow itself checks and does not check is in docs/airflow.md. Import errors and removals are not passed through
Airflow's functions: those make every DAG of a broken file stale, and the point of keeping the last good one is lost.
"""

from __future__ import annotations

import datetime as dt
import functools
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dagbundle import errors
from dagbundle.rollout.assets import Mention
from dagbundle.rollout.model import BundleKey, LookupKind, LookupValue, Problem
from dagbundle.rollout.moves import Candidate, Move, Symptom, WrittenDag
from dagbundle.targets.airflow import adapter, check, installed, permissions, upkeep, values, vetting
from dagbundle.targets.airflow.documents import Documents
from dagbundle.targets.airflow.examining import Examiner, on_behalf_of
from dagbundle.targets.airflow.sessions import session_in

NO_SOURCE = "# Its source was not submitted.\n"
"""Airflow takes an empty text for one that it must look for itself."""
_SAID = 1_000
"""Characters of what an error of Airflow's says: it may quote the document."""
_CHUNK = 5_000
"""Values in one IN: below every driver's limit."""


class AirflowTarget:
    """Airflow's tables, as a target of the store's.

    Args:
        airflow: The installed Airflow; default: found.
        allowed: What a document may name; default: what the environment says.
    """

    name = "airflow"

    def __init__(self, airflow: adapter.Adapter | None = None, allowed: vetting.Allowed | None = None) -> None:
        if airflow is None:
            adapter.version()  # what is missing is said at once
        self._given = airflow
        self._examiner = (airflow.examiner if airflow else None) or Examiner()
        self._allowed = allowed or vetting.read(notifiers=installed.notifiers)
        self._documents = Documents(self._examiner, self._allowed)
        self._lock = threading.Lock()

    @property
    def owns_assets(self) -> bool:
        """Whether an asset belongs to the bundle that defines it, which a deployment may switch off."""
        return not self._allowed.shared_assets

    @functools.cached_property
    def _airflow(self) -> adapter.Adapter:
        """The installed Airflow; importing it takes two seconds, which a pass that changes nothing does not need."""
        return self._given or adapter.Adapter(self._examiner)

    def move(self, connection: Connection, move: Move, /) -> None:
        """Write what a publication changed.

        Raises:
            OwnershipError: A dag_id is live in a bundle that is not ours.
            TargetError: Airflow cannot take a DAG; the message names it.
        """
        self._refuse_newer(move)
        with on_behalf_of(move.bundle.namespace), session_in(connection) as session:
            ran = self._take(session, move)
            self._bundle(session, move)
            self._write(session, move, ran)
            self._follow_versions(session, move)
            self._deactivate(session, move)
            if move.restated:
                self._airflow.assets.restate(session, self._airflow.assets.decoded(move.restated))
            self._import_errors(session, move)

    def prepare(self) -> None:
        """Start the process that examines documents."""
        self._examiner.prepare()

    def refused(self, candidates: Sequence[Candidate], bundle: BundleKey, /) -> Mapping[str, Problem]:
        """Return what is wrong with DAGs that a publication would write, by dag_id. See `documents.Documents`."""
        with on_behalf_of(bundle.namespace):
            return self._documents.refused(candidates)

    def forbidden(self, connection: Connection, candidates: Sequence[Candidate], /) -> Mapping[str, Problem]:
        """Return what the database has no place for of DAGs that were not refused. See `permissions.refused`."""
        given = [item for item in candidates if item.content.header["dag"].get("access_control")]
        return permissions.refused(self._airflow, connection, given) if given else {}

    def named(self, connection: Connection, dags: Collection[str], few: int, /) -> Collection[Mention]:
        """Return the assets that DAGs name which Airflow has; nothing where a count finds `few` or less."""
        found: set[Mention] = set()
        if sum(self._airflow.assets.count(connection, some) for some in _chunks(dags)) <= few:
            return found
        for some in _chunks(dags):
            found |= self._airflow.assets.named(connection, some)
        return found

    def owners(self, connection: Connection, dag_ids: Collection[str], /) -> Mapping[str, str]:
        """Return the bundles, by their names in Airflow, in which these DAGs are live, whether they are ours or not."""
        table = self._airflow.Dag.__table__
        found: dict[str, str] = {}
        for some in _chunks(dag_ids):
            statement = sa.select(table.c.dag_id, table.c.bundle_name).where(
                table.c.dag_id.in_(some), ~table.c.is_stale
            )
            found.update({row.dag_id: row.bundle_name for row in connection.execute(statement)})
        return found

    def beat(self, connection: Connection, identity: str, /) -> None:
        """Show as a live DAG processor on Airflow's health page. See `upkeep.beat`."""
        upkeep.beat(self._airflow, connection, identity)

    def rest(self, connection: Connection, identity: str, /) -> None:
        """Show as ended in order."""
        upkeep.rest(self._airflow, connection, identity)

    def take_requests(self, connection: Connection, names: Collection[str], /) -> Mapping[str, set[str]]:
        """Take the requests of Airflow's UI to parse files again. See `upkeep.take_requests`."""
        return upkeep.take_requests(self._airflow, connection, names)

    def look_up(self, connection: Connection, kind: LookupKind, key: str, /) -> LookupValue | None:
        """Look a Variable or Connection up. See `values.look_up`."""
        with self._lock:  # several threads ask, and the first of them imports Airflow
            airflow = self._airflow
        return values.look_up(airflow, connection, kind, key)

    def missing(self, connection: Connection, live: Mapping[str, Collection[str]], /) -> set[str]:
        """Return the bundles of which Airflow does not show every live DAG. See `upkeep.missing`."""
        return upkeep.missing(self._airflow, connection, live)

    def refresh(self, connection: Connection, names: Collection[str], /) -> None:
        """Refresh what nobody else does. See `upkeep.refresh`."""
        upkeep.refresh(self._airflow, connection, names)

    def overdue(self, connection: Connection, names: Mapping[str, str], /) -> Iterator[Callable[[Connection], None]]:
        """Return what moves overdue dates. See `upkeep.overdue`."""
        return upkeep.overdue(self._airflow, connection, names)

    def examine(self, connection: Connection, live: Mapping[str, Collection[str]], /) -> Sequence[Symptom]:
        """Say what would go wrong. See `check.examine`."""
        return tuple(check.examine(self._airflow, connection, live, self._allowed))

    def _refuse_newer(self, move: Move) -> None:
        for subdir, found in sorted(move.airflow.items()):
            if adapter.numbers(found)[:2] > adapter.numbers(self._airflow.version)[:2]:
                raise errors.TargetError(
                    f"subdir {subdir} was serialized by Airflow {found}, and this deployment is "
                    f"{self._airflow.version}: a newer Airflow's DAGs cannot be read by an older one",
                    hint="upgrade the deployment first, or build the image with its version of Airflow",
                    reason="AirflowTooNew",
                )

    def _take(self, session: Session, move: Move) -> dict[str, bool]:
        """Lock the rows of the DAGs that are written, look whose they are, and return which of them ever ran."""
        ran: dict[str, bool] = {}
        for some in _chunks([dag.dag_id for dag in move.written]):
            rows = self._airflow.lock(session, some)
            taken = [row for row in rows if row.bundle_name != move.airflow_name and not row.is_stale]
            if taken:
                raise errors.OwnershipError(
                    f"Bundle {move.bundle} cannot publish DAG {taken[0].dag_id}: in Airflow it belongs to bundle "
                    f"{taken[0].bundle_name}",
                    hint="Rename the DAG, or take it out of the other bundle first (docs/airflow.md, Migration)",
                )
            ran |= {row.dag_id: row.runs for row in rows}
        return ran

    def _bundle(self, session: Session, move: Move) -> None:
        model = self._airflow.DagBundle
        table = model.__table__
        state = {"active": move.active, "version": move.version, "last_refreshed": _now()}
        there = session.connection().execute(sa.update(table).where(table.c.name == move.airflow_name).values(state))
        if not there.rowcount:
            bundle = model(name=move.airflow_name)
            for name, value in {**state, "template_params": {}}.items():  # as Airflow has it where there is no template
                setattr(bundle, name, value)
            session.add(bundle)
            session.flush()

    def _write(self, session: Session, move: Move, ran: Mapping[str, bool]) -> None:
        by_version: dict[str, list[WrittenDag]] = {}
        for dag in move.written:
            by_version.setdefault(dag.bundle_version, []).append(dag)
        folder = self._airflow.dags_folder
        documents = {version: self._documents.checked(dags, move, folder) for version, dags in by_version.items()}
        owned = self._airflow.assets.decoded(move.assets)  # after the checks: some are of these documents
        for bundle_version, dags in by_version.items():
            checked = documents[bundle_version]
            sources = {
                document["dag"]["fileloc"]: dag.source or NO_SOURCE
                for dag, (document, _) in zip(dags, checked, strict=True)
            }
            decoded = [self._airflow.decoded(document, examined) for document, examined in checked]
            try:
                self._airflow.write(
                    session,
                    move.airflow_name,
                    bundle_version,
                    decoded,
                    sources,
                    ran=ran,
                    durations={dag.dag_id: dag.duration for dag in dags if dag.duration},
                    owned=owned,
                )
            except (SQLAlchemyError, errors.DagBundleError):
                raise
            except (Exception, SystemExit) as error:  # whatever Airflow, or a plugin's class, makes of a document
                said = " from ".join(f"{type(cause).__name__}: {str(cause)[:_SAID]}" for cause in _causes(error))
                raise errors.TargetError(
                    f"{_names(dags, move)}: Airflow {self._airflow.version} cannot store it: {said}",
                    hint="mend that DAG, or what it names in Airflow; what was live stays until then",
                ) from error

    def _follow_versions(self, session: Session, move: Move) -> None:
        """Let DAGs that stayed as they were run the new version's code, in place, as Airflow does for an equal hash."""
        by_version: dict[str, list[str]] = {}
        for dag_id, found in move.pinned.items():
            if dag_id in move.standing:
                by_version.setdefault(found, []).append(dag_id)
        others = [dag_id for dag_ids in by_version.values() for dag_id in dag_ids]
        if len(others) < _CHUNK:  # as usual: those that are kept or held back are few
            self._set_version(session, move, move.version, without=others)
        else:
            by_version[move.version] = list(move.standing - set(others))
        for found, dag_ids in sorted(by_version.items()):
            for some in _chunks(dag_ids):
                self._set_version(session, move, found, only=some)

    def _set_version(
        self, session: Session, move: Move, version: str, *, without: Sequence[str] = (), only: Sequence[str] = ()
    ) -> None:
        """Set the version of the bundle's DAGs, and of the newest version of each, where it is another one."""
        dag = self._airflow.Dag.__table__
        if only:
            statements = self._version_setters(dag.c.dag_id.in_(only))
        elif without:
            statements = self._version_setters(dag.c.dag_id.not_in(without))
        else:
            statements = self._all_version_setters
        connection = session.connection()
        for statement in statements:
            connection.execute(statement, {"of_bundle": move.airflow_name, "to_version": version})

    @functools.cached_property
    def _all_version_setters(self) -> tuple[sa.Update, sa.Update]:
        return self._version_setters(sa.true())

    def _version_setters(self, chosen: sa.ColumnElement[bool]) -> tuple[sa.Update, sa.Update]:
        dag, versions = self._airflow.Dag.__table__, self._airflow.DagVersion.__table__
        mine = sa.and_(dag.c.bundle_name == sa.bindparam("of_bundle"), ~dag.c.is_stale, chosen)
        version = sa.bindparam("to_version", type_=sa.String)
        newer = versions.alias()
        is_newest = ~sa.exists().where(
            newer.c.dag_id == versions.c.dag_id, newer.c.version_number > versions.c.version_number
        )
        return (
            sa.update(versions)
            .where(
                versions.c.dag_id.in_(sa.select(dag.c.dag_id).where(mine)),
                versions.c.bundle_version.is_distinct_from(version),
                is_newest,
            )
            .values(bundle_version=version),
            sa.update(dag).where(mine, dag.c.bundle_version.is_distinct_from(version)).values(bundle_version=version),
        )

    def _deactivate(self, session: Session, move: Move) -> None:
        """Make stale what is not live any more, also what somebody else left in our bundle."""
        dag = self._airflow.Dag.__table__
        live = {written.dag_id for written in move.written} | move.standing
        shown = sa.select(dag.c.dag_id).where(dag.c.bundle_name == move.airflow_name, ~dag.c.is_stale)
        gone = sorted(set(session.scalars(shown)) - live)
        models = self._airflow.Asset
        references = (
            models.DagScheduleAssetReference,
            models.DagScheduleAssetNameReference,
            models.DagScheduleAssetUriReference,
            models.DagScheduleAssetAliasReference,
            models.TaskOutletAssetReference,
        )
        for some in _chunks(gone):
            session.execute(sa.update(dag).where(dag.c.dag_id.in_(some)).values(is_stale=True))
            for model in references:
                session.execute(sa.delete(model.__table__).where(model.__table__.c.dag_id.in_(some)))
        if gone:
            self._airflow.clear_triggers(session)

    def _import_errors(self, session: Session, move: Move) -> None:
        """Show every visible import error, one row for a file as Airflow has it."""
        table = self._airflow.ImportError.__table__
        texts: dict[str, list[str]] = {}
        for note in move.errors:
            texts.setdefault(note.path, []).append(note.message)
        wanted = {path: "\n".join(messages) for path, messages in texts.items()}
        rows = session.execute(
            sa.select(table.c.id, table.c.filename, table.c.stacktrace).where(table.c.bundle_name == move.airflow_name)
        ).all()
        standing = {row.filename for row in rows if wanted.get(row.filename) == row.stacktrace}
        gone = [row.id for row in rows if row.filename not in standing]
        for some in _chunks(gone):
            session.execute(sa.delete(table).where(table.c.id.in_(some)))
        fresh = [
            {"timestamp": _now(), "filename": path, "stacktrace": text, "bundle_name": move.airflow_name}
            for path, text in wanted.items()
            if path not in standing
        ]
        if fresh:
            session.execute(sa.insert(table), fresh)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Return an error and what it was raised from: Airflow's own says that something went wrong, and no more."""
    yield error
    if error.__cause__ is not None:
        yield from _causes(error.__cause__)


def _names(dags: Sequence[WrittenDag], move: Move) -> str:
    first, *others = dags
    if others:
        return f"One of {len(dags)} DAGs of bundle {move.bundle} ({first.dag_id}, …)"
    return f"DAG {first.dag_id} of bundle {move.bundle}, file {first.path}"


def _chunks(values: Collection[Any]) -> Iterator[list[Any]]:
    ordered = list(values)
    for start in range(0, len(ordered), _CHUNK):
        yield ordered[start : start + _CHUNK]


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
