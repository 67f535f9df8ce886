"""Builds a task's pod: from the deployment's template and the DagBundle, and not from what executor_config made of it.

The pod is built anew, so no field is forgotten, not even one that Kubernetes has yet to invent. It is confined as the
parser's own Job is. Pure: JSON in, JSON out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from dagbundle_airflow import template, workload
from dagbundle_airflow.errors import WorkerError
from dagbundle_airflow.lookup import Place
from dagbundle_airflow.workload import Callback, Work, Workload

Object = Mapping[str, Any]

_SECRETS = (
    "AIRFLOW__DATABASE__", "AIRFLOW__CORE__SQL_ALCHEMY_CONN", "AIRFLOW_CONN_AIRFLOW_DB", "AIRFLOW__CORE__FERNET_KEY",
    "AIRFLOW__API_AUTH__", "AIRFLOW__API__SECRET_KEY", "AIRFLOW__WEBSERVER__SECRET_KEY", "AIRFLOW__CELERY__",
)  # fmt: skip
"""Variables of a stock template that no team's code may have, and that a worker of Airflow 3 does not need."""
_VOLUMES = frozenset(
    {"name", "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
"""What the Pod Security Standard `restricted` allows."""
_CONFINED = {"privileged": False, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
_SCRATCH = "dagbundle-tmp"
_UNSAFE_LABEL = re.compile(r"^[^a-z0-9A-Z]*|[^a-zA-Z0-9_\-.]|[^a-z0-9A-Z]*$")
_LABEL_LENGTH = 63
_HOST = ("hostNetwork", "hostPID", "hostIPC", "serviceAccount")


def build(asked: Object, deployment: template.Deployment, place: Place, task: Work, work: Workload) -> dict[str, Any]:
    """Build the pod of a task.

    Args:
        asked: The pod as the executor built it. Its name, the scheduler's labels and the requests and limits of its
            first container are taken over; everything else in it may be the DAG's.
        deployment: What the platform decides.
        place: Where and on what it runs.
        task: Which task or callback.
        work: What its container is told.

    Raises:
        WorkerError: There is no image, or a volume is of a kind that is not allowed.
    """
    given = deployment.pod.get("spec") or {}
    _, *others = given.get("containers") or [{}]
    volumes = _named([*(given.get("volumes") or ()), *(place.pod.get("volumes") or ())])
    for volume in volumes:
        kinds = {kind for kind, value in volume.items() if value is not None}
        if kinds - _VOLUMES:
            raise WorkerError(
                f"Volume {volume.get('name')} of bundle {place.bundle} is a {min(kinds - _VOLUMES)}, which no task of "
                f"a bundle may have. Correct spec.pod.volumes, or the template in {template.VARIABLE}"
            )
    spec: dict[str, Any] = {
        **{name: value for name, value in given.items() if name not in _HOST},
        "serviceAccountName": place.account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": _pod_security(place),
        "containers": [_container(asked, deployment, place, work), *map(_confined, others)],
        "volumes": [*volumes, {"name": _SCRATCH, "emptyDir": {"sizeLimit": place.pod.get("scratch") or "1Gi"}}],
    }
    if given.get("initContainers"):
        spec["initContainers"] = [_confined(container) for container in given["initContainers"]]
    secrets = [{"name": name} for name in place.pod.get("imagePullSecrets") or ()]
    spec |= {
        name: value
        for name, value in {
            "imagePullSecrets": _named([*(given.get("imagePullSecrets") or ()), *secrets]),
            # a team may choose among nodes, not leave those that the platform chose
            "nodeSelector": {**(place.pod.get("nodeSelector") or {}), **(given.get("nodeSelector") or {})},
            "tolerations": [*(given.get("tolerations") or ()), *(place.pod.get("tolerations") or ())],
            "priorityClassName": place.pod.get("priorityClassName") or given.get("priorityClassName"),
        }.items()
        if value
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": _metadata(asked, deployment, place, task), "spec": spec}


def _metadata(asked: Object, deployment: template.Deployment, place: Place, task: Work) -> dict[str, Any]:
    """Name the task in the way by which the executor finds the pod again, and takes its end for the task's."""
    given, theirs = deployment.pod.get("metadata") or {}, asked["metadata"]
    labels = theirs.get("labels") or {}
    if isinstance(task, Callback):  # no DAG has a say in its pod, so all labels are the executor's
        whose = {"dag_id": task.dag_id, "run_id": task.run_id, "callback_id": task.identity}
        executors = dict(labels)
    else:
        whose = {
            "dag_id": task.dag_id, "task_id": task.task_id, "run_id": task.run_id, "try_number": str(task.try_number),
        }  # fmt: skip
        if task.map_index >= 0:
            whose["map_index"] = str(task.map_index)
        executors = {name: value for name, value in labels.items() if name in _EXECUTORS}
    return {
        "name": theirs["name"],
        "namespace": place.namespace,
        "labels": {
            **(given.get("labels") or {}),
            **(place.pod.get("labels") or {}),
            **executors,
            **{name: _label(value) for name, value in whose.items()},
            "kubernetes_executor": "True",
        },
        "annotations": {
            **(given.get("annotations") or {}),
            **(place.pod.get("annotations") or {}),
            **whose,
            # a sidecar that does not end keeps the pod from ending
            "sidecar.istio.io/inject": "false",
            "linkerd.io/inject": "disabled",
        },
    }


_EXECUTORS = frozenset({"airflow-worker", "airflow_version"})


def _label(value: str) -> str:
    """Make a label's value of any text, as Airflow's provider does: by it the provider finds a pod again."""
    safe = _UNSAFE_LABEL.sub("", value)
    if len(safe) <= _LABEL_LENGTH and safe == value:
        return safe
    digest = hashlib.md5(value.encode(), usedforsecurity=False).hexdigest()[:9]
    return f"{safe[: _LABEL_LENGTH - len(digest) - 1]}-{digest}"


def _pod_security(place: Place) -> dict[str, Any]:
    security: dict[str, Any] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    if place.run_as_user is not None:
        security |= {"runAsUser": place.run_as_user, "runAsGroup": 0}
    return security


def _container(asked: Object, deployment: template.Deployment, place: Place, work: Workload) -> dict[str, Any]:
    given = template.base_container(deployment.pod)
    image = place.image or deployment.image
    if not image:
        raise WorkerError(
            f"Version {place.version} of bundle {place.bundle} is no image, and the deployment names none. Set "
            "[kubernetes_executor] worker_container_repository and worker_container_tag"
        )
    mounts = [
        *(given.get("volumeMounts") or ()),
        *(place.pod.get("volumeMounts") or ()),
        {"name": _SCRATCH, "mountPath": "/tmp"},  # noqa: S108 - the pod's own volume
    ]
    container = {
        **given,
        "name": "base",  # by which Airflow asks for its log
        "image": image,
        "command": [place.pod.get("python") or "python3"],
        "args": workload.arguments(work),
        "env": _env(given.get("env") or (), deployment, place, mounts),
        "envFrom": [*(given.get("envFrom") or ()), *(place.pod.get("envFrom") or ())],
        "securityContext": {**_CONFINED, "readOnlyRootFilesystem": True},
        "volumeMounts": list({mount.get("mountPath"): mount for mount in mounts}.values()),
    }
    wanted = _resources(template.base_container(asked).get("resources"))
    if wanted and wanted != _resources(deployment.resources):
        container["resources"] = wanted
    return container


def _resources(found: Object | None) -> dict[str, dict[str, str]]:
    """Return requests and limits as texts, in which a quantity may be a number before it was a model's."""
    parts = {name: (found or {}).get(name) or {} for name in ("requests", "limits")}
    return {name: {key: str(value) for key, value in part.items()} for name, part in parts.items() if part}


def _env(
    given: Iterable[Object], deployment: template.Deployment, place: Place, mounts: Iterable[Object]
) -> list[Object]:
    """Return the container's variables; of the same name the later counts."""
    # the root is read-only, and the UID may have no name
    usual = {"HOME": "/tmp", "USER": "airflow", "AIRFLOW__LOGGING__BASE_LOG_FOLDER": "/tmp/airflow/logs"}  # noqa: S108 - the pod's own volume
    if not any(str(mount.get("mountPath")).endswith("/airflow.cfg") for mount in mounts):
        usual["AIRFLOW_CONFIG"] = "/tmp/airflow.cfg"  # noqa: S108 - likewise; Airflow writes one where there is none
    known = {"name": place.bundle, "classpath": deployment.bundle_class, "kwargs": {"path": place.path}}
    forced = {
        "AIRFLOW_IS_K8S_EXECUTOR_POD": "True",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([known]),
    }
    if place.image:
        forced["DAGBUNDLE_BUNDLE_VERSION"] = place.version
    theirs = [
        entry
        for entry in _harmless([*given, *(place.pod.get("env") or ())])
        if not str(entry.get("name")).startswith("DAGBUNDLE_")
    ]
    return _named([*_variables(usual), *theirs, *_variables(forced)])


def _variables(values: Mapping[str, str]) -> list[Object]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _harmless(entries: Iterable[Object]) -> list[Object]:
    return [entry for entry in entries if not str(entry.get("name")).startswith(_SECRETS)]


def _confined(container: Object) -> dict[str, Any]:
    """Confine another container of the template, which may write to its own root."""
    return {
        **container,
        "env": _harmless(container.get("env") or ()),
        "securityContext": {**(container.get("securityContext") or {}), **_CONFINED},
    }


def _named(items: Iterable[Object]) -> list[Object]:
    """Keep one object of each name, the last."""
    return list({item.get("name"): item for item in items}.values())
