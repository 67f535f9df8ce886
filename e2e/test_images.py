"""The images that the stories build hold what the operator's contract and tenants' images promise."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from typing import Any

import pytest

from e2e import dags
from e2e.cluster import Kubectl
from e2e.images import DAGS
from e2e.tenants import RESTRICTED

Namespaces = Callable[..., Kubectl]
Tenants = Callable[..., str]

REQUEST = {"protocol": 1, "run": "1", "attempt": "1", "bundle": "team.sales", "root": DAGS}
CONFINED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def pod(image: str, *command: str, parser: str = "") -> dict[str, Any]:
    """Return a pod that Pod Security "restricted" admits; with a parser's image, one that has the parser copied in."""
    volumes: list[dict[str, Any]] = [{"name": name, "emptyDir": {}} for name in ("parser", "tmp")]
    mounts = [{"name": "parser", "mountPath": "/dagbundle"}, {"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - the pod's own volume
    main = {"name": "main", "image": image, "command": command, "securityContext": CONFINED, "volumeMounts": mounts}
    copy = {
        **main,
        "name": "copy",
        "image": parser,
        "command": ["cp", "/opt/dagbundle/parser.pyz", "/dagbundle/parser.pyz"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "work"},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "initContainers": [copy] if parser else [],
            "containers": [main],
            "volumes": volumes,
        },
    }


def output(team: Kubectl, manifest: dict[str, Any], *, phase: str = "Succeeded") -> str:
    team.create(manifest)
    team.wait("pod/work", f"jsonpath={{.status.phase}}={phase}")
    return team.text("logs", "pod/work", "--container=main")


def report(team: Kubectl, image: str, operator_image: str) -> list[Any]:
    script = f"printf %s '{json.dumps(REQUEST)}' > /tmp/r && exec python3 /dagbundle/parser.pyz run /tmp/r 2>/dev/null"
    lines = output(team, pod(image, "sh", "-c", script, parser=operator_image)).splitlines()
    records = [json.loads(line) for line in lines]
    return [record for record in records if record["type"] != "begin"]  # they say only which files are under way


@pytest.fixture
def team(namespace: Namespaces) -> Kubectl:
    return namespace("images", labels=RESTRICTED)


def test_the_operators_image_has_its_command_and_runs_as_its_own_user(team: Kubectl, operator_image: str) -> None:
    said = output(team, pod(operator_image, "sh", "-c", "id -u; dagbundle --version"))
    assert said.splitlines() == ["65532", importlib.metadata.version("dagbundle-operator")]


def test_the_parser_in_the_operators_image_parses_dags_of_a_tenants_image(
    team: Kubectl, operator_image: str, tenant_image: Tenants
) -> None:
    image = tenant_image({"ingest/orders.py": dags.dag("orders", "fetch", "store")})
    first, file, last = report(team, image, operator_image)
    assert first["airflow"].startswith("3.3.")
    assert [dag["dag_id"] for dag in file["dags"]] == ["orders"]
    assert last["counts"] == {"files": 1, "dags": 1, "errors": 0}


def test_a_broken_file_in_an_image_is_an_error_of_that_file_alone(
    team: Kubectl, operator_image: str, tenant_image: Tenants
) -> None:
    image = tenant_image({"a.py": dags.dag("good"), "b.py": dags.broken("bad")})
    *files, _ = report(team, image, operator_image)[1:]
    errors = {file["path"]: [error["kind"] for error in file["errors"]] for file in files}
    assert errors == {"a.py": [], "b.py": ["ImportError"]}


def test_a_parser_in_an_image_without_airflow_says_that_it_is_missing(
    team: Kubectl, operator_image: str, tenant_image: Tenants
) -> None:
    image = tenant_image({"a.py": dags.dag("good")}, airflow=False)
    assert report(team, image, operator_image)[-1]["kind"] == "AirflowNotInstalled"
