"""What goes wrong around a parser's Job becomes a condition that says what happened, and what to do next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from e2e import dags
from e2e.cluster import ClusterError, bases
from e2e.cluster.given import AnyCluster
from e2e.installation import UNLISTED, Installation
from e2e.tenants import Bundle, Team, manifest

Images = Callable[..., str]
NEVER = "1h"
"""A retry interval that no test lives to see."""


@pytest.fixture(scope="session")
def image(tenant_image: Images) -> str:
    """An image with one good DAG."""
    return tenant_image({"good.py": dags.dag("good")}, tag="good")


@pytest.fixture
def quota(operator: Installation) -> Iterator[Callable[..., Team]]:
    """Limit a namespace for the time of a test."""
    team = operator.team("team-quota")

    def limit(**hard: str) -> Team:
        spec = {"hard": {name.replace("__", "/").replace("_", "."): value for name, value in hard.items()}}
        team.kubectl.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}, "spec": spec})
        used = "jsonpath={.status.hard}"
        team.kubectl.wait("resourcequota/small", used)
        return team

    yield limit
    team.kubectl.text("delete", "dagbundles", "--all", "--timeout=120s")
    team.kubectl.text("delete", "resourcequota", "--all")


def test_an_image_that_cannot_be_pulled_is_named(cluster: AnyCluster, team_b: Team) -> None:
    missing = f"{cluster.registry}/nobody/pushed:this"
    bundle = team_b.apply("missing", missing)
    message = bundle.wait_reason("ImagePullBackOff")
    assert missing in message
    assert "spec.pod.imagePullSecrets" in message
    assert bundle.condition("Reconciling")["status"] == "True"


def test_a_bundle_recovers_from_a_wrong_image(cluster: AnyCluster, team_b: Team, image: str) -> None:
    bundle = team_b.apply("recovers", f"{cluster.registry}/nobody/pushed:that")
    bundle.wait_reason("ImagePullBackOff")
    bundle.set_image(image)
    bundle.wait_ready()


def test_a_parser_that_needs_more_memory_than_its_limit_says_so(team_b: Team, image: str) -> None:
    little = {"resources": {"requests": {"cpu": "100m", "memory": "48Mi"}, "limits": {"cpu": "1", "memory": "48Mi"}}}
    bundle = team_b.apply("little", image, pod=little, retryInterval=NEVER)
    message = bundle.wait_reason("RunFailed")
    assert "memory" in message
    assert "spec.pod.resources.limits.memory" in message


def test_a_job_that_takes_too_long_says_so(team_b: Team, tenant_image: Images) -> None:
    slow = tenant_image({"slow.py": dags.slow("slow", 60)}, tag="slow")
    bundle = team_b.apply("late", slow, timeout="8s", parser={"fileTimeout": "2m"}, retryInterval=NEVER)
    message = bundle.wait_reason("RunFailed")
    assert "DeadlineExceeded" in message
    assert "spec.timeout" in message


def test_a_quota_that_refuses_the_job_is_named(quota: Callable[..., Team], image: str) -> None:
    bundle = quota(count__jobs_batch="0").apply("limited", image)
    message = bundle.wait_reason("JobRefused")
    assert "exceeded quota: small" in message


def test_a_quota_that_refuses_its_pods_is_named(quota: Callable[..., Team], image: str) -> None:
    bundle = quota(requests_memory="64Mi").apply("limited", image)
    message = bundle.wait_reason("QuotaExceeded")
    assert "exceeded quota: small" in message


def test_a_bundle_goes_on_when_the_quota_is_raised(quota: Callable[..., Team], image: str) -> None:
    bundle = quota(pods="0").apply("patient", image)
    bundle.wait_reason("QuotaExceeded")
    quota(pods="5")
    bundle.wait_ready()


def test_a_pod_that_pod_security_refuses_says_which_field(team_b: Team, image: str) -> None:
    outside = {"volumes": [{"name": "node", "hostPath": {"path": "/etc"}}]}
    message = team_b.apply("curious", image, pod=outside).wait_reason("PodSecurity")
    assert "hostPath" in message


def test_an_image_that_runs_as_root_is_refused(cluster: AnyCluster, team_b: Team, operator: Installation) -> None:
    assert operator.image
    digest = cluster.push_image(bases.debian(), "root:1")
    message = team_b.apply("root", f"{cluster.registry}/root@{digest}").wait_reason("CreateContainerConfigError")
    assert "run as root" in message


def test_a_missing_secret_is_named(team_b: Team, image: str) -> None:
    env = {"envFrom": [{"secretRef": {"name": "nobody-made-this"}}]}
    message = team_b.apply("secretive", image, pod=env).wait_reason("CreateContainerConfigError")
    assert "nobody-made-this" in message


def test_a_pod_that_fits_nowhere_says_so(team_b: Team, image: str) -> None:
    message = team_b.apply("picky", image, pod={"nodeSelector": {"moon": "full"}}).wait_reason("Unschedulable")
    assert "node" in message


def test_an_account_that_may_not_create_jobs_is_told_the_role_to_add(operator: Installation, image: str) -> None:
    bare = operator.team("team-bare", accounts=())
    bare.kubectl.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "parser"}})
    bare.kubectl.text("delete", "rolebinding", "dagbundle-parser", "--ignore-not-found")
    bundle = bare.apply("denied", image)
    message = bundle.wait_reason("AccessDenied")
    assert bundle.condition("Stalled")["status"] == "True"
    assert "ServiceAccount team-bare/parser may not create Jobs" in message
    assert "kubectl create role dagbundle-parser-parser -n team-bare --verb=create --resource=jobs.batch" in message


def test_what_access_denied_says_helps(operator: Installation, image: str) -> None:
    bare = operator.team("team-bare", accounts=())
    bare.kubectl.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "needy"}})
    bundle = bare.apply("helped", image, [{"path": ".", "serviceAccountName": "needy"}])
    message = bundle.wait_reason("AccessDenied")
    for line in message.rpartition("with: ")[2].split(" && "):
        program, *arguments = line.split()
        assert program == "kubectl"
        bare.kubectl.text(*arguments)
    bundle.reconcile()
    bundle.wait_ready()


def test_a_namespace_that_is_not_listed_is_not_enabled(operator: Installation, image: str) -> None:
    bundle = operator.team(UNLISTED).apply("outsider", image)
    message = bundle.wait_reason("NamespaceNotEnabled")
    assert UNLISTED in message
    assert bundle.jobs() == []


def test_an_image_without_airflow_says_that_it_is_missing(team_b: Team, tenant_image: Images) -> None:
    plain = tenant_image({"a.py": dags.dag("a")}, airflow=False, tag="plain")
    message = team_b.apply("plain", plain, retryInterval=NEVER).wait_reason("RunFailed")
    assert "Airflow" in message


def test_a_root_that_the_image_lacks_is_named(team_b: Team, image: str) -> None:
    bundle = team_b.bundle("rootless")
    resource = manifest("rootless", image, retryInterval=NEVER)
    resource["spec"]["source"]["image"]["path"] = "/srv/nothing"
    team_b.kubectl.apply(resource)
    assert "/srv/nothing" in bundle.wait_reason("RunFailed")


def test_an_interpreter_that_the_image_lacks_is_named(team_b: Team, image: str) -> None:
    bundle = team_b.apply("snakeless", image, pod={"python": "python9"}, retryInterval=NEVER)
    assert "python9" in bundle.wait_reason("RunFailed")


def test_a_workload_that_is_not_there_is_named(team_b: Team) -> None:
    resource = manifest("following", "")
    resource["spec"]["source"] = {"workloadRef": {"name": "nobody"}}
    team_b.kubectl.apply(resource)
    assert "Deployment nobody" in Bundle(team_b.kubectl, "following").wait_reason("WorkloadNotFound")


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"subdirs": [{"path": "../secrets"}]}, "path must stay inside of the bundle"),
        ({"subdirs": [{"path": "a"}, {"path": "a"}]}, "subdirs"),
        ({"source": {}}, "spec.source"),
        ({"source": {"image": {"reference": "x"}, "workloadRef": {"name": "y"}}}, "spec.source"),
        ({"subdirs": [{"path": "a", "serviceAccountName": "team-b/parser"}]}, "serviceAccountName"),
    ],
    ids=["outside", "twice", "nothing", "both", "namespace"],
)
def test_a_spec_that_cannot_be_is_refused_when_it_is_applied(
    team_b: Team, image: str, spec: dict[str, Any], told: str
) -> None:
    resource = manifest("wrong", image)
    resource["spec"] |= spec
    with pytest.raises(ClusterError, match=told.replace("[", r"\[").replace("]", r"\]")):
        team_b.kubectl.apply(resource)
