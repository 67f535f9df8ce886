"""A task's pod: what the platform's template, the team's spec and the task itself each decide."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagbundle_airflow import lookup, pods, template, workload
from dagbundle_airflow.errors import WorkerError

DIGEST = f"sha256:{'1' * 64}"
TASK = workload.Task("sales", "load", "manual__2026-01-01T00:00:00+00:00", 2, -1, "team-sales.sales", DIGEST)
WORK = workload.Workload("{}", "token", "id", TASK)
ASKED = {
    "metadata": {"name": "sales-load-x7", "labels": {"airflow-worker": "7", "mine": "yes"}},
    "spec": {"containers": [{}]},
}


def place(**pod: Any) -> lookup.Place:
    return lookup.Place("team-sales.sales", "team-sales", "ingest", None, DIGEST, f"r/dags@{DIGEST}", "/dags", pod)


def test_a_task_runs_where_the_golden_document_of_its_rollout_tells() -> None:
    golden = json.loads((pathlib.Path(__file__).parents[2] / "golden" / "rollout.v1.json").read_text())

    found = lookup.place_in(golden, "ingest", "team-sales", TASK)

    assert (found.account, found.run_as_user, found.path) == ("ingest", 50010, "/opt/dags")
    assert found.image == f"registry.example/sales@{DIGEST}"


def build(
    given: dict[str, Any] | None = None, where: lookup.Place | None = None, task: workload.Task = TASK, **base: Any
) -> Any:
    platform = {"spec": {"containers": [base], **(given or {})}}
    return pods.build(ASKED, template.Deployment(platform), where or place(), task, WORK)


def env(pod: Any) -> dict[str, Any]:
    return {item["name"]: item.get("value") for item in pod["spec"]["containers"][0]["env"]}


def test_without_a_template_the_pod_is_the_parsers_own_confinement() -> None:
    pod = pods.build(ASKED, template.Deployment({}), place(), TASK, WORK)
    assert pod["spec"]["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"] == {
        "privileged": False, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert container["volumeMounts"] == [{"name": "dagbundle-tmp", "mountPath": "/tmp"}]


def test_the_images_interpreter_is_the_one_that_parsed() -> None:
    (container,) = build(where=place(python="/opt/venv/bin/python"))["spec"]["containers"]
    assert container["command"] == ["/opt/venv/bin/python"]
    assert container["args"] == ["-m", "airflow.sdk.execution_time.execute_workload", "--json-string", "{}"]


def test_the_worker_knows_its_one_bundle_and_version() -> None:
    found = env(build(where=place(env=[{"name": "DAGBUNDLE_BUNDLE_VERSION", "value": "other"}])))
    assert json.loads(found["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"]) == [
        {
            "name": "team-sales.sales",
            "classpath": "dagbundle_airflow.bundle.ImageDagBundle",
            "kwargs": {"path": "/dags"},
        }
    ]
    assert found["DAGBUNDLE_BUNDLE_VERSION"] == DIGEST


def test_the_teams_variables_come_after_the_platforms_and_before_ours() -> None:
    forced = {"name": "AIRFLOW_IS_K8S_EXECUTOR_POD", "value": "False"}
    theirs = place(env=[{"name": "HOME", "value": "/team"}, {"name": "A", "value": "team"}, forced])
    found = env(build(where=theirs, env=[{"name": "A", "value": "platform"}, {"name": "USER", "value": "platform"}]))
    assert (found["HOME"], found["A"], found["USER"]) == ("/team", "team", "platform")
    assert found["AIRFLOW_IS_K8S_EXECUTOR_POD"] == "True"


def test_airflow_writes_its_configuration_to_tmp_unless_one_is_mounted() -> None:
    assert env(build())["AIRFLOW_CONFIG"] == "/tmp/airflow.cfg"
    mounted = build(volumeMounts=[{"name": "config", "mountPath": "/opt/airflow/airflow.cfg"}])
    assert "AIRFLOW_CONFIG" not in env(mounted)


def test_the_templates_other_containers_stay_confined_and_without_the_deployments_secrets() -> None:
    loud = {
        "name": "x", "securityContext": {"privileged": True, "runAsUser": 100},
        "env": [{"name": "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "value": "secret"}, {"name": "A", "value": "1"}],
    }  # fmt: skip
    spec = build({"initContainers": [loud], "containers": [{}, loud]})["spec"]
    for container in (*spec["initContainers"], spec["containers"][1]):
        assert container["env"] == [{"name": "A", "value": "1"}]
        assert container["securityContext"] == {
            "privileged": False, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsUser": 100,
        }  # fmt: skip


def test_a_template_cannot_share_the_nodes_namespaces() -> None:
    spec = build({"hostNetwork": True, "hostPID": True, "hostIPC": True, "serviceAccount": "airflow"})["spec"]
    assert spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "serviceAccount"} == set()


def test_a_team_chooses_among_the_nodes_that_the_platform_left_it() -> None:
    theirs = place(
        nodeSelector={"pool": "control", "disk": "ssd"}, tolerations=[{"key": "b"}], imagePullSecrets=["mine"],
        priorityClassName="low",
    )  # fmt: skip
    spec = build(
        {"nodeSelector": {"pool": "teams"}, "tolerations": [{"key": "a"}], "imagePullSecrets": [{"name": "all"}]},
        theirs,
    )["spec"]
    assert spec["nodeSelector"] == {"pool": "teams", "disk": "ssd"}
    assert spec["tolerations"] == [{"key": "a"}, {"key": "b"}]
    assert spec["imagePullSecrets"] == [{"name": "all"}, {"name": "mine"}]
    assert spec["priorityClassName"] == "low"


@pytest.mark.parametrize("kind", ["hostPath", "nfs", "flexVolume", "iscsi"])
@pytest.mark.parametrize("side", ["team", "platform"])
def test_no_volume_that_the_standard_restricted_refuses(kind: str, side: str) -> None:
    volume = {"name": "data", kind: {"path": "/"}}
    given, theirs = ({}, place(volumes=[volume])) if side == "team" else ({"volumes": [volume]}, place())
    with pytest.raises(WorkerError, match=f"Volume data of bundle .* is a {kind}"):
        build(given, theirs)


def test_what_names_the_task_is_airflows_word_and_other_labels_of_the_pod_are_gone() -> None:
    metadata = build(where=place(labels={"dag_id": "other", "team": "sales"}))["metadata"]
    assert metadata["labels"] == {
        "team": "sales", "airflow-worker": "7", "dag_id": "sales", "task_id": "load", "try_number": "2",
        "run_id": metadata["labels"]["run_id"], "kubernetes_executor": "True",
    }  # fmt: skip
    assert metadata["annotations"]["run_id"] == TASK.run_id
    assert "map_index" not in metadata["annotations"]
    mapped = workload.Task("sales", "load", "r", 1, 3, "team-sales.sales", DIGEST)
    assert build(task=mapped)["metadata"]["labels"]["map_index"] == "3"


@given(st.text(max_size=300))
def test_every_text_with_a_letter_becomes_a_label_that_kubernetes_takes(text: str) -> None:
    label = pods._label(f"{text}x")
    assert re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?", label)
    assert len(label) <= 63


def test_a_version_without_an_image_needs_the_deployments() -> None:
    folder = lookup.Place("b", "team", "default", None, DIGEST, "", "/dags", {})
    with pytest.raises(WorkerError, match="worker_container_repository"):
        pods.build(ASKED, template.Deployment({}), folder, TASK, WORK)


def test_requests_and_limits_are_taken_over_unless_they_are_the_templates() -> None:
    asked = {**ASKED, "spec": {"containers": [{"resources": {"limits": {"cpu": "1"}, "claims": [{"name": "x"}]}}]}}
    platform = {"spec": {"containers": [{"resources": {"limits": {"cpu": 4}}}]}}

    def resources(stock: dict[str, Any]) -> Any:
        built = pods.build(asked, template.Deployment(platform, stock), place(), TASK, WORK)
        return built["spec"]["containers"][0]["resources"]

    assert resources({"limits": {"cpu": 2}}) == {"limits": {"cpu": "1"}}
    assert resources({"limits": {"cpu": 1}}) == {"limits": {"cpu": 4}}


@pytest.mark.parametrize(
    ("reference", "repository"),
    [
        ("dags", "dags"), ("dags:1", "dags"), ("registry:5000/team/dags:1.4", "registry:5000/team/dags"),
        (f"registry/dags@sha256:{'2' * 64}", "registry/dags"), (f"registry/dags:1@sha256:{'2' * 64}", "registry/dags"),
    ],
)  # fmt: skip
def test_the_digest_takes_the_place_of_tag_and_digest(reference: str, repository: str) -> None:
    assert lookup._image({"image": reference}, {}, TASK) == f"{repository}@{DIGEST}"


def test_a_version_that_is_no_digest_names_no_image() -> None:
    task = workload.Task("sales", "load", "r", 1, -1, "team-sales.sales", "1.4")
    with pytest.raises(WorkerError, match="is no digest of image"):
        lookup._image({"image": "dags:1.4"}, {}, task)


@pytest.mark.parametrize("text", ["a: [", "- a list", "kind: Pod"])
def test_a_template_that_is_no_pod_is_named_with_its_setting(tmp_path: pathlib.Path, text: str) -> None:
    path = tmp_path / "template.yaml"
    path.write_text(text)
    with pytest.raises(WorkerError, match=r"DAGBUNDLE_WORKER_TEMPLATE is .*template\.yaml"):
        template._pod(str(path), template.VARIABLE)
    with pytest.raises(WorkerError, match="cannot be read"):
        template._pod(str(tmp_path / "missing"), template.VARIABLE)
