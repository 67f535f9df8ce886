"""Looks up in the operator's tables where a bundle's task runs: whose namespace and account, and which image.

Plain SQL, and only reading: this package shares no code with the operator, and its tables are what they agree on
(docs/store.md).
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from dagbundle_airflow.errors import WorkerError
from dagbundle_airflow.workload import Work

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MOST = 1024
"""Places that are remembered."""
_places: collections.OrderedDict[tuple[Any, ...], Place] = collections.OrderedDict()


@dataclasses.dataclass(frozen=True)
class Place:
    """Where and as whom a bundle's task runs.

    Attributes:
        bundle: The bundle's name in Airflow.
        namespace: The team's.
        account: The subdir's ServiceAccount.
        run_as_user: The subdir's UID, if it has one.
        version: The bundle version.
        image: Repository and digest; empty where the version is no image.
        path: The bundle's root in the image.
        pod: `spec.pod` of the DagBundle.
    """

    bundle: str
    namespace: str
    account: str
    run_as_user: int | None
    version: str
    image: str
    path: str
    pod: Mapping[str, Any]


def is_installed(connection: Any) -> bool:
    """Return whether the operator has its tables in this database."""
    import sqlalchemy as sa  # noqa: PLC0415 - Airflow is not ready when it imports the hook

    if _is_postgresql(connection):
        return bool(sa.inspect(connection).has_table("bundle", schema="dagbundle"))
    return bool(sa.inspect(connection).has_table("dagbundle_bundle"))


def place(connection: Any, task: Work) -> Place | None:
    """Return where a task or callback runs; None where its bundle is not the operator's.

    Raises:
        WorkerError: It is, and nothing says where and on what this version runs.
    """
    row = _one(
        connection,
        "SELECT id, cluster, namespace, revision, version FROM {0}bundle WHERE airflow_name = :name",
        name=task.bundle,
    )
    if row is None:
        return None
    number, cluster, namespace, revision, live = row
    here = os.environ.get("DAGBUNDLE_CLUSTER_NAME", "")
    if cluster != here:
        raise WorkerError(
            f"Bundle {task.bundle} is of cluster {cluster!r}, and this scheduler makes pods in {here!r}: its namespace "
            "there is not the same team's here (DAGBUNDLE_CLUSTER_NAME)"
        )
    key = (str(connection.engine.url), number, revision, task.version, task.dag_id)
    if key not in _places:
        version = task.version or _live_version(connection, number, task.dag_id) or live
        _places[key] = _found(connection, number, namespace, dataclasses.replace(task, version=version))
        while len(_places) > _MOST:
            _places.popitem(last=False)
    return _places[key]


def _live_version(connection: Any, bundle: int, dag_id: str) -> str | None:
    """Return which version a DAG runs now, where it is not the bundle's: its file is broken, or was held back."""
    row = _one(
        connection,
        "SELECT bundle_version FROM {0}pin WHERE dag_id = :dag_id AND bundle_id = :bundle AND to_revision IS NULL",
        dag_id=dag_id,
        bundle=bundle,
    )
    return None if row is None else str(row[0])


def _found(connection: Any, bundle: int, namespace: str, task: Work) -> Place:
    """Read the newest revision that published this version and had this DAG, and the rollout that it came from."""
    row = _one(
        connection,
        "SELECT r.spec, d.subdir FROM {0}publication p JOIN {0}rollout r ON r.id = p.rollout"
        " JOIN {0}dag_version d ON d.bundle_id = p.bundle_id AND d.dag_id = :dag_id"
        " AND d.from_revision <= p.revision AND (d.to_revision IS NULL OR d.to_revision > p.revision)"
        " WHERE p.bundle_id = :bundle AND p.version = :version ORDER BY p.revision DESC LIMIT 1",
        dag_id=task.dag_id,
        bundle=bundle,
        version=task.version,
    )
    if row is None:
        raise WorkerError(
            f"DAG {task.dag_id} is not known in version {task.version} of bundle {task.bundle}: that was never "
            "published, or is too long ago (DAGBUNDLE_KEEP_REVISIONS). Clear the run with the latest version"
        )
    return place_in(json.loads(row[0]) if isinstance(row[0], str) else row[0], row[1], namespace, task)


def place_in(document: Mapping[str, Any], subdir: str, namespace: str, task: Work) -> Place:
    """Return where a task runs, by the document of the rollout that published its version.

    Args:
        document: What the operator wrote when the rollout started (`dagbundle.rollout.document`).
        subdir: The DAG's.
        namespace: The bundle's.
        task: What is to run; it has a version.

    Raises:
        WorkerError: The document does not say where, or on which image.
    """
    spec = document.get("spec")
    if spec is None:
        raise WorkerError(
            f"Version {task.version} of bundle {task.bundle} was submitted without a DagBundle: nothing says on which "
            "image and as whom its tasks run. Apply a DagBundle"
        )
    who = next((item for item in spec["subdirs"] if item["path"] == subdir), None)
    if who is None:
        raise WorkerError(f"Version {task.version} of bundle {task.bundle} has no subdir {subdir} any more")
    source = spec["source"].get("image") or spec["source"]["workloadRef"]
    return Place(
        bundle=task.bundle,
        namespace=namespace,
        account=who.get("serviceAccountName") or "default",
        run_as_user=who.get("runAsUser"),
        version=str(task.version),
        image=_image(document, source, task),
        path=source["path"],
        pod=spec.get("pod") or {},
    )


def _image(document: Mapping[str, Any], source: Mapping[str, Any], task: Work) -> str:
    """Return the image with its digest. What was published from a folder has a version that only looks like one."""
    reference = document.get("image")
    if reference is None:
        if "requestedAt" not in document:  # it was applied on a laptop
            return ""
        reference = source.get("reference")  # a controller of before 0.2 did not write down what it parsed
    if not reference:
        raise WorkerError(
            f"Version {task.version} of bundle {task.bundle} came from a workload's image whose name was not kept. "
            "Ask for a new rollout (requestedAt), then clear the run with the latest version"
        )
    if not _DIGEST.fullmatch(str(task.version)):
        raise WorkerError(f"Version {task.version} of bundle {task.bundle} is no digest of image {reference}")
    folder, slash, name = reference.partition("@")[0].rpartition("/")
    return f"{folder}{slash}{name.partition(':')[0]}@{task.version}"


def _one(connection: Any, statement: str, **values: Any) -> Any:
    import sqlalchemy as sa  # noqa: PLC0415 - as above

    tables = "dagbundle." if _is_postgresql(connection) else "dagbundle_"
    return connection.execute(sa.text(statement.format(tables)), values).first()


def _is_postgresql(connection: Any) -> bool:
    return bool(connection.dialect.name == "postgresql")
