"""One DAG, from its DagBundle to a run that succeeds: published into Airflow's own database, run by its executor.

The tasks run in the team's namespace, on the image that was parsed. While a run is in flight another image is rolled
out: the run goes on as it began, and the next one is of the new version. Another bundle's file reads a Variable and a
Connection of that Airflow while it is parsed.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from e2e import airflow, images
from e2e.airflow import Airflow, Api
from e2e.cluster import ClusterError, Image, Kubectl
from e2e.cluster.given import AnyCluster
from e2e.installation import GRANTS, RELEASE, Installation
from e2e.tenants import Bundle

SECRET = "airflow-database"  # noqa: S105 - the name of one
FERNET_SECRET = "airflow-fernet-key"  # noqa: S105 - likewise
DAG_ID = "a.flow"
GO_ON = "/tmp/go-on"  # noqa: S108 - the pod's own volume
UID = 50010
SUBDIRS = [{"path": "ingest", "serviceAccountName": "ingest-parser", "runAsUser": UID}]
FILE = """\
import os
import time

from airflow.sdk import DAG, task
from kubernetes.client import models as k8s

WANTED = k8s.V1Pod(
    metadata=k8s.V1ObjectMeta(namespace="airflow", labels={{"dag_id": "another"}}),
    spec=k8s.V1PodSpec(
        service_account_name="reporting-parser",
        automount_service_account_token=True,
        host_network=True,
        security_context=k8s.V1PodSecurityContext(run_as_user=0),
        volumes=[k8s.V1Volume(name="host", host_path=k8s.V1HostPathVolumeSource(path="/"))],
        containers=[
            k8s.V1Container(
                name="base",
                image="registry.test/python:1",
                resources=k8s.V1ResourceRequirements(requests={{"memory": "300Mi"}}, limits={{"memory": "1Gi"}}),
                security_context=k8s.V1SecurityContext(privileged=True),
                volume_mounts=[k8s.V1VolumeMount(name="host", mount_path="/host")],
            )
        ],
    ),
)


def told():
    holds = os.environ["DAGBUNDLE_BUNDLE_VERSION"]
    return {{"version": {version!r}, "uid": os.getuid(), "file": __file__, "holds": holds}}


with DAG({dag_id!r}, schedule=None):

    @task
    def begin():
        while {wait!r} and not os.path.exists({wait!r}):
            time.sleep(0.1)
        return told()

    @task(executor_config={{"pod_override": WANTED}})
    def {last}():
        return told()

    begin() >> {last}()
"""
V1 = FILE.format(dag_id=DAG_ID, version="v1", wait=GO_ON, last="finish")
V2 = FILE.format(dag_id=DAG_ID, version="v2", wait="", last="end")
"""Of another task: what a run in flight has left to do is not in it."""

READS = """\
from airflow.sdk import DAG, Connection, Variable

warehouse = Connection.get("a_warehouse")
print(warehouse.password)
about = [Variable.get("a_region"), Variable.get("b_region", default="none of ours"), warehouse.host]
with DAG("a.reads", schedule=None, description=", ".join([*about, str(len(warehouse.password))])):
    pass
"""
MANY = """\
import time

from airflow.sdk import DAG

with DAG("a.many-{number}", schedule=None, description=str(time.time())):
    pass
"""
"""Files that are another one at each parse: one that was parsed, though nobody asked for it, would show."""
FILES = 1000
VALUES = {"variables": ["a_*"], "connections": ["a_warehouse"]}
PASSWORD = "a-password-that-nobody-prints"  # noqa: S105 - of no account
DESCRIPTIONS = "SELECT dag_id, description FROM dag WHERE dag_id LIKE 'a.many-%'"
REPORTED = """\
SELECT count(*) FROM dagbundle.submission s JOIN dagbundle.parse_run p ON p.id = s.run
JOIN dagbundle.rollout r ON r.id = p.rollout WHERE r.reason = 'Amended'
"""
"""How many files passes reported."""
VALUE_SECONDS = 180
"""For a changed value to show: the controller looks every two minutes."""


@dataclasses.dataclass(frozen=True, slots=True)
class Deployment:
    """Airflow, and the operator that publishes into it."""

    airflow: Airflow
    operator: Installation


@pytest.fixture(scope="module")
def executor_image(uv: pathlib.Path) -> Image:
    return images.executor(uv)


@pytest.fixture(scope="module")
def deployment(
    cluster: AnyCluster, operator: Installation, uv: pathlib.Path, executor_image: Image
) -> Iterator[Deployment]:
    """The operator, installed anew with an Airflow to publish into."""
    database = operator.database.another("airflow")
    digest = cluster.push_image(executor_image, "airflow:executor")
    team = operator.team("team-a").kubectl
    url = database.url.replace("postgresql://", "postgresql+psycopg2://")
    theirs = Airflow(operator.kubectl.within(airflow.NAMESPACE), f"{cluster.registry}/airflow@{digest}", url, [team])
    ours = cluster.push_image(images.operator(uv, airflow="3.3"), "dagbundle-operator:test-airflow3.3")
    made = dataclasses.replace(operator, image=f"{cluster.registry}/dagbundle-operator@{ours}", database=database)
    for name, key, value in ((SECRET, "url", database.url), (FERNET_SECRET, "fernet-key", airflow.FERNET_KEY)):
        operator.kubectl.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {key: value}}
        )
    try:
        theirs.deploy()
        made.install(
            database={"existingSecret": SECRET},
            controller={"replicas": 1},
            server={"replicas": 1},
            tenants=[{**grant, **(VALUES if grant["namespace"] == "team-a" else {})} for grant in GRANTS],
            airflow={
                "version": "3.3",
                "fernetKeySecret": {"name": FERNET_SECRET},
                "config": {"core": {"dags_are_paused_at_creation": False}},
            },
        )
        theirs.await_available()
        yield Deployment(theirs, made)
    finally:
        theirs.remove()
        operator.install()
        operator.database.drop("airflow")


@dataclasses.dataclass(frozen=True, slots=True)
class Story:
    """What was seen of two runs, between which an image was rolled out.

    Attributes:
        images: Of each version, by digest.
        published: The bundle's version, before and after the rollout.
        while_held: What the REST API showed of the DAG when it was published and a run was in flight.
        states: How each run ended.
        returned: What each task of a run returned.
        pods: The pods of each run's tasks.
    """

    images: Mapping[str, str]
    published: Mapping[str, str]
    while_held: Any
    health: Any
    states: Mapping[str, str]
    returned: Mapping[str, Mapping[str, Any]]
    pods: Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def story(cluster: AnyCluster, deployment: Deployment, executor_image: Image) -> Iterator[Story]:
    """A run that is in flight while the image is rolled out, and the next one."""
    digests, references = {}, {}
    for version, text in (("v1", V1), ("v2", V2)):
        image = images.with_dags(executor_image, {"ingest/flow.py": text})
        name = f"flow:{version}-{image.digest.removeprefix('sha256:')[:8]}"  # a node does not look again at a tag
        digests[version], references[version] = cluster.push_image(image, name), f"{cluster.registry}/{name}"
    team = deployment.operator.team("team-a")
    bundle = team.apply("flow", references["v1"], SUBDIRS)
    try:
        with deployment.airflow.api() as api:
            found = tell(api, bundle, digests, references["v2"])
        assert set(found.states.values()) == {"success"}
        yield found
    except (AssertionError, ClusterError, OSError):
        print(deployment.airflow.told())  # noqa: T201 - pytest shows it with the failure
        raise
    finally:
        team.kubectl.text("delete", "pods", "--selector=dag_id", "--wait=false")
        bundle.delete()


def tell(api: Api, bundle: Bundle, digests: Mapping[str, str], another: str) -> Story:
    published = {"v1": bundle.wait_ready()["version"]["published"]}
    api.trigger(DAG_ID, "one")
    held = bundle.kubectl.until("pods", is_running("one", "begin"), seconds=120)
    bundle.set_image(another)
    published["v2"] = bundle.wait_ready()["version"]["published"]
    while_held, health = api.dag(DAG_ID), api("GET", "/api/v2/monitor/health")
    bundle.kubectl.text("exec", held["metadata"]["name"], "--container=base", "--", "touch", GO_ON)
    states = {"one": api.wait(DAG_ID, "one")}
    api.trigger(DAG_ID, "two")
    states["two"] = api.wait(DAG_ID, "two")
    pods: dict[str, dict[str, Any]] = {}
    for pod in bundle.kubectl("get", "pods", "--selector=dag_id")["items"]:
        about = pod["metadata"]["annotations"]
        pods.setdefault(about["run_id"], {})[about["task_id"]] = pod
    returned = {run: api.returned(DAG_ID, run) for run in states}
    return Story(digests, published, while_held, health, states, returned, pods)


@pytest.fixture(scope="module")
def reads(cluster: AnyCluster, deployment: Deployment, executor_image: Image) -> Iterator[Bundle]:
    """A bundle whose file reads values, published; since then one of them has changed."""
    image = images.with_dags(executor_image, {"ingest/reads.py": READS})
    cluster.push_image(image, "reads:1")
    team = deployment.operator.team("team-a")
    try:
        with deployment.airflow.api() as api:
            for key in ("a_region", "b_region"):
                api("POST", "/api/v2/variables", {"key": key, "value": f"the north of {key}"})
            warehouse = {"connection_id": "a_warehouse", "conn_type": "http", "host": "db.test", "password": PASSWORD}
            api("POST", "/api/v2/connections", warehouse)
            bundle = team.apply("reads", f"{cluster.registry}/reads:1", SUBDIRS)
            bundle.wait_ready()
            assert described(api) == f"the north of a_region, none of ours, db.test, {len(PASSWORD)}"
            api("PATCH", "/api/v2/variables/a_region", {"key": "a_region", "value": "the south"})
        yield bundle
    except (AssertionError, ClusterError):
        print(deployment.operator.told())  # noqa: T201 - pytest shows it with the failure
        raise
    finally:
        team.bundle("reads").delete()


def described(api: Api, dag_id: str = "a.reads") -> str:
    return str(api.dag(dag_id)["description"])


@pytest.fixture(scope="module")
def many(cluster: AnyCluster, deployment: Deployment, executor_image: Image) -> Iterator[Bundle]:
    """A bundle of many files."""
    files = {f"ingest/{number}.py": MANY.format(number=number) for number in range(FILES)}
    cluster.push_image(images.with_dags(executor_image, files), "many:1")
    team = deployment.operator.team("team-a")
    bundle = team.apply("many", f"{cluster.registry}/many:1", SUBDIRS)
    try:
        bundle.wait_ready()
        yield bundle
    except (AssertionError, ClusterError):
        print(deployment.operator.told())  # noqa: T201 - pytest shows it with the failure
        raise
    finally:
        bundle.delete()


def is_running(run_id: str, task_id: str) -> Callable[[Any], bool]:
    def holds(pod: Any) -> bool:
        about = pod["metadata"].get("annotations", {})
        ours = (about.get("run_id"), about.get("task_id")) == (run_id, task_id)
        return bool(ours and pod["status"].get("phase") == "Running")

    return holds


def each_pod(story: Story) -> list[Any]:
    return [pod for pods in story.pods.values() for pod in pods.values()]


def test_a_file_reads_granted_values_of_airflow_while_it_is_parsed_and_nobody_prints_them(
    deployment: Deployment, reads: Bundle
) -> None:
    (pod, *_) = reads.pods()
    password = deployment.airflow.database_password
    assert [word for word in (PASSWORD, password, airflow.FERNET_KEY) if word in json.dumps(pod)] == []
    programs = [deployment.operator.logs(component, tail=-1) for component in ("controller", "server")]
    assert all("team-a" in log for log in programs)
    logs = [*programs, reads.kubectl.text("logs", pod["metadata"]["name"], "--all-containers")]
    assert [log for log in logs if PASSWORD in log or "the north of" in log] == []


def test_runs_succeed_across_the_rollout_of_an_image(story: Story) -> None:
    assert story.states == {"one": "success", "two": "success"}
    assert {run: set(pods) for run, pods in story.pods.items()} == {"one": {"begin", "finish"}, "two": {"begin", "end"}}


def test_airflow_shows_what_was_published_while_the_run_before_is_in_flight(story: Story) -> None:
    assert story.published == story.images
    shown = {name: story.while_held[name] for name in ("bundle_name", "bundle_version", "is_paused", "is_stale")}
    assert shown == {
        "bundle_name": "team-a.flow", "bundle_version": story.images["v2"], "is_paused": False, "is_stale": False,
    }  # fmt: skip


def test_airflows_health_page_shows_the_controller_as_its_dag_processor(story: Story) -> None:
    assert story.health["dag_processor"]["status"] == "healthy"


def test_a_run_in_flight_keeps_the_image_that_it_began_with_and_the_next_one_has_the_new(story: Story) -> None:
    for run, version in (("one", "v1"), ("two", "v2")):
        for task, pod in story.pods[run].items():
            (asked,), (ran,) = pod["spec"]["containers"], pod["status"]["containerStatuses"]
            assert asked["image"].endswith(f"/flow@{story.images[version]}"), task
            assert ran["imageID"].endswith(f"/flow@{story.images[version]}"), task
            assert story.returned[run][task]["version"] == version
            assert story.returned[run][task]["holds"] == story.images[version]


def test_a_task_runs_in_its_teams_namespace_as_the_account_and_the_user_of_its_subdir(story: Story) -> None:
    for pod in each_pod(story):
        assert pod["metadata"]["namespace"] == "team-a"
        assert pod["spec"]["serviceAccountName"] == "ingest-parser"
    for run in story.returned.values():
        assert {task["uid"] for task in run.values()} == {UID}
        assert {task["file"] for task in run.values()} == {f"{images.DAGS}/ingest/flow.py"}


def test_of_what_a_dags_executor_config_wants_it_gets_its_resources_alone(story: Story) -> None:
    for pod in (story.pods["one"]["finish"], story.pods["two"]["end"]):
        spec, (container,) = pod["spec"], pod["spec"]["containers"]
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert (requests["memory"], limits["memory"]) == ("300Mi", "1Gi")
        assert spec["automountServiceAccountToken"] is False
        assert "hostNetwork" not in spec
        assert [volume["name"] for volume in spec["volumes"]] == ["dagbundle-tmp"]
        assert spec["securityContext"]["runAsUser"] == UID
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "privileged": False,
            "readOnlyRootFilesystem": True,
        }  # fmt: skip
        assert pod["metadata"]["labels"]["dag_id"] == DAG_ID


def test_no_task_has_the_databases_password(deployment: Deployment, story: Story) -> None:
    password = deployment.airflow.database_password
    assert password in json.dumps(deployment.airflow.kubectl("get", "configmap", "airflow"))
    assert [pod["metadata"]["name"] for pod in each_pod(story) if password in json.dumps(pod)] == []


def test_the_check_in_a_pod_of_the_operator_finds_nothing_wrong(deployment: Deployment, story: Story) -> None:
    assert story.states["two"] == "success"
    said = command(deployment.operator.kubectl, "airflow", "check", "--output=json")
    assert [found for found in json.loads(said)["findings"] if found["level"] != "info"] == []


def test_a_bundle_is_parsed_again_when_a_value_that_it_read_has_changed(deployment: Deployment, reads: Bundle) -> None:
    (controller,) = deployment.operator.pods("controller")
    with deployment.airflow.api() as api:
        reads.until(lambda _: described(api).startswith("the south, "), VALUE_SECONDS)
    assert deployment.operator.metric(controller, "dagbundle_value_changes_total") == 1


def test_a_file_that_airflow_asks_for_again_is_parsed_alone_while_its_bundle_stays_published(
    deployment: Deployment, many: Bundle
) -> None:
    database = deployment.operator.database
    before = dict(database.execute(DESCRIPTIONS))
    made = {job["metadata"]["uid"] for job in many.jobs()}
    revision = database.live("team-a", "many").revision
    with deployment.airflow.api() as api:
        token = api.dag("a.many-7")["file_token"]
        api("PUT", f"/api/v2/parseDagFile/{urllib.parse.quote(token, safe='')}")
        many.until(lambda _: described(api, "a.many-7") != before["a.many-7"])

    after = dict(database.execute(DESCRIPTIONS))
    assert {dag_id for dag_id, text in after.items() if text != before[dag_id]} == {"a.many-7"}
    assert len([job for job in many.jobs() if job["metadata"]["uid"] not in made]) == 1
    assert database.execute(REPORTED) == [(1,)]
    assert database.live("team-a", "many").revision == revision + 1
    assert many.condition()["reason"] == "Published"


def command(kubectl: Kubectl, *arguments: str) -> str:
    where = ("exec", f"deployment/{RELEASE}-controller", "--container=controller", "--")
    return kubectl.text(*where, "dagbundle", *arguments)
