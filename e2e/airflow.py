"""A real Airflow on the cluster, beside the operator: API server and scheduler with the KubernetesExecutor.

Its database is the one that the operator publishes into. There is no dag-processor. Roles, the pod template of tasks
and the hook's settings are those that docs/workers.md tells a reader to have.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from e2e.cluster import ClusterError, Kubectl
from e2e.images import ROOT
from e2e.tenants import RESTRICTED

NAMESPACE = "airflow"
FERNET_KEY = "bm90LWEtc2VjcmV0LWJ1dC1lbm91Z2gtZm9yLXRlc3Q="
_NAME = "airflow"
_ACCOUNT = "airflow-scheduler"
_SERVICE = "airflow-api-server"
_PORT = 8080
_HEALTH_PORT = 8974
_SETTINGS = "/etc/airflow"
_SECONDS = 180
_CONFINED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


@dataclasses.dataclass(frozen=True, slots=True)
class Api:
    """Airflow's REST API, as an administrator speaks to it."""

    port: int
    token: str = ""

    def __call__(self, method: str, path: str, body: object = None) -> Any:
        """Send a request and return the answer; of one in lines, the last."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_SECONDS)
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        with contextlib.closing(connection):
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        if answer.status >= http.client.BAD_REQUEST:
            raise ClusterError(f"{method} {path} is answered by {answer.status}: {text}")
        return json.loads(text.splitlines()[-1])

    def dag(self, dag_id: str) -> Any:
        """Return what is shown of a DAG."""
        return self("GET", f"/api/v2/dags/{dag_id}")

    def trigger(self, dag_id: str, run_id: str) -> None:
        """Start a run."""
        self("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"dag_run_id": run_id, "logical_date": None})

    def wait(self, dag_id: str, run_id: str) -> str:
        """Wait until a run has ended, and return its state."""
        return str(self("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/wait?interval=0.2")["state"])

    def returned(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return what each task of a run returned."""
        tasks = self("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{{}}/xcomEntries/return_value"
        return {task["task_id"]: self("GET", path.format(task["task_id"]))["value"] for task in tasks}


@dataclasses.dataclass(frozen=True, slots=True)
class Airflow:
    """The deployment.

    Attributes:
        kubectl: Within its namespace.
        image: What it runs: Airflow, its Kubernetes provider, and the project's package for it.
        database_url: Airflow's database, from inside the cluster.
        teams: Namespaces in which its tasks run.
    """

    kubectl: Kubectl
    image: str
    database_url: str
    teams: Sequence[Kubectl]

    @property
    def database_password(self) -> str:
        """What no tenant's pod may have."""
        return urllib.parse.urlsplit(self.database_url).password or ""

    def deploy(self) -> None:
        """Make all of it. `await_available` waits for it."""
        self.kubectl.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": RESTRICTED}}
        )
        self.kubectl.wait("serviceaccount/default", "create")
        labels = {"app": _NAME}
        self.kubectl.apply(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": _ACCOUNT}},
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": _NAME}, "data": self._settings()},
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": _SERVICE},
                "spec": {"selector": labels, "ports": [{"port": _PORT}]},
            },
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": _NAME},
                "spec": {
                    "selector": {"matchLabels": labels},
                    "strategy": {"type": "Recreate"},
                    "template": {"metadata": {"labels": labels}, "spec": self._pod()},
                },
            },
        )
        for place in (self.kubectl, *self.teams):
            place.apply(*_roles(place.namespace or ""))

    def await_available(self) -> None:
        """Wait until the API server answers and the scheduler's heart beats."""
        try:
            self.kubectl.wait(f"deployment/{_NAME}", "condition=Available", seconds=_SECONDS)
        except ClusterError as error:
            raise ClusterError(f"{error}\n{self.told()}") from error

    def remove(self) -> None:
        """Take all of it away."""
        self.kubectl.text("delete", "namespace", NAMESPACE, "--ignore-not-found", f"--timeout={_SECONDS}s")
        for team in self.teams:
            for kind, name in (("role", "airflow-tasks"), ("rolebinding", "airflow-tasks")):
                team.text("delete", kind, name, "--ignore-not-found")

    @contextlib.contextmanager
    def api(self) -> Iterator[Api]:
        """Let this machine speak to its REST API."""
        with self.kubectl.forwarded(f"deployment/{_NAME}", _PORT) as port:
            yield Api(port, Api(port)("GET", "/auth/token")["access_token"])

    def told(self) -> str:
        """Return all that a human would look at, for the report of a failed test."""
        parts = []
        for place in (self.kubectl, *self.teams):
            for arguments in (
                ("get", "pods", "--output=wide"),
                ("get", "events", "--sort-by=.lastTimestamp"),
            ):
                with contextlib.suppress(ClusterError):
                    parts.append(f"$ kubectl {' '.join(arguments)}\n{place.text(*arguments)}")
        for place, selector in ((self.kubectl, f"app={_NAME}"), *((team, "dag_id") for team in self.teams)):
            with contextlib.suppress(ClusterError):
                parts.append(
                    place.text(
                        "logs", f"--selector={selector}", "--all-containers", "--prefix", "--ignore-errors", "--tail=80"
                    )
                )
        return "\n".join(parts)

    def _settings(self) -> dict[str, str]:
        """Return the files of a scheduler: Airflow's own pod template, and what docs/workers.md has."""
        template = _documented("kind: Pod")[0]
        (container,) = template["spec"]["containers"]
        # there is no place for remote logs here
        container["env"] = [entry for entry in container["env"] if "REMOTE_LOGGING" not in entry["name"]]
        url = {"name": "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "value": self.database_url}
        stock = {"spec": {"containers": [{"name": "base", "image": self.image, "env": [url]}]}}
        return {
            "airflow_local_settings.py": "from dagbundle_airflow.hook import pod_mutation_hook\n",
            "stock.yaml": json.dumps(stock),
            "tasks.yaml": json.dumps(template),
        }

    def _pod(self) -> dict[str, Any]:
        watched = ",".join([NAMESPACE, *(team.namespace or "" for team in self.teams)])
        settings = {
            "HOME": "/tmp",  # noqa: S108 - the pod's own volume
            "USER": "airflow",
            "AIRFLOW_HOME": "/tmp/airflow",  # noqa: S108 - likewise
            "PYTHONPATH": _SETTINGS,
            "AIRFLOW__CORE__EXECUTOR": "KubernetesExecutor",
            "AIRFLOW__CORE__FERNET_KEY": FERNET_KEY,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.database_url,
            "AIRFLOW__API_AUTH__JWT_SECRET": "a secret that is long enough for the signature of a token of Airflow",
            "AIRFLOW__API__SECRET_KEY": "another secret",
            "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "True",
            "AIRFLOW__KUBERNETES_EXECUTOR__NAMESPACE": NAMESPACE,
            "AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": f"{_SETTINGS}/stock.yaml",
            "AIRFLOW__KUBERNETES_EXECUTOR__MULTI_NAMESPACE_MODE": "True",
            "AIRFLOW__KUBERNETES_EXECUTOR__MULTI_NAMESPACE_MODE_NAMESPACE_LIST": watched,
            "AIRFLOW__KUBERNETES_EXECUTOR__DELETE_WORKER_PODS": "False",  # they are looked at
            "DAGBUNDLE_WORKER_TEMPLATE": f"{_SETTINGS}/tasks.yaml",
        }
        common = {
            "image": self.image,
            "env": [{"name": name, "value": value} for name, value in settings.items()],
            "securityContext": _CONFINED,
            "volumeMounts": [
                {"name": "settings", "mountPath": _SETTINGS},
                {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the pod's own volume
            ],
        }
        serves = {"path": "/api/v2/monitor/health", "port": _PORT}
        lives = {"path": "/health", "port": _HEALTH_PORT}
        return {
            "serviceAccountName": _ACCOUNT,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "terminationGracePeriodSeconds": 2,
            "initContainers": [{**common, "name": "migrate", "command": ["airflow", "db", "migrate"]}],
            "containers": [
                {
                    **common,
                    "name": "api-server",
                    "command": ["airflow", "api-server", f"--port={_PORT}", "--workers=1"],
                    "readinessProbe": _probe(serves),
                },
                {**common, "name": "scheduler", "command": ["airflow", "scheduler"], "readinessProbe": _probe(lives)},
            ],
            "volumes": [{"name": "settings", "configMap": {"name": _NAME}}, {"name": "tmp", "emptyDir": {}}],
        }


def _probe(asks: dict[str, Any]) -> dict[str, Any]:
    return {"httpGet": asks, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 30}


def _roles(namespace: str) -> list[Any]:
    """Return what docs/workers.md lets the scheduler do in a namespace."""
    found = _documented("kind: Role\n")
    for item in found:
        item["metadata"]["namespace"] = namespace
    return found


def _documented(kind: str) -> list[Any]:
    text = (ROOT / "docs" / "workers.md").read_text()
    (block,) = (found for found in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if kind in found)
    return list(yaml.safe_load_all(block))
