"""The cluster itself keeps what the other end-to-end tests build on."""

from __future__ import annotations

import base64
import json
import marshal
import pathlib
import tarfile
from collections.abc import Callable
from typing import Any

import pytest

from e2e.cluster import ApiServer, Cluster, ClusterError, Kubectl, bases, layer_of_files
from e2e.cluster.given import AnyCluster
from e2e.cluster.registry import PASSWORD, USER

Namespaces = Callable[..., Kubectl]
AUDIENCE = "dagbundle"
ROOT = pathlib.Path(__file__).parents[1]
SERVE = "import http.server as s; s.test(s.SimpleHTTPRequestHandler, s.ThreadingHTTPServer, port=8080)"


def job(image: str, *command: str, **pod: Any) -> dict[str, Any]:
    container = {"name": "main", "image": image, "command": command, "volumeMounts": pod.pop("mounts", [])}
    # else the kubelet gives everybody what anybody pulled: with a secret that others lack, or in an earlier session
    container["imagePullPolicy"] = "Always"
    template = {
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container], **pod}
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "work"},
        "spec": {"backoffLimit": 0, "template": template},
    }


def pod_of(team: Kubectl) -> Any:
    (pod,) = team("get", "pods", "--selector=job-name=work")["items"]
    return pod


def completed(team: Kubectl, manifest: dict[str, Any]) -> str:
    """Run a job to its end and return what it printed."""
    team.create(manifest)
    team.wait("job/work", "condition=complete")
    return team.text("logs", "job/work")


def await_refused_pull(team: Kubectl) -> str:
    """Wait until a pod's image could not be pulled, and return the kubelet's word for it."""

    def reason(pod: Any) -> str:
        statuses = pod["status"].get("containerStatuses", [])
        return statuses[0]["state"].get("waiting", {}).get("reason", "") if statuses else ""

    # the word alternates with ImagePullBackOff
    return reason(team.until("pods", lambda pod: reason(pod) in {"ErrImagePull", "ImagePullBackOff"}))


def test_every_node_is_ready(kubectl: Kubectl) -> None:
    kubectl.wait("node", "condition=Ready", every=True)


def test_a_job_from_a_pushed_image_completes(namespace: Namespaces, python_image: str) -> None:
    assert completed(namespace(), job(python_image, "python3", "-c", "print(6 * 7)")) == "42\n"


def test_a_pods_status_names_the_digest_that_the_push_returned(cluster: AnyCluster, namespace: Namespaces) -> None:
    team = namespace()
    image = bases.debian().adding(
        layer_of_files({"/srv/bundle.txt": team.namespace or ""}), cmd=["cat", "/srv/bundle.txt"]
    )
    digest = cluster.push_image(image, "bundles/sales:1")
    team.create(job(f"{cluster.registry}/bundles/sales:1"))
    team.wait("job/work", "condition=complete")
    assert digest == image.digest
    assert pod_of(team)["status"]["containerStatuses"][0]["imageID"] == f"{cluster.registry}/bundles/sales@{digest}"


def test_an_image_has_the_user_folder_environment_and_entrypoint_it_was_given(
    cluster: AnyCluster, namespace: Namespaces
) -> None:
    program = "import os; print(os.getuid(), os.getcwd(), os.environ['TEAM'], open('hello').read())"
    layer = layer_of_files({"/srv/hello": "there"}, uid=1234, mode=0o400)
    image = bases.debian().adding(
        layer, env={"TEAM": "sales"}, user="1234", working_dir="/srv", entrypoint=["python3", "-c"], cmd=[program]
    )
    cluster.push_image(image, "configured:1")
    manifest = job(f"{cluster.registry}/configured:1")
    assert completed(namespace(), manifest) == "1234 /srv sales there\n"


def test_a_pod_reaches_a_service_by_its_name(namespace: Namespaces, python_image: str) -> None:
    team = namespace()
    server = {"name": "server", "image": python_image, "command": ["python3", "-c", SERVE], "workingDir": "/etc"}
    answers = {"httpGet": {"port": 8080, "path": "/hostname"}, "periodSeconds": 1}
    team.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "server", "labels": {"app": "server"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{**server, "readinessProbe": answers}]},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "files"},
            "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}]},
        },
    )
    team.wait("pod/server", "condition=Ready")
    endpoint = "jsonpath={.endpoints[0].conditions.ready}=true"
    team.wait("endpointslice", endpoint, selector="kubernetes.io/service-name=files")
    url = f"http://files.{team.namespace}.svc.cluster.local/hostname"
    # each node forwards to the new endpoint some time after it is ready, and nothing says when
    ask = f"""import time, urllib.request as r
while True:
    try:
        print(r.urlopen({url!r}, timeout=5).read().decode().strip())
        break
    except OSError:
        time.sleep(0.5)
"""
    assert completed(team, job(python_image, "python3", "-c", ask)) == "server\n"


def test_a_pod_reaches_the_api_server_by_its_name(namespace: Namespaces, python_image: str) -> None:
    ask = (
        "import ssl, urllib.request as r;"
        "context = ssl.create_default_context(cafile='/run/secrets/kubernetes.io/serviceaccount/ca.crt');"
        "print(r.urlopen('https://kubernetes.default.svc/readyz', context=context, timeout=20).read().decode())"
    )
    assert completed(namespace(), job(python_image, "python3", "-c", ask)) == "ok\n"


def test_a_missing_image_gives_err_image_pull(cluster: AnyCluster, namespace: Namespaces) -> None:
    team = namespace()
    team.create(job(f"{cluster.registry}/nobody/pushed:this"))
    assert await_refused_pull(team) == "ErrImagePull"


def test_a_private_image_is_pulled_only_with_its_secret(
    own_cluster: Cluster, namespace: Namespaces, python_image: str
) -> None:
    image = python_image.replace(own_cluster.registry, own_cluster.private_registry)
    stranger, friend = namespace("stranger"), namespace("friend")
    stranger.create(job(image, "true"))
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    config = json.dumps({"auths": {own_cluster.private_registry: {"auth": auth}}})
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "pull"},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": config},
    }
    friend.create(secret)
    assert completed(friend, job(image, "echo", "pulled", imagePullSecrets=[{"name": "pull"}])) == "pulled\n"
    await_refused_pull(stranger)


@pytest.mark.parametrize(("asked", "accepted"), [(AUDIENCE, True), ("another", False)])
def test_a_pods_projected_token_is_accepted_for_its_audience_alone(
    kubectl: Kubectl, namespace: Namespaces, python_image: str, asked: str, accepted: bool
) -> None:
    team = namespace()
    source = {"serviceAccountToken": {"audience": AUDIENCE, "path": "token", "expirationSeconds": 600}}
    volume = {"name": "identity", "projected": {"sources": [source]}}
    mount = {"name": "identity", "mountPath": "/identity"}
    token = completed(team, job(python_image, "cat", "/identity/token", volumes=[volume], mounts=[mount]))
    spec = {"token": token, "audiences": [asked]}
    review = kubectl.create({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec})
    assert review["status"].get("authenticated", False) is accepted
    if accepted:
        user = review["status"]["user"]
        assert user["username"] == f"system:serviceaccount:{team.namespace}:default"
        assert user["extra"]["authentication.kubernetes.io/pod-name"] == [pod_of(team)["metadata"]["name"]]


def test_helm_installs_a_chart(namespace: Namespaces, tmp_path: pathlib.Path) -> None:
    team, chart = namespace(), tmp_path
    (chart / "templates").mkdir()
    (chart / "Chart.yaml").write_text("{apiVersion: v2, name: demo, version: 1.0.0}")
    manifest = "{apiVersion: v1, kind: ConfigMap, metadata: {name: made}, data: {by: '{{ .Release.Name }}'}}"
    (chart / "templates" / "map.yaml").write_text(manifest)
    team.helm("install", "first", str(chart))
    assert team("get", "configmap", "made")["data"] == {"by": "first"}


def test_what_an_api_server_answered_for_outlives_its_kill(api_server: ApiServer) -> None:
    kubectl = api_server.kubectl
    kubectl.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}})
    api_server.kill()
    with pytest.raises(ClusterError, match="refused"):
        kubectl("get", "namespace", "team")
    api_server.start()
    assert kubectl("get", "namespace", "team")["metadata"]["name"] == "team"


def test_two_api_servers_know_nothing_of_each_other(api_server: ApiServer) -> None:
    with ApiServer() as other:
        other.kubectl.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "theirs"}})
        with pytest.raises(ClusterError, match="NotFound"):
            api_server.kubectl("get", "namespace", "theirs")


def test_an_api_server_leaves_nothing() -> None:
    server = ApiServer()
    with server:
        assert [program for program in server.programs if not program.running()] == []
    assert [program for program in server.programs if program.running()] == []
    assert not server.folder.exists()


def test_the_same_image_has_the_same_digest() -> None:
    def digest() -> str:
        layer = layer_of_files({"/b": "two", "/a": "one"})
        return bases.debian().adding(layer, labels={"made": "twice"}).digest

    assert digest() == digest()


def test_a_virtual_environment_made_here_runs_in_a_pod(
    cluster: AnyCluster, namespace: Namespaces, uv: pathlib.Path
) -> None:
    layer = bases.virtualenv_layer(uv, "--require-hashes", "-r", str(ROOT / "requirements" / "runtime.txt"))
    image = bases.debian().adding(layer, user="65534", entrypoint=["/opt/dagbundle/bin/alembic", "--version"])
    cluster.push_image(image, "tools:1")
    assert completed(namespace(), job(f"{cluster.registry}/tools:1")).startswith("alembic 1.")


def test_a_layers_python_files_are_compiled_for_where_they_will_lie(uv: pathlib.Path) -> None:
    layer = bases.virtualenv_layer(uv, "--require-hashes", "-r", str(ROOT / "requirements" / "uv.txt"))
    name = "opt/dagbundle/lib/python3.11/site-packages/uv/__pycache__/__main__.cpython-311.pyc"
    with tarfile.open(layer.path) as archive:
        file = archive.extractfile(name)
        assert file
        header, code = file.read(16), marshal.load(file)  # noqa: S302 # compiled a moment ago, from this project's lock
    assert int.from_bytes(header[4:8], "little") == 1, "compared by its hash, and that unchecked"
    assert code.co_filename == "/opt/dagbundle/lib/python3.11/site-packages/uv/__main__.py"
