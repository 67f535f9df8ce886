"""The controller's settings, from its environment: what the chart decides and no tenant can."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from dagbundle import errors
from dagbundle.resources import base, repeats
from dagbundle.resources import grants as grant_models
from dagbundle.runtime.kubernetes import jobs


@dataclass(frozen=True, slots=True)
class Settings:
    """What a controller is started with.

    Attributes:
        database_url: The store, PostgreSQL; through a pooler or not.
        jobs: What the platform decides about parser pods.
        grants: Who may publish what; namespaces that are not listed may publish nothing.
        cluster: The cluster's name in bundles' identities; empty where one store has one cluster.
        namespace: Where the operator runs and keeps its Lease.
        identity: This replica's name.
        lease: The Lease's name.
        health_port: Where /healthz answers.
        metrics_port: Where /metrics answers.
        workers: How many bundles are reconciled at a time.
        keep_revisions: How many revisions of each bundle stay restorable, the live one included.
        max_pods: How many parser pods may be there at a time.
        target: Where else is published (`airflow`); empty where nowhere.
        listen_url: The same database past any pooler, to hear notifications; empty where `database_url` has none.
    """

    database_url: str
    jobs: jobs.Settings
    grants: grant_models.Grants
    cluster: str = ""
    namespace: str = "default"
    identity: str = "dagbundle"
    lease: str = "dagbundle-controller"
    health_port: int = 8080
    metrics_port: int = 9090
    workers: int = 8
    keep_revisions: int = 10
    max_pods: int = 200
    target: str = ""
    listen_url: str = ""


def read(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings.

    Raises:
        UsageError: One is missing or is not what it must be; the message names the variable.
    """
    ca_file = environ.get("DAGBUNDLE_SERVER_CA_FILE", "")
    return Settings(
        database_url=_needed(environ, "DAGBUNDLE_DATABASE_URL"),
        jobs=jobs.Settings(
            server_url=_needed(environ, "DAGBUNDLE_SERVER_URL"),
            server_ca=_text(ca_file, "DAGBUNDLE_SERVER_CA_FILE") if ca_file else "",
            parser_image=_needed(environ, "DAGBUNDLE_PARSER_IMAGE"),
            parser_pull_secret=environ.get("DAGBUNDLE_PARSER_PULL_SECRET", ""),
        ),
        grants=_grants(_needed(environ, "DAGBUNDLE_GRANTS_FILE")),
        cluster=environ.get("DAGBUNDLE_CLUSTER_NAME", ""),
        namespace=environ.get("DAGBUNDLE_NAMESPACE", "default"),
        identity=environ.get("DAGBUNDLE_POD_NAME", f"dagbundle-{os.getpid()}"),
        lease=environ.get("DAGBUNDLE_LEASE_NAME", "dagbundle-controller"),
        health_port=_number(environ, "DAGBUNDLE_HEALTH_PORT", 8080),
        metrics_port=_number(environ, "DAGBUNDLE_METRICS_PORT", 9090),
        workers=_number(environ, "DAGBUNDLE_WORKERS", 8),
        keep_revisions=_number(environ, "DAGBUNDLE_KEEP_REVISIONS", 10),
        max_pods=_number(environ, "DAGBUNDLE_MAX_PARALLEL_PODS", 200),
        target=environ.get("DAGBUNDLE_TARGET", ""),
        listen_url=environ.get("DAGBUNDLE_LISTEN_URL", ""),
    )


def _needed(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "")
    if not value:
        raise errors.UsageError(f"{name} is not set", hint="the chart sets it; docs/operations.md lists all")
    return value


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    value = environ.get(name, "")
    if not value:
        return default
    if not value.isdecimal() or int(value) < 1:
        raise errors.UsageError(f"{name}={value!r} is no number of at least 1")
    return int(value)


def _text(path: str, name: str) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise errors.UsageError(f"{name}={path} cannot be read: {error}") from error


def _grants(path: str) -> grant_models.Grants:
    text, keys = _text(path, "DAGBUNDLE_GRANTS_FILE"), repeats.Repeats()
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if (key := keys.look(event)) is not None:
                line = event.start_mark.line + 1 if event.start_mark else 0
                raise errors.UsageError(
                    f"DAGBUNDLE_GRANTS_FILE={path}: the key {key!r} in line {line} is in its mapping already",
                    hint="keep one of the two",
                )
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise errors.UsageError(f"DAGBUNDLE_GRANTS_FILE={path} is no YAML: {error}") from error
    return base.validate(grant_models.Grants, document, what=f"grants in {path}")
