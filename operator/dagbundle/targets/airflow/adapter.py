"""All that is used of Airflow's internals, for each minor that is supported.

Airflow is imported as a library: no engine of its own, no plugins, no logging. Every call is given our session. Its
functions for single DAGs are called instead of the one for a parsed file, because that one retries, rolls back the
session it is given, and swallows failures (`update_dag_parsing_results_in_db` of 3.1 to 3.3). Where they ask the
database or decode the same thing DAG by DAG, they are given what was asked or decoded once.
"""

from __future__ import annotations

import contextlib
import contextvars
import gc
import importlib.metadata
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dagbundle import errors
from dagbundle.targets.airflow import assets, library, wire
from dagbundle.targets.airflow.examining import Examiner
from dagbundle.targets.airflow.next_runs import NextRuns, Spent

MINORS = ("3.1", "3.2", "3.3")
"""What is supported and tested."""

_DISTRIBUTION = "apache-airflow-core"
_sources: contextvars.ContextVar[Mapping[str, str]] = contextvars.ContextVar("sources")
_never_run: contextvars.ContextVar[Collection[str]] = contextvars.ContextVar("never_run", default=())


def version() -> str:
    """Return the installed Airflow's version.

    Raises:
        UsageError: There is none, or one that is not supported.
    """
    try:
        found = importlib.metadata.version(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        raise errors.UsageError(
            "The target airflow needs Airflow in this program's environment, and there is none",
            hint=f"Install dagbundle-operator beside apache-airflow-core of the deployment: {', '.join(MINORS)}",
        ) from error
    if minor_of(found) not in MINORS:
        reason = " It needs SQLAlchemy 1, and this program 2." if minor_of(found) == "3.0" else ""
        raise errors.UsageError(
            f"Airflow {found} cannot be published into.{reason}",
            hint=f"Publish with one of {', '.join(MINORS)}; a team's image may have 3.0",
        )
    return found


def minor_of(found: str) -> str:
    """Return `3.3` of `3.3.2`."""
    return ".".join(found.split(".")[:2])


def numbers(found: str) -> tuple[int, ...]:
    """Return a version as it is compared: (3, 3, 2) of `3.3.2`, what is no number left out."""
    return tuple(int(part) for part in found.split(".") if part.isdecimal())


class Adapter:
    """Airflow's models and functions, of the installed version. One for the process.

    Args:
        examiner: Computes the next runs of DAGs; None computes them here, as the examiner's own process does.

    Attributes:
        version: Of the installed Airflow.
        minor: Likewise, `3.3`.
        dags_folder: Of this deployment, which stock Airflow puts into every DAG.
    """

    def __init__(self, examiner: Examiner | None = None) -> None:
        self.examiner = examiner
        self.version = version()
        self.minor = minor_of(self.version)
        with library.as_library():
            self._load()
        gc.freeze()  # a million objects that stay: each full collection would look at all of them

    def _load(self) -> None:
        import pendulum  # noqa: PLC0415 - Airflow brings it
        from airflow import models, settings  # noqa: PLC0415 - takes two seconds, and variables come first
        from airflow.configuration import conf  # noqa: PLC0415 - likewise
        from airflow.dag_processing import collection  # noqa: PLC0415 - likewise
        from airflow.exceptions import AirflowException  # noqa: PLC0415 - likewise
        from airflow.jobs import job  # noqa: PLC0415 - likewise
        from airflow.models import (  # noqa: PLC0415 - likewise
            asset,
            connection,
            crypto,
            dag,
            dag_version,
            dagbag,
            dagbundle,
            dagcode,
            dagrun,
            dagwarning,
            errors,
            serialized_dag,
            variable,
        )
        from airflow.secrets import metastore  # noqa: PLC0415 - likewise
        from airflow.serialization import serialized_objects  # noqa: PLC0415 - likewise
        from airflow.timetables import base  # noqa: PLC0415 - likewise

        library.quiet()
        # what `initialize` would do, without an engine and logging of its own
        settings.configure_vars()
        settings.prepare_syspath_for_config_and_plugins()  # the deployment's plugins bring its timetables
        settings.configure_adapters()
        models.import_all_models()  # they refer to each other by name
        self._conf = conf
        self._invalid = (ValueError, AirflowException)
        self._runs = NextRuns(self.minor, base, pendulum.instance, self.examiner)
        self.dags_folder = str(settings.DAGS_FOLDER)
        self._operation = collection.DagModelOperation
        self.assets = assets.Assets(collection, asset, serialized_objects.BaseSerialization.deserialize)
        self._assets = self.assets.operation
        self.Job = job.Job
        self.ParsingRequest = dagbag.DagPriorityParsingRequest
        self.Asset = asset
        self.Connection = connection.Connection
        self.Variable = variable.Variable
        self.MetastoreBackend = metastore.MetastoreBackend
        self._fernet = crypto.get_fernet
        self.Dag = dag.DagModel
        self.DagVersion = dag_version.DagVersion
        self.DagBundle = dagbundle.DagBundleModel
        self.DagCode = dagcode.DagCode
        self.DagRun = dagrun.DagRun
        self.DagWarning = dagwarning.DagWarning
        self.ImportError = errors.ParseImportError
        self.SerializedDag = serialized_dag.SerializedDagModel
        self._lazy = library.decoding_once(serialized_objects.LazyDeserializedDAG, self._runs.next_run)
        if self.minor in {"3.1", "3.2"}:
            serialized_objects.PodGenerator = library.Pods
            serialized_objects._has_kubernetes = lambda **_: True  # noqa: SLF001 - it asks for the provider
        if self.minor == "3.1":
            self._bulk_write = serialized_objects.SerializedDAG.bulk_write_to_db
        else:
            from airflow.serialization.definitions.dag import SerializedDAG  # noqa: PLC0415 - likewise

            self._bulk_write = SerializedDAG.bulk_write_to_db
        # Three places read a DAG's source from its file, all through this. There is no file here.
        dagcode.DagCode.get_code_from_file = staticmethod(_source_of)
        if self.minor != "3.1":  # which asks for all DAGs at once
            collection._RunInfo = library.asking_where_there_are_runs(collection._RunInfo, _never_run.get)  # noqa: SLF001 - there is no other

    def setting(self, section: str, name: str) -> str:
        """Return one of Airflow's settings; empty where it is not set."""
        return str(self._conf.get(section, name, fallback="") or "")

    @property
    def schema(self) -> str:
        """The revision that this Airflow's tables are at when they are migrated."""
        from airflow.utils import db  # noqa: PLC0415 - for a check only

        known = db._REVISION_HEADS_MAP  # noqa: SLF001 - there is no other
        mine = [found for found in known if numbers(found) <= numbers(self.version)]
        return str(known[max(mine, key=numbers)])

    @property
    def decrypts(self) -> bool:
        """Whether there is a key for what Airflow encrypts in its tables."""
        return bool(self._fernet().is_encrypted)

    @property
    def has_fab_permissions(self) -> bool:
        """Whether DAGs' `access_control` is carried out: the FAB auth manager alone has that."""
        return "FabAuthManager" in self.setting("core", "auth_manager")

    def security_manager(self, session: Session) -> Any:
        """Return what keeps FAB's roles and permissions."""
        from airflow.providers.fab.www import security_appless  # noqa: PLC0415 - where it is used only

        return security_appless.ApplessAirflowSecurityManager(session=session)

    def carries_callbacks(self, executor: str | None) -> bool | None:
        """Tell whether an executor of `[core] executor` carries out callbacks of deadlines.

        Args:
            executor: Its name, as a task would choose it; None for the default one.

        Returns:
            None where the settings of this program have no such executor, or it cannot be imported here.
        """
        from airflow.executors.executor_loader import ExecutorLoader  # noqa: PLC0415 - for a check only

        try:
            known = ExecutorLoader.get_executor_names()
            name = known[0] if executor is None else ExecutorLoader.lookup_executor_name_by_str(executor)
            found, _ = ExecutorLoader.import_executor_cls(name)
        except Exception:  # noqa: BLE001 - a deployment's own executor may raise anything while it is imported
            return None
        return bool(getattr(found, "supports_callbacks", False))

    def secrets_backends(self) -> Sequence[Any]:
        """Return whom Airflow's API server asks for Variables and Connections, in its order."""
        from airflow.configuration import ensure_secrets_loaded  # noqa: PLC0415 - as it was loaded

        found: Sequence[Any] = ensure_secrets_loaded()
        return found

    def decoded(self, document: Mapping[str, Any], examined: Mapping[str, Any] | None = None) -> Any:
        """Return Airflow's own view of a serialized DAG, which decodes parts of it when they are asked for.

        Args:
            document: A vetted one.
            examined: What the examiner answered for it, where that is no older than a minute.
        """
        return self._lazy(data=document, examined=examined)

    def examine(self, document: Mapping[str, Any], last: Any) -> dict[str, Any]:
        """Decode all of a document, and compute from it what the scheduler will: for the examiner's process only.

        Args:
            document: A vetted one.
            last: As `wire` writes the run after which the next one is computed; None for the first.

        Returns:
            `{"info": …, "description": …, "partition_key": …}`: the next run and what Airflow's columns show.

        Raises:
            Exception: Whatever Airflow's decoders make of it.
        """
        view = self._lazy(data=document)
        real = view._real_dag  # noqa: SLF001 - there is no other
        library.look_at_tasks(document, real)
        library.validate_params(real, self._invalid)
        info = self._runs.compute(real, last)
        return {
            "info": wire.info_to_json(info),
            "description": view.timetable.description,
            "partition_key": getattr(info, "partition_key", None),
        }

    def lock(self, session: Session, dag_ids: Sequence[str]) -> Sequence[Any]:
        """Lock the rows of these DAGs, so that nobody takes them meanwhile.

        Returns:
            Rows of dag_id, bundle_name, is_stale and whether it has `runs`, in the order in which they were locked.
        """
        table, run = self.Dag.__table__.c, self.DagRun.__table__.c.dag_id
        return session.execute(
            sa.select(
                table.dag_id, table.bundle_name, table.is_stale, sa.exists().where(run == table.dag_id).label("runs")
            )
            .where(table.dag_id.in_(dag_ids))
            .order_by(table.dag_id)
            .with_for_update(of=self.Dag.__table__)
        ).all()

    def write(
        self,
        session: Session,
        bundle: str,
        bundle_version: str,
        dags: Sequence[Any],
        sources: Mapping[str, str],
        *,
        ran: Mapping[str, bool],
        durations: Mapping[str, float],
        owned: assets.Owned,
    ) -> None:
        """Write definitions as Airflow's processor does: DAG, tags, owners, assets, triggers, version, code.

        Args:
            session: Of our transaction.
            bundle: Its name in Airflow.
            bundle_version: Which version the DAGs are of.
            dags: What `decoded` returned.
            sources: Source texts by `fileloc`.
            ran: Whether those of them that Airflow has a row of ever ran, as `lock` found.
            durations: Seconds that a DAG's file took to parse, where it was parsed, by dag_id.
            owned: Assets that have an owner, as it defines them.
        """
        dag_ids = [dag.dag_id for dag in dags]
        never_run = self._without_runs(dag_ids, ran, session)
        with _given(_sources, sources), _given(_never_run, never_run), self.assets.owned(owned):
            self._write_models(session, bundle, bundle_version, dags)
            timed = [{"dag_id": key, "last_parse_duration": seconds} for key, seconds in durations.items()]
            if timed:
                session.execute(sa.update(self.Dag), timed)
            known = self._versioned(dag_ids, session)
            for dag in dags:
                if dag.dag_id not in known and not dag.data["dag"].get("deadline"):
                    self._write_first(dag, bundle, bundle_version, session)
                elif not self.SerializedDag.write_dag(
                    dag,
                    bundle_name=bundle,
                    bundle_version=bundle_version,
                    session=session,
                    **known.get(dag.dag_id, {}),
                ):
                    self.DagCode.update_source_code(dag.dag_id, dag.fileloc, session=session)
                self._permissions(dag, session)
            session.flush()

    def _write_models(self, session: Session, bundle: str, bundle_version: str, dags: Sequence[Any]) -> None:
        """Write the rows of DAGs, tags, owners, assets and triggers."""
        by_id = {dag.dag_id: dag for dag in dags}
        found = self._assets.collect(by_id)
        if any((found.assets, found.asset_aliases, *found[2:4])):
            for some in self.assets.portions(dags, found):
                self._bulk_write(bundle, bundle_version, some, None, session=session)
            return
        # most DAGs have none, and then all that the function does between these steps is to look at rows once more
        operation = self._operation(bundle_name=bundle, bundle_version=bundle_version, dags=by_id)
        rows = operation.add_dags(session=session)
        scheduled = any(row.schedule_asset_references for row in rows.values())
        operation.update_dags(rows, None, session=session)
        session.flush()
        if scheduled:
            self.clear_triggers(session)
        operation.update_dag_asset_expression(orm_dags=rows, orm_assets={})
        session.flush()

    def clear_triggers(self, session: Session) -> None:
        """Drop the triggers of assets by which no DAG is scheduled any more."""
        self._assets.collect({}).add_asset_trigger_references({}, session=session)

    def _write_first(self, dag: Any, bundle: str, bundle_version: str, session: Session) -> None:
        """Do what `write_dag` does for a DAG that has no version yet, without looking for one."""
        version = self.DagVersion(
            dag_id=dag.dag_id, version_number=1, bundle_name=bundle, bundle_version=bundle_version
        )
        serialized = self.SerializedDag(dag)
        serialized.dag_version = version
        session.add_all([version, serialized])
        self.DagCode.write_code(version, dag.fileloc, session=session)

    def _without_runs(self, dag_ids: Sequence[str], ran: Mapping[str, bool], session: Session) -> Collection[str]:
        """Return which of these DAGs have never run, as most have that are new."""
        run = self.DagRun.__table__.c.dag_id
        new = set(dag_ids) - ran.keys()  # of which nobody has seen runs; what an index finds nothing of costs nothing
        old = session.scalars(sa.select(run).where(run.in_(new)).distinct()).all() if new else ()
        return frozenset(dag_id for dag_id in dag_ids if not ran.get(dag_id) and dag_id not in old)

    def refresh(
        self,
        session: Session,
        bundle: str,
        bundle_version: str | None,
        dag_ids: Sequence[str],
        *,
        duration: float | None,
        spent: Spent,
    ) -> None:
        """Compute when DAGs run next, as parsing them again would; what else their rows say stays the same.

        Args:
            session: Of our transaction.
            bundle: Its name in Airflow.
            bundle_version: Which version the DAGs are of.
            dag_ids: Some of its DAGs.
            duration: What their rows say of the seconds that their files took to parse.
            spent: Counts what the upkeep takes of the examiner.
        """
        newest = self.SerializedDag.get_latest_serialized_dags(dag_ids=list(dag_ids), session=session)
        dags = {found.dag_id: self.decoded(found.data) for found in newest}
        operation = self._operation(bundle_name=bundle, bundle_version=bundle_version, dags=dags)
        with self._runs.in_upkeep(spent, bundle):
            operation.update_dags(operation.find_orm_dags(session=session), duration, session=session)

    def _versioned(self, dag_ids: Sequence[str], session: Session) -> Mapping[str, Mapping[str, Any]]:
        """Return the DAGs that have a version, with what `write_dag` would otherwise ask for one by one."""
        if self.minor == "3.1":
            versions = self.DagVersion.dag_id
            found = session.scalars(sa.select(versions).where(versions.in_(dag_ids)).distinct())
            return {dag_id: {} for dag_id in found}
        ask = self.SerializedDag._prefetch_dag_write_metadata  # noqa: SLF001 - there is no other
        asked = ask(dag_ids, session=session)
        return {dag_id: {"_prefetched": item} for dag_id, item in asked.items() if item.dag_version is not None}

    def _permissions(self, dag: Any, session: Session) -> None:
        """Keep the permissions that a DAG's `access_control` gives, where the FAB auth manager is used."""
        if not self.has_fab_permissions:
            return
        from airflow.dag_processing import collection  # noqa: PLC0415 - where it is used only

        collection._sync_dag_perms(dag, session=session)  # noqa: SLF001 - there is no other


@contextlib.contextmanager
def _given(variable: contextvars.ContextVar[Any], value: Any) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def _source_of(fileloc: str) -> str:
    return _sources.get()[fileloc]
