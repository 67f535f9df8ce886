"""All that is used of Airflow's internals, for each minor that is supported.

Airflow is imported as a library: no engine of its own, no plugins, no logging. Every call is given our session. Its
functions for single DAGs are called instead of the one for a parsed file, because that one retries, rolls back the
session it is given, and swallows failures (`update_dag_parsing_results_in_db` of 3.1 to 3.3).
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib.metadata
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from dagbundle import errors

MINORS = ("3.1", "3.2", "3.3")
"""What is supported and tested."""

_DISTRIBUTION = "apache-airflow-core"
_sources: contextvars.ContextVar[Mapping[str, str]] = contextvars.ContextVar("sources")


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

    Attributes:
        version: Of the installed Airflow.
        minor: Likewise, `3.3`.
    """

    def __init__(self) -> None:
        self.version = version()
        self.minor = minor_of(self.version)
        with _as_library():
            self._load()

    def _load(self) -> None:
        from airflow import models, settings  # noqa: PLC0415 - takes two seconds, and variables come first
        from airflow.configuration import conf  # noqa: PLC0415 - likewise
        from airflow.dag_processing import collection  # noqa: PLC0415 - likewise
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
            errors,
            serialized_dag,
            variable,
        )
        from airflow.secrets import metastore  # noqa: PLC0415 - likewise
        from airflow.serialization import serialized_objects  # noqa: PLC0415 - likewise

        _quiet()
        # what `initialize` would do, without an engine and logging of its own
        settings.configure_vars()
        settings.prepare_syspath_for_config_and_plugins()  # the deployment's plugins bring its timetables
        settings.configure_adapters()
        models.import_all_models()  # they refer to each other by name
        self._conf = conf
        self._operation = collection.DagModelOperation
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
        self.ImportError = errors.ParseImportError
        self.SerializedDag = serialized_dag.SerializedDagModel
        self._lazy = serialized_objects.LazyDeserializedDAG
        if self.minor == "3.1":
            self._bulk_write = serialized_objects.SerializedDAG.bulk_write_to_db
        else:
            from airflow.serialization.definitions.dag import SerializedDAG  # noqa: PLC0415 - likewise

            self._bulk_write = SerializedDAG.bulk_write_to_db
        # Three places read a DAG's source from its file, all through this. There is no file here.
        dagcode.DagCode.get_code_from_file = staticmethod(_source_of)

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

    def secrets_backends(self) -> Sequence[Any]:
        """Return whom Airflow's API server asks for Variables and Connections, in its order."""
        from airflow.configuration import ensure_secrets_loaded  # noqa: PLC0415 - as it was loaded

        found: Sequence[Any] = ensure_secrets_loaded()
        return found

    def decoded(self, document: Mapping[str, Any]) -> Any:
        """Return Airflow's own view of a serialized DAG, which decodes parts of it when they are asked for."""
        return self._lazy(data=document)

    def write(
        self, session: Session, bundle: str, bundle_version: str, dags: Sequence[Any], sources: Mapping[str, str]
    ) -> None:
        """Write definitions as Airflow's processor does: DAG, tags, owners, assets, triggers, version, code.

        Args:
            session: Of our transaction.
            bundle: Its name in Airflow.
            bundle_version: Which version the DAGs are of.
            dags: What `decoded` returned.
            sources: Source texts by `fileloc`.
        """
        with _given(sources):
            self._bulk_write(bundle, bundle_version, dags, None, session=session)
            known = self._prefetched([dag.dag_id for dag in dags], session)
            for dag in dags:
                written = self.SerializedDag.write_dag(
                    dag, bundle_name=bundle, bundle_version=bundle_version, session=session, **known(dag.dag_id)
                )
                if not written:
                    self.DagCode.update_source_code(dag.dag_id, dag.fileloc, session=session)
                self._permissions(dag, session)
            session.flush()

    def refresh(
        self, session: Session, bundle: str, bundle_version: str | None, dag_ids: Sequence[str], duration: float | None
    ) -> None:
        """Compute when DAGs run next, as parsing them again would; what else their rows say stays the same."""
        newest = self.SerializedDag.get_latest_serialized_dags(dag_ids=list(dag_ids), session=session)
        dags = {found.dag_id: self.decoded(found.data) for found in newest}
        operation = self._operation(bundle_name=bundle, bundle_version=bundle_version, dags=dags)
        operation.update_dags(operation.find_orm_dags(session=session), duration, session=session)

    def _prefetched(self, dag_ids: Sequence[str], session: Session) -> Any:
        """Return what gives `write_dag` the rows that it would otherwise ask for one by one."""
        if self.minor == "3.1":
            return lambda _: {}
        found = self.SerializedDag._prefetch_dag_write_metadata(dag_ids, session=session)  # noqa: SLF001 - there is no other
        return lambda dag_id: {"_prefetched": found.get(dag_id)}

    def _permissions(self, dag: Any, session: Session) -> None:
        """Keep the permissions that a DAG's `access_control` gives, where the FAB auth manager is used."""
        if "FabAuthManager" not in self._conf.get("core", "auth_manager"):
            return
        from airflow.dag_processing import collection  # noqa: PLC0415 - where it is used only

        collection._sync_dag_perms(dag, session=session)  # noqa: SLF001 - there is no other


@contextlib.contextmanager
def _as_library() -> Iterator[None]:
    """Let Airflow be imported without an engine of its own; what this process starts afterwards hears nothing of it."""
    wanted = {"_AIRFLOW__AS_LIBRARY": "1", "_AIRFLOW_PROCESS_CONTEXT": "server"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _quiet() -> None:
    """Send Airflow's warnings to this program's log; by itself its logger prints every step to standard output."""
    warnings.filterwarnings("ignore", message="The `airflow")  # of old names, which its plugins and providers import
    import structlog  # noqa: PLC0415 - Airflow brings it

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.stdlib.LoggerFactory(),
        processors=[structlog.processors.format_exc_info, structlog.stdlib.render_to_log_kwargs],
    )


@contextlib.contextmanager
def _given(sources: Mapping[str, str]) -> Iterator[None]:
    token = _sources.set(sources)
    try:
        yield
    finally:
        _sources.reset(token)


def _source_of(fileloc: str) -> str:
    return _sources.get()[fileloc]
