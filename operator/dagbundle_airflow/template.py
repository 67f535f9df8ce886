"""Reads what the deployment gives to every pod: its pod template, as it was before a DAG's executor_config."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from dagbundle_airflow.errors import WorkerError

VARIABLE = "DAGBUNDLE_WORKER_TEMPLATE"
"""Names a pod template for the tasks of our bundles. Default: the KubernetesExecutor's."""
_SECTION = "kubernetes_executor"


@dataclasses.dataclass(frozen=True)
class Deployment:
    """What the platform decides about worker pods.

    Attributes:
        pod: The template of our bundles' pods, as JSON.
        resources: Of the executor's own template: what a task has when its DAG asks for nothing.
        image: The workers' image; empty where there is none.
        bundle_class: Import path of the class by which a worker finds its bundle.
    """

    pod: Mapping[str, Any]
    resources: Mapping[str, Any] | None = None
    image: str = ""
    bundle_class: str = "dagbundle_airflow.bundle.ImageDagBundle"


def read() -> Deployment:
    """Read the deployment's settings and templates.

    Raises:
        WorkerError: A template is not there, or no pod.
    """
    from airflow.configuration import conf  # noqa: PLC0415 - Airflow is not ready when it imports the hook

    executors = conf.get(_SECTION, "pod_template_file", fallback="")
    stock = _pod(executors, f"[{_SECTION}] pod_template_file")
    ours = os.environ.get(VARIABLE, "")
    repository = conf.get(_SECTION, "worker_container_repository", fallback="")
    tag = conf.get(_SECTION, "worker_container_tag", fallback="")
    pod = _pod(ours, VARIABLE) if ours else stock
    return Deployment(
        pod=pod,
        resources=base_container(stock).get("resources"),
        image=f"{repository}:{tag}" if repository and tag else base_container(pod).get("image") or "",
        bundle_class=os.environ.get("DAGBUNDLE_WORKER_BUNDLE_CLASS") or Deployment.bundle_class,
    )


def base_container(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the container that tasks run in, which the executor takes to be the first."""
    containers = (pod.get("spec") or {}).get("containers") or [{}]
    found: Mapping[str, Any] = containers[0]
    return found


def _pod(path: str, setting: str) -> Mapping[str, Any]:
    import yaml  # noqa: PLC0415 - Airflow brings it

    if not path:
        return {}
    try:
        found = yaml.safe_load(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise WorkerError(f"{setting} is {path}, which cannot be read as YAML: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("spec"), dict):
        raise WorkerError(f"{setting} is {path}, which is no pod")
    return found
