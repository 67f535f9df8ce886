"""The chart on a real API server: what it refuses, what it allows whom, and what stays when it goes.

Nothing here runs pods, so a bare API server is enough and all of it takes seconds. Helm is the one that DAGBUNDLE_HELM
names, else the end-to-end tests' own, else the machine's.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import pathlib
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import yaml

from dagbundle.targets.airflow import vetting
from e2e.cluster import ApiServer, ClusterError, Kubectl, layout
from e2e.cluster.apiserver import NAMESPACES_AND_GARBAGE
from e2e.cluster.install import install
from e2e.cluster.processes import run

ROOT = pathlib.Path(__file__).parents[1]
CHART = ROOT / "charts" / "dagbundle-operator"
CASES = sorted((CHART / "ci").glob("*.yaml"))
MINIMAL = CHART / "ci" / "minimal-values.yaml"
GITOPS = ROOT / "examples" / "gitops"
RELEASE = "dagbundle-operator"
HOME = "dagbundle-system"
SALES, OPS, STRANGERS = "team-sales", "team-ops", "team-strangers"
CONTROLLER = f"system:serviceaccount:{HOME}:{RELEASE}-controller"
SERVER = f"system:serviceaccount:{HOME}:{RELEASE}-server"
KEEP = "helm.sh/resource-policy"


@dataclasses.dataclass(frozen=True, slots=True)
class Helm:
    """Helm with the chart and a namespace."""

    program: str
    kubeconfig: pathlib.Path | None = None

    def __call__(self, *arguments: str | pathlib.Path) -> str:
        """Run a command and return what it printed.

        Raises:
            ClusterError: It failed; with what it said.
        """
        environment = {"KUBECONFIG": str(self.kubeconfig or os.devnull)}
        return run(self.program, f"--namespace={HOME}", *map(str, arguments), environment=environment)

    def render(self, *arguments: str | pathlib.Path) -> list[Any]:
        """Return the objects that the chart makes of some values."""
        return documents(self("template", RELEASE, CHART, *arguments))

    def install(self, *arguments: str | pathlib.Path) -> None:
        """Install the chart, or upgrade it, for two teams."""
        teams = json.dumps([{"namespace": SALES, "dagIdPrefixes": ["ingest."]}, {"namespace": OPS}])
        values = ("--values", MINIMAL, f"--set-json=tenants={teams}")
        self("upgrade", "--install", RELEASE, CHART, *values, *arguments)


@pytest.fixture(scope="module")
def helm_program() -> str:
    """Helm's path."""
    own = layout.program("helm")
    found = os.environ.get("DAGBUNDLE_HELM") or (str(own) if own.exists() else shutil.which("helm"))
    if not found:
        install()
        found = str(own)
    return found


@pytest.fixture(scope="module")
def helm(helm_program: str) -> Helm:
    """Helm without a cluster."""
    return Helm(helm_program)


@dataclasses.dataclass(frozen=True, slots=True)
class Platform:
    """An API server that has the chart, as its administrator sees it."""

    server: ApiServer
    helm: Helm

    @property
    def admin(self) -> Kubectl:
        """The administrator's kubectl."""
        return self.server.kubectl

    def as_user(self, name: str) -> Kubectl:
        """Return somebody's kubectl."""
        return Kubectl(self.server.kubeconfig_for(name))

    def as_account(self, name: str) -> Kubectl:
        """Return the kubectl of a ServiceAccount, by its full name, with a token of its own."""
        _, _, namespace, account = name.split(":")
        token = self.admin.within(namespace).text("create", "token", account).strip()
        path = self.server.folder / f"{account}.token.kubeconfig"
        authority = base64.b64encode(self.server.authority.certificate.read_bytes()).decode()
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "it", "cluster": {"server": self.server.url, "certificate-authority-data": authority}}
            ],
            "users": [{"name": account, "user": {"token": token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": account}}],
            "current-context": "it",
        }
        path.write_text(json.dumps(content))
        return Kubectl(path)

    def allowed(
        self, who: str, *actions: tuple[str, str], namespace: str = "", name: str = ""
    ) -> list[tuple[str, str]]:
        """Ask the API server which of some actions an account may do: verb, and `jobs.batch` or `pods/exec`."""
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{HOME}", "system:authenticated"]
        reviews = []
        for verb, what in actions:
            full, _, sub = what.partition("/")
            plural, _, group = full.partition(".")
            about = {"verb": verb, "resource": plural, "group": group, "subresource": sub}
            attributes = about | {"namespace": namespace, "name": name}
            review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview"}
            reviews.append(review | {"spec": {"user": who, "groups": groups, "resourceAttributes": attributes}})
        every = json.dumps({"apiVersion": "v1", "kind": "List", "items": reviews})
        answers = self.admin.text("create", "--filename=-", "--output=jsonpath={.status.allowed} ", stdin=every).split()
        return [action for action, answer in zip(actions, answers, strict=True) if answer == "true"]

    def allows(self, who: str, verb: str, what: str, *, namespace: str = "", name: str = "") -> bool:
        """Ask the API server about one action."""
        return self.allowed(who, (verb, what), namespace=namespace, name=name) != []


def documents(text: str) -> list[Any]:
    return [item for item in yaml.safe_load_all(text) if item]


def role_binding(namespace: str, role: str, user: str, *, kind: str = "ClusterRole") -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": f"{role}-{user}", "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}],
    }


def bundle(namespace: str = SALES, name: str = "sales", accounts: Sequence[str | None] = (None,)) -> dict[str, Any]:
    subdirs = [
        {"path": f"part{number}", **({"serviceAccountName": account} if account else {})}
        for number, account in enumerate(accounts)
    ]
    return {
        "apiVersion": "dagbundle.dev/v1alpha1",
        "kind": "DagBundle",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"source": {"image": {"reference": "registry.example/sales-dags:1"}}, "subdirs": subdirs},
    }


def try_create(kubectl: Kubectl, manifest: dict[str, Any]) -> None:
    kubectl.text("create", "--dry-run=server", "--filename=-", stdin=json.dumps(manifest))


def prepare(server: ApiServer) -> None:
    """Make the namespaces and users: alice edits, bella writes bundles only, vera views."""
    for name in (HOME, SALES, OPS, STRANGERS):
        server.kubectl.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    writer = {
        "apiGroups": ["dagbundle.dev"],
        "resources": ["dagbundles"],
        "verbs": ["create", "get", "patch", "update"],
    }
    one = {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["impersonate"]}
    many = one | {"resourceNames": ["ingest-parser", *(f"parser{number}" for number in range(64))]}
    rbac = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole"}
    server.kubectl.apply(
        {**rbac, "metadata": {"name": "bundle-writer"}, "rules": [writer]},
        {**rbac, "metadata": {"name": "some-accounts"}, "rules": [many]},
        role_binding(SALES, "edit", "alice"),
        role_binding(SALES, "view", "vera"),
        role_binding(SALES, "bundle-writer", "bella"),
        role_binding(SALES, "some-accounts", "bella"),
    )


@pytest.fixture(scope="module")
def platform(helm_program: str) -> Iterator[Platform]:
    """The chart, installed for two teams on an API server of this module's own."""
    install(api_only=True)
    controllers = (*NAMESPACES_AND_GARBAGE, "clusterrole-aggregation-controller")
    with ApiServer(controllers=controllers) as server:
        prepare(server)
        made = Platform(server, Helm(helm_program, server.kubeconfig))
        made.helm.install()
        server.kubectl.wait("crd/dagbundles.dagbundle.dev", "condition=Established")
        await_policy(made)
        yield made


def await_policy(platform: Platform) -> None:
    """Wait until the API server applies the admission policies and alice's role has what was aggregated to it."""
    bella, alice = platform.as_user("bella"), platform.as_user("alice")
    end = time.monotonic() + 60
    while True:
        allowed = {user: _succeeds(user, bundle(accounts=["someone"])) for user in (alice, bella)}
        large = bundle()
        large["spec"]["pod"] = {"env": [{"name": "A", "value": "x" * 300_000}]}
        if allowed == {alice: True, bella: False} and not _succeeds(alice, large):
            return
        if time.monotonic() > end:
            pytest.fail(f"the admission policy did not come into force: {allowed}")
        time.sleep(0.2)


def _succeeds(kubectl: Kubectl, manifest: dict[str, Any]) -> bool:
    try:
        try_create(kubectl, manifest)
    except ClusterError:
        return False
    return True


# --- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", CASES, ids=lambda path: path.stem)
def test_helm_finds_nothing_to_complain_of(helm: Helm, values: pathlib.Path) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART, "--values", values)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("controler.replicas=2", "additional properties 'controler' not allowed"),
        (
            "tenants[0].namespace=a,tenants[0].prefixes={a}",
            "at '/tenants/0': additional properties 'prefixes' not allowed",
        ),
        ("tenants[0].dagIdPrefixes={a}", "at '/tenants/0': missing property 'namespace'"),
        ("controller.replicas=0", "at '/controller/replicas': minimum: got 0, want 1"),
        ("image.digest=abc", "at '/image/digest': 'abc' does not match pattern"),
        ("tenants[0].namespace=a,tenants[1].namespace=a", "namespace a is listed more than once"),
        (f"tenants[0].namespace={HOME}", "the operator's own namespace, where a team's pods could read the database's"),
        ("tenants[0].namespace=kube-system", "kube-system is one of Kubernetes' own namespaces"),
        ("controller.extraEnv[0].name=DAGBUNDLE_PORT", "controller.extraEnv: DAGBUNDLE_PORT is set by the chart"),
        ("airflow.version=3.0", "at '/airflow/version': value must be one of '', '3.1', '3.2', '3.3'"),
        ("airflow.version=3.3", "airflow.fernetKeySecret.name is required with airflow.version"),
        (
            "airflow.version=3.3,airflow.fernetKeySecret.name=a,airflow.config.core.fernet_key=b",
            "fernet_key is a secret, and values are not",
        ),
        (
            "airflow.version=3.3,airflow.fernetKeySecret.name=a,server.extraEnv[0].name=AIRFLOW__CORE__FERNET_KEY",
            "server.extraEnv: AIRFLOW__CORE__FERNET_KEY is set by the chart",
        ),
        (r"airflow.allowed.pools={a\,b}", "at '/airflow/allowed/pools/0': 'a,b' does not match pattern"),
        (
            "database.existingSecret=",
            "database.existingSecret is required: a Secret in the release's namespace whose key",
        ),
        ("image.repository=", "image.repository is required: the image that the project's Dockerfile builds"),
    ],
)
def test_wrong_values_are_refused_with_what_is_wrong(helm: Helm, setting: str, message: str) -> None:
    with pytest.raises(ClusterError) as refused:
        helm.render("--values", MINIMAL, f"--set={setting}")
    assert message in str(refused.value)


def test_the_values_of_the_gitops_examples_are_valid(helm: Helm, tmp_path: pathlib.Path) -> None:
    (flux,) = (item for item in documents((GITOPS / "flux/operator.yaml").read_text()) if item["kind"] == "HelmRelease")
    (argo,) = documents((GITOPS / "argocd/operator.yaml").read_text())
    for name, values in (("flux", flux["spec"]["values"]), ("argo", argo["spec"]["source"]["helm"]["valuesObject"])):
        (tmp_path / name).write_text(yaml.safe_dump(values))
        assert helm.render("--values", tmp_path / name)


# --- what is rendered ------------------------------------------------------------------------------------------------


def test_the_crd_is_installed_as_it_was_generated_and_is_kept(helm: Helm) -> None:
    (crd,) = helm.render("--values", MINIMAL, "--show-only", "templates/crd.yaml")
    generated = yaml.safe_load((CHART / "files" / "dagbundles.dagbundle.dev.yaml").read_text())
    assert crd["metadata"]["annotations"].pop(KEEP) == "keep"
    assert crd["spec"] == generated["spec"]


def test_the_grants_file_is_what_the_values_say(helm: Helm) -> None:
    values = CHART / "ci" / "full-values.yaml"
    (config,) = helm.render("--values", values, "--show-only", "templates/grants.yaml")
    assert yaml.safe_load(config["data"]["grants.yaml"])["tenants"] == yaml.safe_load(values.read_text())["tenants"]


def test_a_changed_grant_starts_new_controllers_and_leaves_the_servers(helm: Helm) -> None:
    def annotations(setting: str) -> list[dict[str, str]]:
        shown = [f"--show-only=templates/{component}/deployment.yaml" for component in ("controller", "server")]
        made = helm.render("--values", MINIMAL, f"--set={setting}", *shown)
        return [item["spec"]["template"]["metadata"]["annotations"] for item in made]

    before, after = annotations("tenants[0].namespace=a"), annotations("tenants[0].namespace=b")
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_only_the_server_has_the_key_and_nobody_has_the_databases_url_in_plain_text(helm: Helm) -> None:
    workloads = [item for item in helm.render("--values", MINIMAL) if item["kind"] == "Deployment"]
    for workload in workloads:
        text = json.dumps(workload["spec"]["template"]["spec"]["volumes"])
        assert ("tls.key" in text) == workload["metadata"]["name"].endswith("-server")
        containers = workload["spec"]["template"]["spec"]["containers"]
        (url,) = (entry for entry in containers[0]["env"] if entry["name"] == "DAGBUNDLE_DATABASE_URL")
        assert url["valueFrom"]["secretKeyRef"] == {"name": "dagbundle-database", "key": "url"}


def test_the_controller_alone_has_a_url_past_a_pooler_and_only_where_it_is_named(helm: Helm) -> None:
    controller, server = environments(helm, "--set=database.listenKey=direct")
    assert controller["DAGBUNDLE_LISTEN_URL"] == {"secretKeyRef": {"name": "dagbundle-database", "key": "direct"}}
    assert "DAGBUNDLE_LISTEN_URL" not in server
    assert all("DAGBUNDLE_LISTEN_URL" not in told for told in environments(helm))


def environments(helm: Helm, *arguments: str | pathlib.Path) -> list[dict[str, Any]]:
    """Return the variables of controller and server, and with them the image of each."""
    shown = [f"--show-only=templates/{component}/deployment.yaml" for component in ("controller", "server")]
    found = []
    for item in helm.render("--values", MINIMAL, *shown, *arguments):
        (container,) = item["spec"]["template"]["spec"]["containers"]
        told = {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}
        found.append({"image": container["image"], **told})
    return found


AIRFLOW = ("--set-string=airflow.version=3.3", "--set=airflow.fernetKeySecret.name=fernet")


def test_both_programs_are_told_to_publish_into_airflow_and_have_the_image_and_the_key_for_it(helm: Helm) -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    for told in environments(helm, *AIRFLOW):
        assert told["image"] == f"registry.example/dagbundle-operator:{version}-airflow3.3"
        assert told["DAGBUNDLE_TARGET"] == "airflow"
        assert told["AIRFLOW__CORE__FERNET_KEY"] == {"secretKeyRef": {"name": "fernet", "key": "fernet-key"}}


def test_without_airflow_nothing_speaks_of_it(helm: Helm) -> None:
    for told in environments(helm, "--set=airflow.fernetKeySecret.name=fernet"):
        assert [name for name in told if "AIRFLOW" in name or "TARGET" in name or "ALLOWED" in name] == []
        assert "airflow" not in told["image"]


def test_settings_of_airflow_cfg_reach_the_programs_as_airflow_reads_them(helm: Helm) -> None:
    config = {"core": {"max_active_tasks_per_dag": 1000000, "compress_serialized_dags": True}, "operators": {"a": "b"}}
    for told in environments(helm, *AIRFLOW, f"--set-json=airflow.config={json.dumps(config)}"):
        assert told["AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG"] == "1000000"
        assert told["AIRFLOW__CORE__COMPRESS_SERIALIZED_DAGS"] == "true"
        assert told["AIRFLOW__OPERATORS__A"] == "b"


def test_what_the_values_allow_is_what_the_program_reads(helm: Helm) -> None:
    usual = vetting.Allowed()
    wider = {
        "classes": ["a.B", "c.D"], "pools": ["x"], "executors": [], "triggers": ["a.T"], "callbacks": [],
        "callbackExecutors": ["default"],
    }  # fmt: skip
    for told in environments(helm, *AIRFLOW):
        assert vetting.read(told) == usual
    for told in environments(helm, *AIRFLOW, f"--set-json=airflow.allowed={json.dumps(wider)}"):
        assert vetting.read(told) == vetting.Allowed(
            classes=frozenset({"a.B", "c.D"}), triggers=frozenset({"a.T"}), pools=frozenset({"x"}),
            executors=frozenset(), callbacks=frozenset(), callback_executors=frozenset({"default"}),
        )  # fmt: skip


def test_every_switch_off_leaves_what_cannot_be_left_out(helm: Helm) -> None:
    made = {item["kind"] for item in helm.render("--values", CHART / "ci" / "bare-values.yaml")}
    assert made == {
        "ServiceAccount", "Secret", "ConfigMap", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Service",
        "Deployment",
    }  # fmt: skip


def test_the_dashboard_reaches_grafana_as_it_is(helm: Helm) -> None:
    shown = helm.render("--values", CHART / "ci" / "full-values.yaml", "--show-only", "templates/monitoring.yaml")
    (config,) = (item for item in shown if item["kind"] == "ConfigMap")
    assert json.loads(config["data"]["dagbundle.json"]) == json.loads((CHART / "files" / "dashboard.json").read_text())


def test_a_digest_wins_over_the_tag(helm: Helm) -> None:
    digest = "sha256:" + 64 * "a"
    (made,) = helm.render(
        "--values",
        MINIMAL,
        f"--set-string=image.digest={digest},image.tag=1",
        "--show-only=templates/server/deployment.yaml",
    )
    pod = made["spec"]["template"]["spec"]
    images = {container["image"] for container in (*pod["containers"], *pod["initContainers"])}
    assert images == {f"registry.example/dagbundle-operator@{digest}"}


# --- on an API server ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", CASES, ids=lambda path: path.stem)
def test_the_api_server_knows_every_field_of_every_object(platform: Platform, values: pathlib.Path) -> None:
    made = [item for item in platform.helm.render("--values", values) if item["kind"] != "ServiceMonitor"]
    everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": made})
    how = ("--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict")
    platform.admin.text("apply", *how, "--filename=-", stdin=everything)


def test_the_notes_name_the_teams_and_their_prefixes(platform: Platform) -> None:
    notes = platform.helm("get", "notes", RELEASE)
    assert f"  - {SALES}: dag_ids that begin with ingest.\n  - {OPS}\n" in notes
    assert "WARNING" not in notes


@pytest.mark.parametrize("component", ["controller", "server"])
def test_the_pods_meet_the_restricted_pod_security_standard(platform: Platform, component: str) -> None:
    strict = "pod-security.kubernetes.io/enforce=restricted"
    platform.admin.text("label", "namespace", HOME, strict, "--overwrite")
    workload = platform.admin.within(HOME)("get", "deployment", f"{RELEASE}-{component}")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "try-", "namespace": HOME}}
    try_create(platform.admin, pod | {"spec": workload["spec"]["template"]["spec"]})


FORBIDDEN = [
    *((verb, "secrets") for verb in ("get", "list", "watch", "create", "update", "patch", "delete")),
    *((verb, "serviceaccounts") for verb in ("get", "list", "create", "update", "patch", "delete")),
    ("create", "serviceaccounts/token"),
    *(
        (verb, f"{kind}.rbac.authorization.k8s.io")
        for kind in ("roles", "rolebindings", "clusterroles", "clusterrolebindings")
        for verb in ("create", "update", "patch", "delete", "bind", "escalate")
    ),
    ("create", "pods"), ("create", "pods/exec"), ("get", "pods/log"), ("delete", "pods"),
    ("create", "jobs.batch"), ("update", "jobs.batch"), ("patch", "jobs.batch"),
    *((verb, "dagbundles.dagbundle.dev") for verb in ("create", "delete", "update")),
    ("get", "configmaps"), ("update", "namespaces"), ("impersonate", "users"), ("impersonate", "groups"),
]  # fmt: skip


@pytest.mark.parametrize("account", [CONTROLLER, SERVER], ids=["controller", "server"])
@pytest.mark.parametrize("namespace", ["", HOME, SALES, "kube-system"])
def test_the_operators_accounts_cannot_read_secrets_or_make_accounts_roles_bindings_or_pods(
    platform: Platform, account: str, namespace: str
) -> None:
    assert platform.allowed(account, *FORBIDDEN, namespace=namespace) == []


@pytest.mark.parametrize(
    ("account", "namespace", "allowed"),
    [
        *((CONTROLLER, namespace, namespace in {SALES, OPS}) for namespace in (SALES, OPS, STRANGERS, HOME, "")),
        *((SERVER, namespace, False) for namespace in (SALES, HOME, "")),
    ],
)
def test_only_the_controller_impersonates_and_only_in_teams_namespaces(
    platform: Platform, account: str, namespace: str, allowed: bool
) -> None:
    assert platform.allows(account, "impersonate", "serviceaccounts", namespace=namespace, name="default") is allowed


@pytest.mark.parametrize(
    ("account", "verb", "resource", "where"),
    [
        (CONTROLLER, "watch", "dagbundles.dagbundle.dev", ""),
        (CONTROLLER, "patch", "dagbundles.dagbundle.dev/status", STRANGERS),
        (CONTROLLER, "patch", "dagbundles.dagbundle.dev", STRANGERS),
        (CONTROLLER, "create", "events", STRANGERS),
        (CONTROLLER, "watch", "jobs.batch", ""),
        (CONTROLLER, "watch", "pods", ""),
        (CONTROLLER, "watch", "deployments.apps", ""),
        (CONTROLLER, "watch", "statefulsets.apps", ""),
        (CONTROLLER, "delete", "jobs.batch", SALES),
        (CONTROLLER, "list", "events", SALES),
        (CONTROLLER, "create", "leases.coordination.k8s.io", HOME),
        (SERVER, "create", "tokenreviews.authentication.k8s.io", ""),
        (SERVER, "get", "pods", SALES),
    ],
)
def test_the_operators_accounts_may_do_their_work(
    platform: Platform, account: str, verb: str, resource: str, where: str
) -> None:
    assert platform.allows(account, verb, resource, namespace=where)


def test_the_server_sees_no_pods_where_no_team_is(platform: Platform) -> None:
    assert not platform.allows(SERVER, "get", "pods", namespace="kube-system")


def test_the_controller_renews_its_own_lease_and_no_other(platform: Platform) -> None:
    lease = "leases.coordination.k8s.io"
    assert platform.allows(CONTROLLER, "update", lease, namespace=HOME, name=f"{RELEASE}-controller")
    assert not platform.allows(CONTROLLER, "update", lease, namespace=HOME, name="another")
    assert not platform.allows(CONTROLLER, "create", lease, namespace="kube-node-lease")


def documented_role() -> list[Any]:
    """Return what docs/tenancy.md tells a team to apply."""
    text = (ROOT / "docs" / "tenancy.md").read_text()
    (found,) = (block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "kind: Role\n" in block)
    return documents(found)


def job(namespace: str, account: str) -> dict[str, Any]:
    container = {"name": "parser", "image": "registry.example/sales-dags:1"}
    pod = {"restartPolicy": "Never", "serviceAccountName": account, "containers": [container]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "try", "namespace": namespace},
        "spec": {"template": {"spec": pod}},
    }


def test_the_controller_creates_a_job_as_an_account_that_has_the_documented_role(platform: Platform) -> None:
    platform.admin.apply(*documented_role())
    controller, account = platform.as_account(CONTROLLER), f"system:serviceaccount:{SALES}:ingest-parser"
    wanted = json.dumps(job(SALES, "ingest-parser"))
    as_account = ("create", "--dry-run=server", "--filename=-", f"--as={account}")
    controller.text(*as_account, stdin=wanted)
    with pytest.raises(ClusterError, match=r'cannot create resource "jobs"'):
        controller.text("create", "--dry-run=server", "--filename=-", stdin=wanted)
    with pytest.raises(ClusterError, match=r'cannot list resource "secrets"'):
        controller.text("get", "secrets", f"--namespace={SALES}", f"--as={account}")
    with pytest.raises(ClusterError, match="cannot impersonate"):
        controller.text("get", "pods", f"--as=system:serviceaccount:{STRANGERS}:default")


@pytest.mark.parametrize(("user", "writes"), [("alice", True), ("vera", False)])
def test_who_may_edit_a_namespace_writes_bundles_and_who_may_view_it_sees_them(
    platform: Platform, user: str, writes: bool
) -> None:
    kubectl = platform.as_user(user)
    kubectl.text("get", "dagbundles", f"--namespace={SALES}")
    assert _succeeds(kubectl, bundle(name="mine")) is writes
    assert not platform.allows(user, "patch", "dagbundles.dagbundle.dev/status", namespace=SALES)


def patch(kubectl: Kubectl, change: dict[str, Any], *, name: str = "sales", namespace: str = SALES) -> None:
    where = (f"--namespace={namespace}", "--type=merge")
    kubectl.text("patch", "dagbundle", name, *where, f"--patch={json.dumps(change)}")


# --- the admission policies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accounts", "refused"),
    [
        ([None], "default"),
        (["ingest-parser", "secret-reader"], "secret-reader"),
        (["ingest-parser", None], "default"),
        ([f"parser{number}" for number in range(23)] + ["secret-reader"], "secret-reader"),
    ],
)
def test_an_account_that_may_not_be_impersonated_is_refused_by_name_with_the_rule_to_add(
    platform: Platform, accounts: list[str | None], refused: str
) -> None:
    with pytest.raises(ClusterError) as denied:
        try_create(platform.as_user("bella"), bundle(accounts=accounts))
    text = str(denied.value)
    assert "Forbidden" in text
    assert f"You may not use the ServiceAccount {refused} of the namespace {SALES}" in text
    assert f'apiGroups: [""], resources: [serviceaccounts], resourceNames: [{refused}], verbs: [impersonate]' in text


@pytest.mark.parametrize("accounts", [["ingest-parser"], ["ingest-parser"] * 64, [f"parser{i}" for i in range(24)]])
def test_accounts_that_may_be_impersonated_by_name_pass(platform: Platform, accounts: list[str]) -> None:
    try_create(platform.as_user("bella"), bundle(accounts=accounts))


def test_more_accounts_than_can_be_asked_about_one_by_one_are_refused_with_what_to_do(platform: Platform) -> None:
    with pytest.raises(
        ClusterError, match="may name 24 different ServiceAccounts, unless who writes it may impersonate"
    ):
        try_create(platform.as_user("bella"), bundle(accounts=[f"parser{number}" for number in range(25)]))


def test_who_may_impersonate_every_account_of_the_namespace_may_name_all(platform: Platform) -> None:
    try_create(platform.as_user("alice"), bundle(accounts=[f"anyone{number}" for number in range(64)]))


def test_a_bundle_without_subdirs_needs_the_default_account(platform: Platform) -> None:
    manifest = bundle()
    del manifest["spec"]["subdirs"]
    with pytest.raises(ClusterError, match="may not use the ServiceAccount default"):
        try_create(platform.as_user("bella"), manifest)


def test_a_changed_spec_is_judged_again_and_a_changed_label_is_not(platform: Platform) -> None:
    platform.as_user("alice").create(bundle(name="judged", accounts=["secret-reader"]))
    bella = platform.as_user("bella")
    patch(bella, {"metadata": {"labels": {"owner": "bella"}}}, name="judged")
    with pytest.raises(ClusterError, match="may not use the ServiceAccount secret-reader"):
        patch(bella, {"spec": {"suspend": True}}, name="judged")


def test_the_controller_may_change_finalizers_and_status_and_nothing_else(platform: Platform) -> None:
    platform.as_user("alice").create(bundle(name="kept"))
    controller = platform.as_account(CONTROLLER)
    patch(controller, {"metadata": {"finalizers": ["dagbundle.dev/deactivate"]}}, name="kept")
    status = bundle(name="kept") | {"status": {"revision": 7}}
    del status["spec"]
    controller.text("apply", "--server-side", "--subresource=status", "--filename=-", stdin=json.dumps(status))
    for change in (
        {"spec": {"suspend": True}},
        {"metadata": {"labels": {"a": "b"}}},
        {"metadata": {"annotations": {"a": "b"}}},
    ):
        with pytest.raises(
            ClusterError, match="The controller may change the finalizers of a DagBundle and nothing else"
        ):
            patch(controller, change, name="kept")
    patch(controller, {"metadata": {"finalizers": None}}, name="kept")


@pytest.mark.parametrize(
    "pod",
    [
        {"env": [{"name": "A", "value": "x" * 300_000}]},
        {"env": [{"name": f"A{index}", "value": "x" * 1_500} for index in range(200)]},
        {"volumes": [{"name": "a", "projected": {"sources": [{"secret": {"name": "a"}}] * 20_000}}]},
        {"tolerations": [{f"k{index}": "v" for index in range(60_000)}]},
    ],
)
def test_a_spec_that_passes_on_more_than_anybody_needs_is_refused(platform: Platform, pod: dict[str, Any]) -> None:
    manifest = bundle()
    manifest["spec"]["pod"] = pod
    with pytest.raises(ClusterError, match="The spec of a DagBundle has 256 KiB at most"):
        try_create(platform.as_user("alice"), manifest)


def test_a_spec_with_many_ordinary_values_passes(platform: Platform) -> None:
    manifest = bundle()
    manifest["spec"]["pod"] = {
        "env": [{"name": f"A{index}", "value": "x" * 500} for index in range(200)],
        "volumes": [{"name": f"v{index}", "configMap": {"name": f"c{index}"}} for index in range(50)],
    }
    manifest["spec"]["parser"] = {"config": {"text": "x" * 10_000}}
    try_create(platform.as_user("alice"), manifest)


@pytest.mark.parametrize(
    "metadata",
    [
        {"labels": {f"k{index}": "v" for index in range(101)}},
        {"finalizers": [f"example.com/f{index}" for index in range(101)]},
    ],
)
def test_metadata_with_more_than_anybody_needs_is_refused(platform: Platform, metadata: dict[str, Any]) -> None:
    manifest = bundle()
    manifest["metadata"] |= metadata
    with pytest.raises(ClusterError, match="A DagBundle has 100 labels, finalizers and ownerReferences each at most"):
        try_create(platform.as_user("alice"), manifest)


def test_a_deleted_namespace_goes_although_its_bundle_had_a_finalizer(platform: Platform) -> None:
    admin, controller = platform.admin, platform.as_account(CONTROLLER)
    name = "team-gone"
    admin.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    manifest = bundle(name)
    manifest["metadata"]["finalizers"] = ["dagbundle.dev/deactivate"]
    admin.create(manifest)
    admin.text("delete", "namespace", name, "--wait=false")
    admin.within(name).until("dagbundles", lambda item: "deletionTimestamp" in item["metadata"])
    patch(controller, {"metadata": {"finalizers": None}}, namespace=name)
    admin.wait(f"namespace/{name}", "delete", seconds=60)


# --- upgrade and uninstall -------------------------------------------------------------------------------------------


def certificate(platform: Platform) -> dict[str, str]:
    data: dict[str, str] = platform.admin.within(HOME)("get", "secret", f"{RELEASE}-tls")["data"]
    return data


def test_an_upgrade_keeps_the_certificate(platform: Platform) -> None:
    before = certificate(platform)
    platform.helm.install("--set=controller.maxParallelPods=7")
    assert certificate(platform) == before


def test_the_certificate_is_for_the_servers_name_and_by_the_authority_that_parsers_trust(
    platform: Platform, tmp_path: pathlib.Path
) -> None:
    for name, content in certificate(platform).items():
        (tmp_path / name).write_bytes(base64.b64decode(content))
    workload = platform.admin.within(HOME)("get", "deployment", f"{RELEASE}-controller")
    environment = workload["spec"]["template"]["spec"]["containers"][0]["env"]
    (url,) = (entry["value"] for entry in environment if entry["name"] == "DAGBUNDLE_SERVER_URL")
    host = re.fullmatch(r"https://(.+):8443", url)
    assert host
    line = ["openssl", "verify", "-CAfile", tmp_path / "ca.crt", "-verify_hostname", host[1], tmp_path / "tls.crt"]
    subprocess.run(line, check=True, capture_output=True)
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")


def test_uninstalling_keeps_the_crd_and_the_bundles_and_installing_again_takes_them_over(platform: Platform) -> None:
    admin = platform.admin
    platform.as_user("alice").create(bundle(name="survivor"))
    platform.helm("uninstall", RELEASE)
    assert admin.within(SALES)("get", "dagbundle", "survivor")["spec"]["source"]
    assert [
        item for item in admin("get", "clusterroles")["items"] if item["metadata"]["name"].startswith(RELEASE)
    ] == []
    assert admin("get", "validatingadmissionpolicies")["items"] == []
    platform.helm.install()
    await_policy(platform)
    assert admin.within(SALES)("get", "dagbundle", "survivor")["metadata"]["name"] == "survivor"
