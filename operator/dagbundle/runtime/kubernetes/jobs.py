"""Builds the Job that parses one subdir: a pure function from what is wanted to a manifest.

The tenant's image is run untouched: an init container copies the parser in. The pod meets Pod Security "restricted",
holds no token but one for our server, and can write to /tmp only. Everything has requests and limits, because
quotas and LimitRanges ask for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dagbundle.resources import base
from dagbundle.resources import bundle as bundle_models
from dagbundle.rollout import plan

Manifest = dict[str, Any]

GROUP = "dagbundle.dev"
BUNDLE_LABEL = f"{GROUP}/bundle"
ROLLOUT_LABEL = f"{GROUP}/rollout"
MANAGED_LABEL = "app.kubernetes.io/managed-by"
MANAGED = "dagbundle"
SUBDIR_ANNOTATION = f"{GROUP}/subdir"
RUN_ANNOTATION = f"{GROUP}/run"
"""Nobody can know a run's id before its Job is there, so a Job that bears it is ours."""
SELECTOR = f"{MANAGED_LABEL}={MANAGED}"
"""Selects every Job and pod of ours."""
CONTAINER = "parser"
TOKEN_AUDIENCE = "dagbundle"  # noqa: S105 - a name, no secret
_PARSER_FOLDER = "/dagbundle"
_TOKEN_FOLDER = "/var/run/secrets/dagbundle"  # noqa: S105 - a path
_TOKEN_SECONDS = 3600
_RETRIES = 2
"""Pods of one Job that may fail before the Job does; evictions do not count."""
_KEPT_SECONDS = 3600
"""How long a finished Job stays, for whoever wants to read its log."""
_HOPELESS = (2, 4)
"""The parser's exit codes after which another pod would end the same (docs/parser.md)."""
_RESTRICTED: Mapping[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
_COPY = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "500m", "memory": "64Mi"}}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the platform decides about parser pods.

    Attributes:
        server_url: Where parsers report, `https://…`.
        server_ca: The certificate authority of that server, PEM.
        parser_image: The image that holds the parser.
        parser_pull_secret: Name of a Secret of the tenant's namespace that pulls it; empty for none.
    """

    server_url: str
    server_ca: str
    parser_image: str
    parser_pull_secret: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """One Job to be made.

    Attributes:
        bundle: The resource.
        bundle_uid: Its UID, which owns the Job.
        run: What to parse.
        run_id: The run's opaque id, by which the parser asks for its work.
        rollout_id: The rollout that it belongs to.
        image: The tenant's image, perhaps pinned to a digest.
        ahead: Nothing is remembered of the subdir, so the parser may import Airflow before it asks.
    """

    bundle: bundle_models.DagBundle
    bundle_uid: str
    run: plan.RunPlan
    run_id: str
    rollout_id: str
    image: str
    ahead: bool = False


def account_of(run: plan.RunPlan) -> str:
    """Return the ServiceAccount that a run acts as."""
    return run.service_account_name or "default"


def name_of(bundle: str, rollout_id: str, subdir: str) -> str:
    """Return the Job's name, the same for the same rollout and subdir: at most 63 characters, a DNS label."""
    digest = hashlib.sha256(f"{rollout_id}\0{subdir}".encode()).hexdigest()[:10]
    return f"{bundle[:50].rstrip('-')}-{digest}"


def build(order: Order, settings: Settings) -> Manifest:
    """Build the Job's manifest."""
    spec, metadata = order.bundle.spec, order.bundle.metadata
    labels = {
        **spec.pod.labels,
        MANAGED_LABEL: MANAGED,
        BUNDLE_LABEL: metadata.name,
        ROLLOUT_LABEL: order.rollout_id,
    }
    job: Manifest = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name_of(metadata.name, order.rollout_id, order.run.subdir),
            "namespace": metadata.namespace,
            "labels": labels,
            "annotations": {SUBDIR_ANNOTATION: order.run.subdir, RUN_ANNOTATION: order.run_id},
            "ownerReferences": [
                {
                    "apiVersion": f"{bundle_models.API_GROUP}/{bundle_models.API_VERSION}",
                    "kind": bundle_models.KIND,
                    "name": metadata.name,
                    "uid": order.bundle_uid,
                    "controller": True,
                    "blockOwnerDeletion": False,  # else the account needs rights on the owner's finalizers
                }
            ],
        },
        "spec": {
            "backoffLimit": _RETRIES,
            "activeDeadlineSeconds": max(1, base.seconds(spec.timeout)),
            "ttlSecondsAfterFinished": _KEPT_SECONDS,
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": list(_HOPELESS)},
                    },
                ]
            },
            "template": {
                "metadata": {"labels": labels, "annotations": _pod_annotations(order)},
                "spec": _pod(order, settings),
            },
        },
    }
    if order.run.shards > 1:
        job["spec"] |= {
            "completionMode": "Indexed",
            "completions": order.run.shards,
            "parallelism": order.run.shards,
        }
    return job


def _pod_annotations(order: Order) -> dict[str, str]:
    return {
        **order.bundle.spec.pod.annotations,
        SUBDIR_ANNOTATION: order.run.subdir,
        # a sidecar that does not end keeps the Job from ending
        "sidecar.istio.io/inject": "false",
        "linkerd.io/inject": "disabled",
    }


def _pod(order: Order, settings: Settings) -> Manifest:
    wanted = order.bundle.spec.pod
    security: Manifest = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    if order.run.run_as_user is not None:
        # group 0, as images that run under any UID have their files
        security |= {"runAsUser": order.run.run_as_user, "runAsGroup": 0}
    secrets = [*wanted.image_pull_secrets, *([settings.parser_pull_secret] if settings.parser_pull_secret else [])]
    pod: Manifest = {
        "serviceAccountName": account_of(order.run),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": security,
        "initContainers": [
            {
                "name": "copy-parser",
                "image": settings.parser_image,
                "command": ["cp", "/opt/dagbundle/parser.pyz", f"{_PARSER_FOLDER}/parser.pyz"],
                "securityContext": dict(_RESTRICTED),
                "resources": _COPY,
                "volumeMounts": [{"name": "dagbundle-parser", "mountPath": _PARSER_FOLDER}],
            }
        ],
        "containers": [_container(order, settings)],
        "volumes": [
            *wanted.volumes,
            {"name": "dagbundle-parser", "emptyDir": {"sizeLimit": "16Mi"}},
            {"name": "dagbundle-tmp", "emptyDir": {"sizeLimit": wanted.scratch}},
            {
                "name": "dagbundle-token",
                "projected": {
                    "sources": [
                        {
                            "serviceAccountToken": {
                                "audience": TOKEN_AUDIENCE,
                                "expirationSeconds": _TOKEN_SECONDS,
                                "path": "token",
                            }
                        }
                    ]
                },
            },
        ],
    }
    if secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in dict.fromkeys(secrets)]
    if wanted.node_selector:
        pod["nodeSelector"] = dict(wanted.node_selector)
    if wanted.tolerations:
        pod["tolerations"] = list(wanted.tolerations)
    if wanted.priority_class_name:
        pod["priorityClassName"] = wanted.priority_class_name
    return pod


def _container(order: Order, settings: Settings) -> Manifest:
    wanted = order.bundle.spec.pod
    ours = {
        "DAGBUNDLE_SERVER_URL": settings.server_url,
        "DAGBUNDLE_SERVER_CA": settings.server_ca,
        "DAGBUNDLE_RUN": order.run_id,
        "DAGBUNDLE_TOKEN_FILE": f"{_TOKEN_FOLDER}/token",
        "DAGBUNDLE_SCRATCH": "/tmp",  # noqa: S108 - the pod's own volume
        **({"DAGBUNDLE_AHEAD": "1"} if order.ahead else {}),
    }
    # the root is read-only: what Airflow writes while it is imported goes to the scratch volume
    usual = {"HOME": "/tmp", "AIRFLOW__LOGGING__BASE_LOG_FOLDER": "/tmp/airflow/logs"}  # noqa: S108 - likewise
    theirs = [entry for entry in wanted.env if not str(entry.get("name", "")).startswith("DAGBUNDLE_")]
    named = {entry.get("name") for entry in theirs}
    return {
        "name": CONTAINER,
        "image": order.image,
        "command": [wanted.python, f"{_PARSER_FOLDER}/parser.pyz", "work"],
        "workingDir": "/tmp",  # noqa: S108 - likewise
        "env": [
            *({"name": name, "value": value} for name, value in usual.items() if name not in named),
            *theirs,
            *({"name": name, "value": value} for name, value in ours.items()),
        ],
        **({"envFrom": list(wanted.env_from)} if wanted.env_from else {}),
        "securityContext": dict(_RESTRICTED),
        "resources": {"requests": dict(wanted.resources.requests), "limits": dict(wanted.resources.limits)},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            *wanted.volume_mounts,
            {"name": "dagbundle-parser", "mountPath": _PARSER_FOLDER, "readOnly": True},
            {"name": "dagbundle-token", "mountPath": _TOKEN_FOLDER, "readOnly": True},
            {"name": "dagbundle-tmp", "mountPath": "/tmp"},  # noqa: S108 - likewise
        ],
    }
