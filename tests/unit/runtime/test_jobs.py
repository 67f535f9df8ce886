"""The Job that parses a subdir: what a tenant's spec can say, and what it cannot undo."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagbundle.resources import base, bundle
from dagbundle.rollout import plan
from dagbundle.rollout.model import BundleKey, Live
from dagbundle.runtime.kubernetes import jobs

SETTINGS = jobs.Settings("https://server.dagbundle.svc:8443", "CA", "registry.test/operator:1", "parser-pull")


def build(subdir: dict[str, Any] | None = None, *, ahead: bool = False, **spec: Any) -> dict[str, Any]:
    document = {
        "apiVersion": "dagbundle.dev/v1alpha1",
        "kind": "DagBundle",
        "metadata": {"name": "sales", "namespace": "team-a"},
        "spec": {
            "source": {"image": {"reference": "registry.test/sales:1"}},
            "subdirs": [subdir or {"path": "."}],
            **spec,
        },
    }
    resource = base.validate(bundle.DagBundle, document, what="test")
    (run,) = plan.plan(resource, version="v", live=Live(BundleKey("team-a", "sales"))).runs
    return jobs.build(jobs.Order(resource, "uid", run, "run-id", "rollout", "registry.test/sales:1", ahead), SETTINGS)


def pod(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["template"]["spec"]
    return found


def env(job: dict[str, Any]) -> dict[str, Any]:
    return {item["name"]: item.get("value") for item in pod(job)["containers"][0]["env"]}


def test_the_pod_is_restricted_in_every_container() -> None:
    spec = pod(build())
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    for container in (*spec["initContainers"], *spec["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert set(container["resources"]) == {"requests", "limits"}


def test_the_pod_has_no_token_but_ours() -> None:
    spec = pod(build())
    assert spec["automountServiceAccountToken"] is False
    (token,) = [volume["projected"] for volume in spec["volumes"] if "projected" in volume]
    assert token["sources"][0]["serviceAccountToken"]["audience"] == "dagbundle"


def test_the_tenants_image_is_run_with_the_parser_that_was_copied_in() -> None:
    (container,) = pod(build(pod={"python": "/opt/venv/bin/python"}))["containers"]
    assert container["image"] == "registry.test/sales:1"
    assert container["command"] == ["/opt/venv/bin/python", "/dagbundle/parser.pyz", "work"]


def test_a_uid_comes_with_group_0() -> None:
    context = pod(build({"path": ".", "runAsUser": 50010}))["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (50010, 0)


def test_the_subdirs_account_is_used_and_default_without_one() -> None:
    assert pod(build())["serviceAccountName"] == "default"
    assert pod(build({"path": ".", "serviceAccountName": "ingest"}))["serviceAccountName"] == "ingest"


def test_both_pull_secrets_are_named() -> None:
    assert pod(build(pod={"imagePullSecrets": ["mine"]}))["imagePullSecrets"] == [
        {"name": "mine"},
        {"name": "parser-pull"},
    ]


def test_shards_make_an_indexed_job() -> None:
    spec = build({"path": ".", "shards": 3})["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    assert "completions" not in build()["spec"]


def test_the_job_ends_by_itself() -> None:
    spec = build(timeout="2m")["spec"]
    assert spec["activeDeadlineSeconds"] == 120
    assert spec["ttlSecondsAfterFinished"] > 0


def test_only_where_nothing_is_remembered_airflow_is_imported_ahead() -> None:
    assert env(build(ahead=True))["DAGBUNDLE_AHEAD"] == "1"
    assert "DAGBUNDLE_AHEAD" not in env(build())


def test_a_tenants_variables_win_over_the_usual_ones_and_never_over_ours() -> None:
    found = env(
        build(pod={"env": [{"name": "HOME", "value": "/x"}, {"name": "DAGBUNDLE_SERVER_URL", "value": "evil"}]})
    )
    assert found["HOME"] == "/x"
    assert found["DAGBUNDLE_SERVER_URL"] == SETTINGS.server_url


def test_what_selects_nodes_and_queues_is_passed_on() -> None:
    job = build(
        pod={"nodeSelector": {"disk": "ssd"}, "tolerations": [{"operator": "Exists"}], "priorityClassName": "low",
             "labels": {"kueue.x-k8s.io/queue-name": "team"}}
    )  # fmt: skip
    spec = pod(job)
    assert (spec["nodeSelector"], spec["priorityClassName"]) == ({"disk": "ssd"}, "low")
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"


@pytest.mark.parametrize("key", ["dagbundle.dev/bundle", "x.dagbundle.dev/y"])
def test_our_own_labels_cannot_be_set(key: str) -> None:
    with pytest.raises(Exception, match="the operator's own"):
        build(pod={"labels": {key: "x"}})


def test_no_sidecar_is_injected() -> None:
    annotations = build()["spec"]["template"]["metadata"]["annotations"]
    assert (annotations["sidecar.istio.io/inject"], annotations["linkerd.io/inject"]) == ("false", "disabled")


def test_the_bundle_owns_the_job_without_blocking_its_deletion() -> None:
    (owner,) = build()["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["blockOwnerDeletion"]) == ("DagBundle", "uid", False)


def test_the_same_order_makes_the_same_manifest() -> None:
    assert json.dumps(build()) == json.dumps(build())


@given(st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True), st.text(), st.text())
def test_a_name_is_a_label_and_its_own(bundle_name: str, rollout: str, subdir: str) -> None:
    name = jobs.name_of(bundle_name, rollout, subdir)
    assert len(name) <= 63
    assert not name.startswith("-")
    assert name == jobs.name_of(bundle_name, rollout, subdir)
    assert name != jobs.name_of(bundle_name, rollout, subdir + "x")
