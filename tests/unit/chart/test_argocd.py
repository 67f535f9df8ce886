"""Argo CD's health check, run by its own dialect of Lua over DagBundles that a real API server had."""

import pathlib
from typing import Any

import lupa.lua51 as lua
import pydantic
import pytest
import yaml

from dagbundle.resources import bundle, status

ROOT = pathlib.Path(__file__).resolve().parents[3]
KEY = "resource.customizations.health.dagbundle.dev_DagBundle"
CHECK: str = yaml.safe_load((ROOT / "examples" / "gitops" / "argocd" / "argocd-cm.yaml").read_text())["data"][KEY]
RECORDED: dict[str, Any] = yaml.safe_load((pathlib.Path(__file__).parent / "recorded.yaml").read_text())
EXPECTED = {
    "applied": ("Progressing", "Waiting for dagbundle-operator"),
    "guarded": ("Progressing", "Waiting for dagbundle-operator"),
    "parsing": ("Progressing", "Parsing: waiting for 2 of the rollout's runs: ingest, reporting"),
    "queued": ("Progressing", "Queued: the platform's limit of 1 parser pods is reached"),
    "image cannot be pulled": ("Progressing", "ImagePullBackOff: subdir ingest: ImagePullBackOff: Back-off pulling"),
    "published": ("Healthy", "version sha256:aaaaaaaaaaaa is published"),
    "published and changed since": ("Progressing", "Waiting for dagbundle-operator"),
    "published and parsing the next version": ("Progressing", "Parsing: waiting for 2 of the rollout's runs"),
    "kept last good": ("Degraded", "KeptLastGood: 1 broken file: ingest/dags.py; 2 DAGs kept"),
    "suspended": ("Suspended", "spec.suspend is true"),
    "suspended and not yet seen": ("Suspended", "spec.suspend is true"),
    "held after a rollback": (
        "Degraded",
        "Held: revision 2 (version registry.test/sales:2) was rolled back and is held: orders",
    ),
    "run failed and tried again": ("Progressing", "RunFailed: the run of subdir ingest did not finish"),
    "blocked by a broken file": ("Degraded", "ImportErrors: 1 broken file and onImportError is Fail: ingest/dags.py"),
    "blocked by removed dags": ("Degraded", "TooManyRemovedDags: 1 DAG would go, more than maxRemovedDags 0: b"),
    "invalid spec": ("Degraded", "InvalidSpec: DagBundle team-a/sales is not valid:"),
    "namespace not enabled": ("Degraded", "NamespaceNotEnabled: DagBundle team-a/sales: namespace 'team-a'"),
    "access denied": ("Degraded", "AccessDenied: ServiceAccount team-a/nobody may not create Jobs"),
    "job conflict": ("Degraded", "JobConflict: Job team-a/sales-0123456789 is there already and is not ours"),
    "workload not found": ("Degraded", "WorkloadNotFound: there is no Deployment airflow in this namespace"),
    "being deleted": ("Progressing", "Being deleted"),
}
"""What Argo CD must show of each, and how its message begins."""


def health(resource: dict[str, Any]) -> tuple[str, str]:
    runtime = lua.LuaRuntime(unpack_returned_tuples=True)
    runtime.globals().obj = runtime.table_from(resource, recursive=True)
    answer = runtime.execute(CHECK)
    return answer.status, answer.message


@pytest.mark.parametrize("name", RECORDED)
def test_a_bundle_is_as_healthy_as_it_says(name: str) -> None:
    found, message = health(RECORDED[name])
    expected, beginning = EXPECTED[name]
    assert (found, message[: len(beginning)]) == (expected, beginning)


def test_a_bundle_that_nobody_has_written_a_status_of_is_waited_for() -> None:
    resource = {name: value for name, value in RECORDED["applied"].items() if name != "status"}
    assert health(resource) == EXPECTED["applied"]


def test_every_state_that_is_expected_is_recorded() -> None:
    assert list(RECORDED) == list(EXPECTED)


@pytest.mark.parametrize("name", RECORDED)
def test_the_models_take_what_an_api_server_had(name: str) -> None:
    resource = RECORDED[name]
    status.Status.model_validate(resource["status"])
    if name == "invalid spec":
        with pytest.raises(pydantic.ValidationError):
            bundle.DagBundle.model_validate(resource)
    else:
        bundle.DagBundle.model_validate(resource)
