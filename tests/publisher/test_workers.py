"""Tasks run on the image that was parsed, in their team's place, whatever a DAG says: on real databases and pods."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from kubernetes.client import ApiClient
from kubernetes.client import models as k8s
from sqlalchemy.orm import Session

from dagbundle.engine import engine
from dagbundle.resources import base, bundle
from dagbundle.rollout import policy
from dagbundle.rollout.model import Problem
from dagbundle_airflow import hook, lookup, pods, proof
from dagbundle_airflow.errors import WorkerError
from publisher.conftest import SALES, Deployment, dag, driver, installed, staged

V1, V2 = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
IMAGE = "registry.test:5000/sales/dags"
TEMPLATE = """
metadata: {labels: {tier: airflow}}
spec:
  serviceAccountName: airflow-worker
  serviceAccount: airflow-worker
  securityContext: {runAsUser: 0, fsGroup: 0}
  containers:
    - name: base
      image: registry.test/airflow:3
      env:
        - {name: AIRFLOW__CORE__EXECUTION_API_SERVER_URL, value: "http://api.airflow:8080/execution/"}
        - {name: AIRFLOW__DATABASE__SQL_ALCHEMY_CONN, value: "postgresql://airflow:secret@db/airflow"}
        - {name: AIRFLOW__API_AUTH__JWT_SECRET, valueFrom: {secretKeyRef: {name: jwt, key: secret}}}
      resources: {requests: {cpu: 100m}}
      volumeMounts: [{name: logs, mountPath: /opt/airflow/logs}]
  volumes: [{name: logs, emptyDir: {}}]
"""
BROKEN = Problem("SyntaxError", "invalid syntax (a.py, line 1)", 1)


def resource(image: Mapping[str, Any] | None = None, **pod: Any) -> bundle.DagBundle:
    """The team's DagBundle: two subdirs with accounts of their own."""
    document = {
        "apiVersion": "dagbundle.dev/v1alpha1",
        "kind": "DagBundle",
        "metadata": {"name": "sales", "namespace": "team-sales"},
        "spec": {
            "source": image or {"image": {"reference": f"{IMAGE}:1.4", "path": "/opt/dags"}},
            "subdirs": [
                {"path": "ingest", "serviceAccountName": "ingest-parser", "runAsUser": 50010},
                {"path": "reporting"},
            ],
            "pod": {"env": [{"name": "REGION", "value": "eu"}], "volumes": [{"name": "cache", "emptyDir": {}}], **pod},
        },
    }
    return base.validate(bundle.DagBundle, document, what="test")


def publish(
    deployment: Deployment,
    version: str = V1,
    files: Mapping[str, Sequence[Any] | Problem] | None = None,
    wanted: bundle.DagBundle | None = None,
    started: Mapping[str, Any] | None = None,
) -> None:
    """Publish a version as a controller does."""
    store, files = deployment.store, files or {"ingest/a.py": [dag("a")], "reporting/b.py": [dag("b")]}
    by = {"requested_at": "", "image": f"{IMAGE}:1.4"} if started is None else started
    engine_ = engine.Engine(store)
    rollout = engine_.start(wanted or resource(), version=f"{IMAGE}:1.4 {version}", rules=policy.Policy(), **by)
    for subdir in ("ingest", "reporting"):
        mine = [staged(path, found) for path, found in files.items() if path.startswith(subdir)]
        run = store.open_run(rollout.id, subdir, attempt="1", airflow=installed().version, python="3.11")
        store.stage(run, "1", mine)
        store.close_run(run, "1", [file.outcome.path for file in mine])
    store.attach_version(rollout.id, version)
    applied = engine_.finish(rollout.id)
    assert applied.revision > applied.base_revision, applied.judgement.message


def start(deployment: Deployment, dag_id: str = "a", run_id: str = "one") -> Any:
    """Let the scheduler make a run, and return the workload of its task as it goes to the executor."""
    from airflow import settings  # noqa: PLC0415 - after AIRFLOW_HOME is set
    from airflow.executors import workloads  # noqa: PLC0415 - likewise
    from airflow.executors.base_executor import BaseExecutor  # noqa: PLC0415 - likewise
    from airflow.models.dag_version import DagVersion  # noqa: PLC0415 - likewise
    from airflow.models.serialized_dag import SerializedDagModel  # noqa: PLC0415 - likewise
    from airflow.models.taskinstance import TaskInstance  # noqa: PLC0415 - likewise
    from airflow.utils.state import DagRunState  # noqa: PLC0415 - likewise
    from airflow.utils.types import DagRunTriggeredByType, DagRunType  # noqa: PLC0415 - likewise

    if hasattr(settings, "configure_policy_plugin_manager"):  # in 3.1 only its own processes do that
        settings.configure_policy_plugin_manager()
    with Session(deployment.store.db.engine) as session:
        newest = sa.select(DagVersion.id).where(DagVersion.dag_id == dag_id).order_by(DagVersion.version_number.desc())
        serialized = session.scalars(
            sa.select(SerializedDagModel).where(SerializedDagModel.dag_version_id == session.scalars(newest).first())
        ).one()
        now = dt.datetime.now(dt.UTC)
        serialized.dag.create_dagrun(
            run_id=run_id, run_type=DagRunType.MANUAL, state=DagRunState.RUNNING, run_after=now, logical_date=now,
            data_interval=(now, now), triggered_by=DagRunTriggeredByType.TEST, session=session,
        )  # fmt: skip
        session.commit()
        ti = session.scalars(
            sa.select(TaskInstance).where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)
        ).one()
        return workloads.ExecuteTask.make(ti, generator=BaseExecutor(parallelism=1).jwt_generator)


def executor_pod(workload: Any, override: k8s.V1Pod | None = None) -> k8s.V1Pod:
    """The pod as the KubernetesExecutor hands it to the hook: by its own generator where it is installed."""
    template = from_json(yaml.safe_load(TEMPLATE))
    told = {
        "dag_id": workload.ti.dag_id, "task_id": workload.ti.task_id, "run_id": workload.ti.run_id,
        "try_number": workload.ti.try_number,
    }  # fmt: skip
    args = ["python", "-m", "airflow.sdk.execution_time.execute_workload", "--json-string", workload.model_dump_json()]
    try:
        from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator  # noqa: PLC0415 - where it is installed
    except ImportError:
        return by_hand(template, args, override, told)
    return PodGenerator.construct_pod(
        **told, pod_id="a-one-x7", kube_image="registry.test/airflow:3", date=None, args=args,
        pod_override_object=override, base_worker_pod=template, namespace="airflow", scheduler_job_id="7",
    )  # fmt: skip


def by_hand(template: k8s.V1Pod, args: list[str], override: k8s.V1Pod | None, told: Mapping[str, Any]) -> k8s.V1Pod:
    """Do what the provider's generator does: some lists grow, in everything else who comes last wins."""
    texts = {name: str(value) for name, value in told.items()}
    dynamic = {
        "metadata": {
            "name": "a-one-x7", "namespace": "airflow", "annotations": texts,
            "labels": {**texts, "kubernetes_executor": "True", "airflow_version": "3", "airflow-worker": "7"},
        },
        "spec": {
            "containers": [
                {
                    "name": "base", "image": "registry.test/airflow:3", "args": args,
                    "env": [{"name": "AIRFLOW_IS_K8S_EXECUTOR_POD", "value": "True"}],
                }
            ]
        },
    }  # fmt: skip
    merged = merge(to_json(template), dynamic)
    merged["spec"]["containers"][0]["image"] = "registry.test/airflow:3"
    return from_json(merge(merged, to_json(override)) if override else merged)


def merge(first: Any, second: Any, name: str = "") -> Any:
    if isinstance(first, dict) and isinstance(second, dict):
        both = {key: merge(first[key], second[key], key) for key in first.keys() & second.keys()}
        return {**first, **second, **both}
    if name == "containers":
        return [merge(*pair) for pair in zip(first, second, strict=False)] + second[len(first) :]
    if name in {"volumes", "initContainers", "volumeMounts", "env", "envFrom", "ports"}:
        return [*first, *second]
    return second


def to_json(pod: k8s.V1Pod) -> Any:
    return ApiClient().sanitize_for_serialization(pod)


def from_json(document: Any) -> k8s.V1Pod:
    return ApiClient()._ApiClient__deserialize_model(document, k8s.V1Pod)


@pytest.fixture
def scheduler(deployment: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Iterator[Deployment]:
    """A scheduler's process: its engine, its secret, its pod template."""
    from airflow import settings  # noqa: PLC0415 - after AIRFLOW_HOME is set

    (tmp_path / "template.yaml").write_text(TEMPLATE)
    for name, value in SCHEDULER.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE", str(tmp_path / "template.yaml"))
    proof._validator.cache_clear()
    made = sa.create_engine(driver(deployment.url))
    monkeypatch.setattr(settings, "engine", made, raising=False)
    yield deployment
    made.dispose()


SCHEDULER = {
    "AIRFLOW__API_AUTH__JWT_SECRET": "a secret that is long enough for the signature of a token of Airflow",
    "AIRFLOW__KUBERNETES_EXECUTOR__WORKER_CONTAINER_REPOSITORY": "registry.test/airflow",
    "AIRFLOW__KUBERNETES_EXECUTOR__WORKER_CONTAINER_TAG": "3",
}


def hooked(workload: Any, override: k8s.V1Pod | None = None) -> Any:
    """The pod as JSON, after the hook."""
    pod = executor_pod(workload, override)
    hook.pod_mutation_hook(pod)
    return to_json(pod)


def variables(pod: Any) -> dict[str, Any]:
    return {item["name"]: item.get("value") for item in pod["spec"]["containers"][0]["env"]}


# --- Where and on what ------------------------------------------------------------------------------------------------


def test_a_task_runs_on_the_image_that_was_parsed_and_in_its_subdirs_place(scheduler: Deployment) -> None:
    publish(scheduler)
    workload = start(scheduler)
    pod = hooked(workload)
    assert pod["metadata"]["namespace"] == "team-sales"
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    assert (container["name"], container["image"]) == ("base", f"{IMAGE}@{V1}")
    assert container["args"][-1] == workload.model_dump_json()
    assert spec["serviceAccountName"] == "ingest-parser"
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"] == {
        "runAsNonRoot": True, "runAsUser": 50010, "runAsGroup": 0, "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    assert {volume["name"] for volume in spec["volumes"]} == {"logs", "cache", "dagbundle-tmp"}
    assert variables(pod)["REGION"] == "eu"


def test_a_callback_that_an_executor_carries_out_is_placed_as_a_task_is(scheduler: Deployment) -> None:
    if installed().minor == "3.1":
        pytest.skip("in 3.1 no executor carries out callbacks")
    publish(scheduler)
    workload = missed(scheduler, start(scheduler).ti.run_id)
    pod = hooked_callback(workload)
    (container,) = pod["spec"]["containers"]
    assert (pod["metadata"]["namespace"], container["image"]) == ("team-sales", f"{IMAGE}@{V1}")
    assert pod["spec"]["serviceAccountName"] == "ingest-parser"
    assert container["args"][-1] == workload.model_dump_json()
    assert pod["metadata"]["labels"]["airflow-worker"] == "7"
    assert pod["metadata"]["annotations"]["callback_id"] == workload.callback.id


def test_a_callback_whose_token_is_anothers_is_not_started(scheduler: Deployment) -> None:
    if installed().minor == "3.1":
        pytest.skip("in 3.1 no executor carries out callbacks")
    publish(scheduler)
    task = start(scheduler)
    first, other = missed(scheduler, task.ti.run_id), missed(scheduler, task.ti.run_id)
    with pytest.raises(WorkerError, match="its token is another task's or callback's"):
        hooked_callback(first.model_copy(update={"token": other.token}))
    with pytest.raises(WorkerError, match="its token is another task's or callback's"):
        hooked_callback(first.model_copy(update={"token": task.token}))


def missed(deployment: Deployment, run_id: str) -> Any:
    """Let a deadline of a run be missed, and return the workload of its callback as it goes to the executor."""
    from airflow.executors import workloads  # noqa: PLC0415 - after AIRFLOW_HOME is set
    from airflow.executors.base_executor import BaseExecutor  # noqa: PLC0415 - likewise
    from airflow.models.callback import CallbackFetchMethod, ExecutorCallback  # noqa: PLC0415 - likewise
    from airflow.models.dagrun import DagRun  # noqa: PLC0415 - likewise
    from airflow.sdk.definitions.callback import SyncCallback  # noqa: PLC0415 - likewise

    with Session(deployment.store.db.engine) as session:
        run = session.scalars(sa.select(DagRun).where(DagRun.run_id == run_id)).one()
        told = SyncCallback("airflow.providers.smtp.notifications.smtp.SmtpNotifier", kwargs={"to": "a@example.com"})
        made = ExecutorCallback(told, fetch_method=CallbackFetchMethod.IMPORT_PATH)
        made.data = {**made.data, "dag_id": run.dag_id, "dag_run_id": str(run.id), "deadline_id": "d"}
        session.add(made)
        session.commit()
        return workloads.ExecuteCallback.make(made, dag_run=run, generator=BaseExecutor(parallelism=1).jwt_generator)


def hooked_callback(workload: Any) -> Any:
    """The pod of a callback as JSON, after the hook. No provider makes one yet: it is made as a task's."""
    template = from_json(yaml.safe_load(TEMPLATE))
    args = ["python", "-m", "airflow.sdk.execution_time.execute_workload", "--json-string", workload.model_dump_json()]
    pod = by_hand(template, args, None, {"callback_id": workload.callback.id})
    hook.pod_mutation_hook(pod)
    return to_json(pod)


def test_a_subdir_without_an_account_runs_as_the_namespaces_default(scheduler: Deployment) -> None:
    publish(scheduler)
    spec = hooked(start(scheduler, "b"))["spec"]
    assert spec["serviceAccountName"] == "default"
    assert "runAsUser" not in spec["securityContext"]


def test_a_run_keeps_its_image_when_another_version_is_published(scheduler: Deployment) -> None:
    publish(scheduler)
    before = start(scheduler, run_id="before")
    publish(scheduler, V2)
    after = start(scheduler, run_id="after")
    assert [hooked(work)["spec"]["containers"][0]["image"] for work in (before, after)] == [
        f"{IMAGE}@{V1}", f"{IMAGE}@{V2}",
    ]  # fmt: skip


def test_a_run_keeps_its_image_when_garbage_is_collected(scheduler: Deployment) -> None:
    publish(scheduler)
    before = start(scheduler)
    publish(scheduler, V2)
    scheduler.store.collect_garbage(keep_revisions=10)
    assert hooked(before)["spec"]["containers"][0]["image"] == f"{IMAGE}@{V1}"


def test_a_kept_dag_runs_on_the_version_that_it_was_kept_in(scheduler: Deployment) -> None:
    publish(scheduler)
    publish(scheduler, V2, {"ingest/a.py": BROKEN, "reporting/b.py": [dag("b")]})
    assert hooked(start(scheduler, "a"))["spec"]["containers"][0]["image"] == f"{IMAGE}@{V1}"
    assert hooked(start(scheduler, "b"))["spec"]["containers"][0]["image"] == f"{IMAGE}@{V2}"


def test_a_version_that_came_back_by_a_rollback_is_found(scheduler: Deployment) -> None:
    publish(scheduler)
    publish(scheduler, V2)
    engine.Engine(scheduler.store).rollback(SALES)
    assert hooked(start(scheduler))["spec"]["containers"][0]["image"] == f"{IMAGE}@{V1}"


def test_a_dag_that_does_not_pin_its_runs_runs_on_what_is_live(scheduler: Deployment) -> None:
    files = {"ingest/a.py": [dag("a", disable_bundle_versioning=True)]}
    publish(scheduler, V1, files)
    workload = start(scheduler)
    publish(scheduler, V2, files)
    assert workload.bundle_info.version is None
    assert hooked(workload)["spec"]["containers"][0]["image"] == f"{IMAGE}@{V2}"


def test_another_spec_of_the_same_version_counts_from_its_revision_on(scheduler: Deployment) -> None:
    publish(scheduler)
    workload = start(scheduler)
    assert variables(hooked(workload))["REGION"] == "eu"
    publish(scheduler, wanted=resource(env=[{"name": "REGION", "value": "us"}]))
    assert variables(hooked(workload))["REGION"] == "us"


def test_the_image_of_a_workload_is_the_one_that_the_controller_wrote_down(scheduler: Deployment) -> None:
    followed = resource({"workloadRef": {"name": "sales", "path": "/srv/dags"}})
    publish(scheduler, wanted=followed, started={"requested_at": "", "image": "registry.test/app:7"})
    pod = hooked(start(scheduler))
    assert pod["spec"]["containers"][0]["image"] == f"registry.test/app@{V1}"
    assert '"/srv/dags"' in variables(pod)["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"]


def test_what_a_controller_published_before_it_wrote_images_down_has_its_references_repository(
    scheduler: Deployment,
) -> None:
    publish(scheduler, started={"requested_at": ""})
    assert hooked(start(scheduler))["spec"]["containers"][0]["image"] == f"{IMAGE}@{V1}"


def test_what_was_published_from_a_folder_runs_on_the_deployments_image(
    scheduler: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    publish(scheduler, started={})
    override = k8s.V1Pod(spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="base", image="evil:1")]))
    pod = hooked(start(scheduler), override)
    assert pod["spec"]["containers"][0]["image"] == "registry.test/airflow:3"
    assert pod["metadata"]["namespace"] == "team-sales"
    assert "DAGBUNDLE_BUNDLE_VERSION" not in variables(pod)
    assert "is no image" in caplog.text


# --- Whatever executor_config says ------------------------------------------------------------------------------------


def hostile() -> k8s.V1Pod:
    """Everything that a DAG might ask for and must not get."""
    root = k8s.V1SecurityContext(privileged=True, run_as_user=0)
    mount = k8s.V1VolumeMount(name="host", mount_path="/host")
    secret = k8s.V1EnvVarSource(secret_key_ref=k8s.V1SecretKeySelector(name="others", key="password"))
    return k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(
            namespace="team-ops",
            labels={"dag_id": "b", "kubernetes_executor": "False", "app": "database"},
            annotations={"dag_id": "b", "run_id": "other", "iam.example/role": "admin"},
        ),
        spec=k8s.V1PodSpec(
            service_account_name="cluster-admin",
            automount_service_account_token=True,
            host_network=True, host_pid=True, host_ipc=True,
            node_name="control-plane",
            node_selector={"pool": "control"},
            tolerations=[k8s.V1Toleration(operator="Exists")],
            priority_class_name="system-node-critical",
            runtime_class_name="unconfined",
            security_context=k8s.V1PodSecurityContext(run_as_user=0, fs_group=0),
            volumes=[k8s.V1Volume(name="host", host_path=k8s.V1HostPathVolumeSource(path="/"))],
            init_containers=[k8s.V1Container(name="first", image="evil:1", security_context=root)],
            containers=[
                k8s.V1Container(
                    name="main", image="evil:1", command=["sh", "-c", "steal"], security_context=root,
                    env=[k8s.V1EnvVar(name="DAGBUNDLE_BUNDLE_VERSION", value=V2),
                         k8s.V1EnvVar(name="STOLEN", value_from=secret)],
                    env_from=[k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name="others"))],
                    volume_mounts=[mount],
                    lifecycle=k8s.V1Lifecycle(post_start=k8s.V1LifecycleHandler(_exec=k8s.V1ExecAction(command=["sh"]))),
                ),
                k8s.V1Container(name="sidecar", image="evil:1", security_context=root, volume_mounts=[mount]),
            ],
        ),
    )  # fmt: skip


def test_nothing_of_a_hostile_executor_config_is_left(scheduler: Deployment) -> None:
    publish(scheduler)
    workload = start(scheduler)
    assert hooked(workload, hostile()) == hooked(workload)


def test_a_task_may_ask_for_requests_and_limits_and_no_other_resources(scheduler: Deployment) -> None:
    publish(scheduler)
    workload = start(scheduler)
    asked = k8s.V1ResourceRequirements(
        limits={"memory": "8Gi"}, claims=[k8s.CoreV1ResourceClaim(name="device") if hasattr(k8s, "CoreV1ResourceClaim")
                                          else k8s.V1ResourceClaim(name="device")],
    )  # fmt: skip
    override = k8s.V1Pod(spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="base", resources=asked)]))
    assert hooked(workload)["spec"]["containers"][0]["resources"] == {"requests": {"cpu": "100m"}}
    found = hooked(workload, override)["spec"]["containers"][0]["resources"]
    assert "claims" not in found
    assert found["limits"] == {"memory": "8Gi"}


def test_no_secret_of_the_deployments_template_reaches_a_team(scheduler: Deployment) -> None:
    publish(scheduler)
    pod = hooked(start(scheduler))
    assert "secret" not in json.dumps(pod["spec"])
    assert variables(pod)["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://api.airflow:8080/execution/"


def arguments(text: str) -> k8s.V1Pod:
    """An executor_config that brings a workload of its own."""
    args = ["python", "-m", "airflow.sdk.execution_time.execute_workload", "--json-string", text]
    return k8s.V1Pod(spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="base", args=args)]))


def test_a_pod_that_carries_no_task_is_not_started(scheduler: Deployment) -> None:
    publish(scheduler)
    override = k8s.V1Pod(spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="base", args=["sleep", "1d"])]))
    for bad in (override, arguments("{}"), arguments("no JSON")):
        with pytest.raises(WorkerError, match="carries no task"):
            hooked(start(scheduler, run_id=f"run-{id(bad)}"), bad)


def test_a_workload_that_a_dag_wrote_itself_is_not_started(scheduler: Deployment) -> None:
    publish(scheduler)
    mine, others = start(scheduler, "a"), start(scheduler, "b")
    unsigned = {**json.loads(others.model_dump_json()), "token": "none"}
    with pytest.raises(WorkerError, match="not one that Airflow gave out"):
        hooked(mine, arguments(json.dumps(unsigned)))
    with pytest.raises(WorkerError, match="another task's"):
        hooked(mine, arguments(json.dumps({**unsigned, "token": mine.token})))


def test_a_workload_whose_bundle_was_changed_is_not_started(scheduler: Deployment) -> None:
    publish(scheduler)
    publish(scheduler, V2)
    workload = start(scheduler)
    changed = json.loads(workload.model_dump_json())
    changed["bundle_info"]["version"] = V1
    with pytest.raises(WorkerError, match="by now Airflow has it as"):
        hooked(workload, arguments(json.dumps(changed)))


# --- Not ours, or not known -------------------------------------------------------------------------------------------


def test_a_pod_of_a_stock_bundle_is_left_as_it_is(scheduler: Deployment) -> None:
    publish(scheduler)
    workload = start(scheduler)
    with scheduler.store.db.engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO dag_bundle (name, active) VALUES ('dags-folder', true)"))
        connection.execute(sa.text("UPDATE dag SET bundle_name = 'dags-folder'"))
    pod = executor_pod(workload, hostile())
    before = to_json(pod)
    hook.pod_mutation_hook(pod)
    assert to_json(pod) == before


def test_a_database_without_our_tables_has_no_bundle_of_ours(
    scheduler: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow import settings  # noqa: PLC0415 - after AIRFLOW_HOME is set

    publish(scheduler)
    pod = executor_pod(start(scheduler))
    before = to_json(pod)
    monkeypatch.setattr(settings, "engine", sa.create_engine("sqlite://"))
    hook.pod_mutation_hook(pod)
    assert to_json(pod) == before


def test_a_pod_that_a_task_makes_is_left_as_it_is(scheduler: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.execution_time import task_runner  # noqa: PLC0415 - after AIRFLOW_HOME is set

    publish(scheduler)
    pod = executor_pod(start(scheduler))
    before = to_json(pod)
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", object(), raising=False)
    hook.pod_mutation_hook(pod)
    assert to_json(pod) == before


def test_a_version_of_which_nothing_is_known_is_not_started(scheduler: Deployment) -> None:
    publish(scheduler)
    scheduler.execute("UPDATE dag SET bundle_version = 'sha256:unknown'")
    with pytest.raises(WorkerError, match=r"is not known in version sha256:unknown of bundle team-sales\.sales"):
        hooked(start(scheduler))


def test_a_task_that_is_gone_is_not_started(scheduler: Deployment) -> None:
    publish(scheduler)
    workload = start(scheduler)
    scheduler.execute("DELETE FROM task_instance")
    with pytest.raises(WorkerError, match="does not know it any more"):
        hooked(workload)


def test_what_was_submitted_without_a_dagbundle_is_not_started(scheduler: Deployment) -> None:
    scheduler.submit({"a.py": [dag("a")]})
    with pytest.raises(WorkerError, match="was submitted without a DagBundle"):
        hooked(start(scheduler))


def test_a_workloads_image_that_was_not_written_down_is_not_guessed(scheduler: Deployment) -> None:
    publish(scheduler, wanted=resource({"workloadRef": {"name": "sales"}}), started={"requested_at": ""})
    with pytest.raises(WorkerError, match="whose name was not kept"):
        hooked(start(scheduler))


def test_a_bundle_of_another_cluster_gets_no_pod_in_this_one(
    scheduler: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(scheduler)
    monkeypatch.setenv("DAGBUNDLE_CLUSTER_NAME", "west")
    with pytest.raises(WorkerError, match="makes pods in 'west'"):
        hooked(start(scheduler))


def test_a_spec_that_makes_no_pod_is_named(scheduler: Deployment) -> None:
    publish(scheduler, wanted=resource(volumeMounts=[{"name": "cache"}]))
    with pytest.raises(WorkerError, match="say together is no pod"):
        hooked(start(scheduler))


def test_a_volume_that_restricted_pods_may_not_have_is_refused_whoever_asks(scheduler: Deployment) -> None:
    publish(scheduler, wanted=resource(volumes=[{"name": "host", "hostPath": {"path": "/"}}]))
    with pytest.raises(WorkerError, match=r"Volume host of bundle team-sales\.sales is a hostPath"):
        hooked(start(scheduler))


def test_what_is_known_of_a_revision_is_asked_once_and_not_kept_for_ever(
    scheduler: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "_MOST", 1)
    publish(scheduler)
    first, other = start(scheduler, "a"), start(scheduler, "b")
    hooked(first)
    with scheduler.store.db.engine.begin() as connection:
        connection.execute(sa.update(scheduler.store.db.tables.publication).values(version="another"))
    assert hooked(first)["spec"]["containers"][0]["image"] == f"{IMAGE}@{V1}"
    with pytest.raises(WorkerError, match="is not known"):
        hooked(other)
    assert len(lookup._places) == 1


# --- In Airflow's own hands -------------------------------------------------------------------------------------------


def test_airflow_finds_the_hook_in_its_local_settings(scheduler: Deployment, tmp_path: pathlib.Path) -> None:
    publish(scheduler)
    (tmp_path / "airflow_local_settings.py").write_text("from dagbundle_airflow.hook import pod_mutation_hook\n")
    (tmp_path / "pod.json").write_text(json.dumps(to_json(executor_pod(start(scheduler)))))
    program = (
        "import json, sys; from airflow import settings\n"
        "from kubernetes.client import ApiClient, V1Pod\n"
        "pod = ApiClient()._ApiClient__deserialize_model(json.load(open(sys.argv[1])), V1Pod)\n"
        "settings.pod_mutation_hook(pod); print('\\n' + pod.spec.containers[0].image)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "pod.json"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
             "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": driver(scheduler.url)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1:] == [f"{IMAGE}@{V1}"], done.stderr[-3000:]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_the_provider_builds_pods_as_these_tests_do(scheduler: Deployment) -> None:
    pytest.importorskip("airflow.providers.cncf.kubernetes.pod_generator", reason="needs the provider cncf.kubernetes")
    publish(scheduler)
    workload = start(scheduler)
    pod = to_json(executor_pod(workload, hostile()))
    args = ["python", "-m", "airflow.sdk.execution_time.execute_workload", "--json-string", workload.model_dump_json()]
    told = {name: getattr(workload.ti, name) for name in ("dag_id", "task_id", "run_id", "try_number")}
    hand = to_json(by_hand(from_json(yaml.safe_load(TEMPLATE)), args, hostile(), told))
    hand["metadata"]["labels"]["airflow_version"] = pod["metadata"]["labels"]["airflow_version"]
    assert pod == hand


@pytest.mark.parametrize("text", ["a", "manual__2026-01-01T00:00:00+00:00", "x" * 64, "été", "_a_", "a/b"])
def test_labels_are_the_ones_by_which_the_provider_looks_for_a_pod(text: str) -> None:
    generator = pytest.importorskip(
        "airflow.providers.cncf.kubernetes.pod_generator", reason="needs the provider cncf.kubernetes"
    )
    assert pods._label(text) == generator.make_safe_label_value(text)


# --- The bundle class -------------------------------------------------------------------------------------------------


def manager(monkeypatch: pytest.MonkeyPatch, path: pathlib.Path, here: str = "") -> Any:
    """Airflow's manager of bundles in a worker that the hook has set up."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager  # noqa: PLC0415 - after AIRFLOW_HOME is set

    known = {
        "name": "team-sales.sales",
        "classpath": "dagbundle_airflow.bundle.ImageDagBundle",
        "kwargs": {"path": str(path)},
    }
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps([known]))
    if here:
        monkeypatch.setenv("DAGBUNDLE_BUNDLE_VERSION", here)
    return DagBundlesManager()


def test_airflow_finds_the_code_in_the_image(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    found = manager(monkeypatch, tmp_path, V1).get_bundle("team-sales.sales", V1)
    found.initialize()
    assert (found.path, found.is_initialized, found.supports_versioning) == (tmp_path, True, True)


def test_another_version_than_the_images_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    found = manager(monkeypatch, tmp_path, V2).get_bundle("team-sales.sales", V1)
    with pytest.raises(WorkerError, match=f"needed at version {V1}, and this image holds {V2}"):
        found.initialize()


@pytest.mark.parametrize(("asked", "here"), [(V1, ""), (None, V2)])
def test_a_version_that_one_side_does_not_know_is_not_compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, asked: str | None, here: str
) -> None:
    found = manager(monkeypatch, tmp_path, here).get_bundle("team-sales.sales", asked)
    found.initialize()
    assert found.is_initialized


def test_a_folder_that_is_not_in_the_image_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    found = manager(monkeypatch, tmp_path / "missing").get_bundle("team-sales.sales")
    with pytest.raises(WorkerError, match="no such folder"):
        found.initialize()


def test_the_current_version_is_as_this_airflow_wants_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    from airflow.dag_processing.bundles import base as bundles  # noqa: PLC0415 - after AIRFLOW_HOME is set

    assert manager(monkeypatch, tmp_path).get_bundle("team-sales.sales").get_current_version() is None
    found = manager(monkeypatch, tmp_path, V1).get_bundle("team-sales.sales").get_current_version()
    assert found == (bundles.BundleVersion(V1) if hasattr(bundles, "BundleVersion") else V1)


TASK = """
import pathlib
from airflow.sdk import DAG, task
with DAG("a", schedule=None):
    @task
    def one():
        pathlib.Path({told!r}).write_text(__file__)
    one()
"""


@pytest.fixture
def api_server(scheduler: Deployment, tmp_path: pathlib.Path) -> Iterator[str]:
    """Airflow's API server, as workers reach it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        (tmp_path / "server.log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "airflow", "api-server", "--apps", "execution", "--host", "127.0.0.1",
             "--port", str(port), "--workers", "1"],
            env={**os.environ, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": driver(scheduler.url)},
            stdout=log, stderr=log, start_new_session=True,
        ) as process,
    ):  # fmt: skip
        try:
            for _ in range(600):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/execution/"
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("image", "ends"), [(V1, "success"), (V2, "failed")])
def test_a_worker_does_as_its_pod_says_in_its_own_version_and_in_no_other(
    scheduler: Deployment, api_server: str, tmp_path: pathlib.Path, image: str, ends: str
) -> None:
    root, told = tmp_path / "dags", tmp_path / "told"
    (root / "ingest").mkdir(parents=True)
    (root / "ingest/a.py").write_text(TASK.format(told=str(told)))
    places = {
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": api_server, "HOME": str(tmp_path), "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW_CONFIG": str(tmp_path / "airflow.cfg"), "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(tmp_path),
        "TMPDIR": str(tmp_path),
    }  # fmt: skip
    wanted = resource(
        {"image": {"reference": f"{IMAGE}:1.4", "path": str(root)}},
        python=sys.executable, env=[{"name": name, "value": value} for name, value in places.items()],
    )  # fmt: skip
    publish(scheduler, wanted=wanted)
    workload = start(scheduler)
    scheduler.execute("UPDATE task_instance SET state = 'queued'")
    pod = hooked(workload)
    (container,) = pod["spec"]["containers"]
    done = subprocess.run(
        [*container["command"], *container["args"]],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **variables(pod),
             "DAGBUNDLE_BUNDLE_VERSION": image},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    output = done.stdout[-6000:] + done.stderr[-6000:] + (tmp_path / "server.log").read_text()[-6000:]
    assert scheduler.rows("SELECT state FROM task_instance") == [(ends,)], output
    if ends == "success":
        assert told.read_text() == str(root / "ingest/a.py")
    else:
        assert not told.exists()
        assert f"this image holds {V2}" in output
