"""The operator as the stories install it: the chart of the working tree with its image, a database and some tenants.

One installation serves the whole session. What a test does to it (kills it, stops its database, installs another
version in its place) it waits out or undoes itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from e2e.cluster import Cluster, ClusterError, Kubectl, layout
from e2e.cluster.given import AnyCluster
from e2e.database import SECRET, Database
from e2e.images import ROOT
from e2e.tenants import RESTRICTED, Bundle, Team

NAMESPACE = "dagbundle-system"
RELEASE = "dagbundle"
CHART = ROOT / "charts" / "dagbundle-operator"
ACCOUNTS = ("parser", "ingest-parser", "reporting-parser")

GRANTS: Sequence[dict[str, Any]] = (
    {"namespace": "team-a", "dagIdPrefixes": ["a."], "bundleNames": ["legacy-a"]},
    {"namespace": "team-b"},
    {"namespace": "team-quota"},
    {"namespace": "team-long"},
    {"namespace": "team-bare"},
    {"namespace": "team-leaving"},
    {"namespace": "team-left"},
)
"""What the platform allows: A is limited, B is not, and some namespaces have a trouble of their own, told in the tests.

Among them there is none for `team-unlisted`.
"""
UNLISTED = "team-unlisted"
_GONE_SECONDS = 90
_WAIT_SECONDS = 180
_METRICS_PORT = 9090


@dataclasses.dataclass(slots=True)
class Installation:
    """The installed operator."""

    cluster: AnyCluster
    kubectl: Kubectl
    """Within the operator's namespace."""
    image: str
    database: Database
    chart: pathlib.Path = CHART

    def install(self, **values: Any) -> None:
        """Install the chart, or upgrade what is installed, and wait until everything is available."""
        repository, _, digest = self.image.partition("@")
        settings: dict[str, Any] = {
            "fullnameOverride": RELEASE,
            "image": {"repository": repository, "digest": digest},
            "database": {"existingSecret": SECRET},
            "tenants": list(GRANTS),
            "controller": {"replicas": 2},
            "server": {"replicas": 2},
            **values,
        }
        for grant in settings["tenants"]:  # they must be there, and a story may have deleted one
            self.team(grant["namespace"])
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "values.json"
            path.write_text(json.dumps(settings))
            # the CRD outlives every release, so another one may have made it
            options = ("--install", "--take-ownership", "--wait", f"--timeout={_WAIT_SECONDS}s", f"--values={path}")
            try:
                self.kubectl.helm("upgrade", RELEASE, str(self.chart), *options)
            except ClusterError as error:
                raise ClusterError(f"{error}\n{self.told()}") from error

    def uninstall(self) -> None:
        """Take away all of it, the CRD with every bundle too."""
        bundles: list[Any] = []
        with contextlib.suppress(ClusterError):  # there is no CRD
            bundles = self.kubectl("get", "dagbundles", "--all-namespaces")["items"]
        for bundle in bundles:
            within, name = self.kubectl.within(bundle["metadata"]["namespace"]), bundle["metadata"]["name"]
            within.text("delete", "dagbundle", name, "--ignore-not-found", "--wait=false")
            with contextlib.suppress(ClusterError):  # whether or not an operator is there to let it go, or has
                no_finalizers = '{"metadata": {"finalizers": null}}'
                within.text("patch", "dagbundle", name, "--type=merge", f"--patch={no_finalizers}")
        self.kubectl.helm("uninstall", RELEASE, "--ignore-not-found", "--wait", f"--timeout={_WAIT_SECONDS}s")
        gone = f"--timeout={_GONE_SECONDS}s"
        self.kubectl.text("delete", "crd", "dagbundles.dagbundle.dev", "--ignore-not-found", gone)

    def team(self, namespace: str, *, labels: dict[str, str] | None = None, accounts: Sequence[str] = ACCOUNTS) -> Team:
        """Make a team's namespace, if there is none, with accounts that may create Jobs."""
        team = Team(self.kubectl.within(namespace))
        metadata = {"name": namespace, "labels": RESTRICTED if labels is None else labels}
        self.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        team.kubectl.wait("serviceaccount/default", "create")
        if accounts:
            team.prepare(*accounts)
        return team

    def remove_namespaces(self) -> None:
        """Delete every namespace of the stories and wait until they are gone."""
        names = (*(grant["namespace"] for grant in GRANTS), UNLISTED, NAMESPACE)
        self.kubectl.text("delete", "namespace", *names, "--ignore-not-found", f"--timeout={_GONE_SECONDS}s")

    def pods(self, component: str) -> list[Any]:
        """Return the running pods of the controller or the server."""
        selector = f"--selector=app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component={component}"
        found = self.kubectl("get", "pods", selector)["items"]
        return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]

    def leader(self) -> str:
        """Return the name of the controller's pod that leads."""
        holder = self.kubectl("get", "lease", f"{RELEASE}-controller")["spec"].get("holderIdentity", "")
        found = [pod["metadata"]["name"] for pod in self.pods("controller") if pod["metadata"]["name"] in holder]
        if not found:
            raise ClusterError(f"No controller leads: the Lease names {holder!r}")
        return str(found[0])

    def until_led_by_another_than(self, pod: str) -> None:
        """Wait until another pod of the controller leads."""

        def another(lease: Any) -> bool:
            holder = lease["spec"].get("holderIdentity") or ""
            return bool(lease["metadata"]["name"] == f"{RELEASE}-controller" and holder and pod not in holder)

        self.kubectl.until("leases", another, seconds=_WAIT_SECONDS)

    def metric(self, pod: Any, name: str) -> float:
        """Return the value of a metric without labels, as a pod of the operator tells it."""
        about = pod["metadata"]
        path = f"/api/v1/namespaces/{about['namespace']}/pods/{about['name']}:{_METRICS_PORT}/proxy/metrics"
        for line in self.kubectl.text("get", "--raw", path).splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise ClusterError(f"{about['name']} has no metric {name}")

    def kill(self, component: str, *, pod: str = "") -> None:
        """Kill the processes of a component, or of one pod of it, without giving them time for anything."""
        for one in self.pods(component):
            if pod in {"", one["metadata"]["name"]}:
                for status in one["status"].get("containerStatuses", []):
                    self._kill(one["metadata"]["name"], status)

    def _kill(self, pod: str, status: Any) -> None:
        if isinstance(self.cluster, Cluster):
            if "running" in status["state"]:
                self.cluster.kill_container(status["containerID"])
        else:  # as near to it as an API has
            self.kubectl.text("delete", "pod", pod, "--force", "--grace-period=0", "--wait=false")

    def await_available(self, *components: str) -> None:
        """Wait until deployments are available again."""
        for component in components or ("controller", "server"):
            self.kubectl.text("rollout", "status", f"deployment/{RELEASE}-{component}", f"--timeout={_WAIT_SECONDS}s")

    def logs(self, component: str, *, tail: int = 60) -> str:
        """Return the ends of a component's logs."""
        selector = f"--selector=app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component={component}"
        with contextlib.suppress(ClusterError):
            return self.kubectl.text("logs", selector, "--prefix", f"--tail={tail}", "--all-containers")
        return "(no logs)"

    def told(self) -> str:
        """Return all that a human would look at, for the report of a failed test."""
        parts = [f"--- {name} ---\n{self.logs(name)}" for name in ("controller", "server")]
        with contextlib.suppress(ClusterError):
            parts.append(self.kubectl.text("get", "pods,events", "--output=wide"))
            for bundle in self.kubectl("get", "dagbundles", "--all-namespaces")["items"]:
                within = self.kubectl.within(bundle["metadata"]["namespace"])
                parts.append(Bundle(within, bundle["metadata"]["name"]).told())
        return "\n".join(parts)


@contextlib.contextmanager
def installed(cluster: AnyCluster, image: str, database_image: str, *, keep: bool = False) -> Iterator[Installation]:
    """Install the operator with its database and the tenants, and take all of it away at the end, unless it is kept."""
    kubectl = Kubectl(cluster.kubeconfig).within(NAMESPACE)
    made = Installation(cluster, kubectl, image, Database(kubectl, database_image))
    with layout.lock("operator"):  # another session may use the same cluster, and it can have but one
        _clean(made)
        try:
            made.team(NAMESPACE, accounts=())
            made.database.deploy()
            made.install()
            yield made
        finally:
            if not keep:
                _clean(made)


def _clean(operator: Installation) -> None:
    operator.uninstall()
    operator.remove_namespaces()
