"""The main story, each step of it alone: teams apply bundles, change, break and roll them back, and delete them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from e2e import dags
from e2e.cluster import ClusterError
from e2e.installation import Installation
from e2e.tenants import Bundle, Team, manifest

Images = Callable[..., str]
SUBDIRS = (
    {"path": "ingest", "serviceAccountName": "ingest-parser", "dagIdPrefix": "a.ingest."},
    {"path": "reporting", "serviceAccountName": "reporting-parser", "dagIdPrefix": "a.reporting."},
)
V1 = {
    "ingest/orders.py": dags.dag("a.ingest.orders", "fetch", "store"),
    "ingest/returns.py": dags.dag("a.ingest.returns", "fetch"),
    "reporting/stock.py": dags.dag("a.reporting.stock", "count"),
}
V2 = {
    "ingest/orders.py": dags.dag("a.ingest.orders", "fetch", "check", "store", tag="v2"),
    "reporting/stock.py": dags.dag("a.reporting.stock", "count"),
    "reporting/revenue.py": dags.dag("a.reporting.revenue", "sum"),
}
BROKEN = {**V2, "ingest/orders.py": dags.broken("a.ingest.orders")}


@pytest.fixture(scope="session")
def v1(tenant_image: Images) -> str:
    return tenant_image(V1, tag="v1")


@pytest.fixture(scope="session")
def v2(tenant_image: Images) -> str:
    return tenant_image(V2, tag="v2")


@pytest.fixture(scope="session")
def broken(tenant_image: Images) -> str:
    return tenant_image(BROKEN, tag="broken")


@pytest.fixture
def sales(team_a: Team, v1: str) -> Bundle:
    """A bundle whose first version is published."""
    bundle = team_a.apply("sales", v1, SUBDIRS)
    bundle.wait_ready()
    return bundle


def digest(image: str) -> str:
    return image.partition("@")[2]


def published(operator: Installation, bundle: Bundle) -> dict[str, str]:
    """Return what the database has live: dag_ids, and the bundle versions that they came from."""
    live = operator.database.live(bundle.kubectl.namespace or "", bundle.name)
    return {dag_id: dag.bundle_version for dag_id, dag in live.dags.items()}


def command(operator: Installation, *arguments: str) -> str:
    """Run the operator's command line where the platform team would: in a pod of it."""
    where = ("exec", "deployment/dagbundle-controller", "--container=controller", "--")
    return operator.kubectl.text(*where, "dagbundle", *arguments)


def test_two_teams_apply_bundles_and_their_dags_are_in_the_database(
    operator: Installation, team_a: Team, team_b: Team, v1: str, tenant_image: Images
) -> None:
    ours = team_a.apply("sales", v1, SUBDIRS)
    image = tenant_image({"jobs.py": dags.dag("cleaning", "sweep")}, tag="b")
    theirs = team_b.apply("ops", image)
    ours.wait_ready()
    theirs.wait_ready()
    assert published(operator, ours) == dict.fromkeys(
        ["a.ingest.orders", "a.ingest.returns", "a.reporting.stock"], digest(v1)
    )
    assert published(operator, theirs) == {"cleaning": digest(image)}


def test_a_ready_bundles_status_says_what_is_published(sales: Bundle, v1: str) -> None:
    status = sales.status
    assert status["version"] == {"attempted": digest(v1), "published": digest(v1)}
    assert status["dags"] == {"total": 3, "added": 3, "changed": 0, "removed": 0, "kept": 0}
    assert {subdir["path"]: (subdir["phase"], subdir["dags"]) for subdir in status["subdirs"]} == {
        "ingest": ("Succeeded", 2),
        "reporting": ("Succeeded", 1),
    }
    assert status["observedGeneration"] == sales.get()["metadata"]["generation"]
    assert [one["type"] for one in status["conditions"]] == ["Ready"]


def test_each_subdir_is_parsed_by_its_own_account_without_an_api_token(sales: Bundle) -> None:
    pods = {pod["metadata"]["annotations"]["dagbundle.dev/subdir"]: pod["spec"] for pod in sales.pods()}
    accounts = {subdir: spec["serviceAccountName"] for subdir, spec in pods.items()}
    assert accounts == {"ingest": "ingest-parser", "reporting": "reporting-parser"}
    assert [spec["automountServiceAccountToken"] for spec in pods.values()] == [False, False]


def test_kubectl_get_shows_version_and_dags(sales: Bundle) -> None:
    heading, row = sales.kubectl.text("get", sales.what).splitlines()
    assert {"NAME", "READY"} <= set(heading.split())
    assert {"sales", "True"} <= set(row.split())


def test_a_transition_posts_an_event(sales: Bundle) -> None:
    found = sales.kubectl("get", "events", "--field-selector=involvedObject.kind=DagBundle,reason=Published")["items"]
    assert any(sales.get()["metadata"]["uid"] == event["involvedObject"]["uid"] for event in found)


def test_after_a_change_of_the_image_only_the_new_version_is_there(
    operator: Installation, sales: Bundle, v2: str
) -> None:
    sales.set_image(v2)
    status = sales.wait_ready()
    assert published(operator, sales) == dict.fromkeys(
        ["a.ingest.orders", "a.reporting.stock", "a.reporting.revenue"], digest(v2)
    )
    assert (status["dags"]["added"], status["dags"]["removed"]) == (1, 1)


def test_a_broken_file_keeps_its_old_dags_and_the_condition_says_why(
    operator: Installation, sales: Bundle, v1: str, broken: str
) -> None:
    sales.set_image(broken)
    message = sales.wait_reason("KeptLastGood")
    live = published(operator, sales)
    assert live["a.ingest.orders"] == digest(v1)
    assert live["a.reporting.revenue"] == digest(broken)
    assert "ingest/orders.py" in message
    assert "cannot import name 'chian'" in message
    assert sales.condition("Stalled")["status"] == "True"


def test_with_fail_a_broken_file_publishes_nothing(operator: Installation, sales: Bundle, v1: str, broken: str) -> None:
    sales.patch({"source": {"image": {"reference": broken}}, "rollout": {"onImportError": "Fail"}})
    sales.wait_reason("ImportErrors")
    assert set(published(operator, sales).values()) == {digest(v1)}
    assert sales.status["version"] == {"attempted": digest(broken), "published": digest(v1)}


def test_a_rollback_outlives_the_operator(operator: Installation, sales: Bundle, v1: str, v2: str) -> None:
    sales.set_image(v2)
    sales.wait_ready()
    command(operator, "rollback", "team-a/sales", "--reason", "totals are wrong")
    message = sales.wait_reason("Held")
    assert "totals are wrong" in message
    operator.kill("controller")
    operator.await_available("controller")
    sales.reconcile()
    assert sales.condition()["reason"] == "Held"
    assert set(published(operator, sales).values()) == {digest(v1)}
    assert sales.status["version"]["published"] == digest(v1)


def test_a_held_version_is_published_when_somebody_resumes(operator: Installation, sales: Bundle, v2: str) -> None:
    sales.set_image(v2)
    sales.wait_ready()
    command(operator, "rollback", "team-a/sales")
    sales.wait_reason("Held")
    command(operator, "resume", "team-a/sales")
    sales.wait_ready()
    assert set(published(operator, sales).values()) == {digest(v2)}


def test_deleting_a_bundle_deactivates_its_dags(operator: Installation, sales: Bundle) -> None:
    sales.delete()
    assert published(operator, sales) == {}
    assert sales.jobs() == []


def test_deleting_with_orphan_leaves_the_dags_as_they_are(
    operator: Installation, team_b: Team, tenant_image: Images
) -> None:
    bundle = team_b.apply("left", tenant_image({"a.py": dags.dag("left")}), deletionPolicy="Orphan")
    bundle.wait_ready()
    bundle.delete()
    assert set(published(operator, bundle)) == {"left"}


def test_applying_the_same_twice_changes_nothing(sales: Bundle, v1: str) -> None:
    before = sales.get()
    again = json.dumps({**manifest("sales", v1, SUBDIRS)})
    difference = sales.kubectl.text("diff", "--server-side", "--force-conflicts", "--filename=-", stdin=again)
    sales.kubectl.apply(json.loads(again))
    after = sales.get()
    assert difference == ""
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert after["status"]["revision"] == before["status"]["revision"]


def test_a_moved_tag_is_parsed_when_somebody_asks(operator: Installation, team_a: Team, tenant_image: Images) -> None:
    def tagged(files: dict[str, str]) -> str:
        return tenant_image(files, tag="latest", name="moving", pinned=False)

    bundle = team_a.apply("moving", tagged({"x.py": dags.dag("a.moving.x")}))
    first = bundle.wait_ready()["version"]["published"]
    tagged({"y.py": dags.dag("a.moving.y")})
    bundle.reconcile()
    bundle.wait_ready()
    assert set(published(operator, bundle)) == {"a.moving.y"}
    assert bundle.status["version"]["published"] != first


def test_a_suspended_bundle_is_left_alone_until_it_is_resumed(
    operator: Installation, sales: Bundle, v1: str, v2: str
) -> None:
    sales.patch({"suspend": True, "source": {"image": {"reference": v2}}})
    sales.wait_reason("Suspended")
    assert set(published(operator, sales).values()) == {digest(v1)}
    sales.patch({"suspend": False})
    sales.wait_ready()
    assert set(published(operator, sales).values()) == {digest(v2)}


def test_a_subdir_in_shards_is_put_together_again(operator: Installation, team_b: Team, tenant_image: Images) -> None:
    names = [f"sharded{number}" for number in range(5)]
    image = tenant_image({f"{name}.py": dags.dag(name) for name in names}, tag="sharded")
    bundle = team_b.apply("sharded", image, [{"path": ".", "serviceAccountName": "parser", "shards": 2}])
    bundle.wait_ready()
    assert sorted(published(operator, bundle)) == names
    (job,) = bundle.jobs()
    assert (job["spec"]["completionMode"], job["spec"]["completions"]) == ("Indexed", 2)


def workload(image: str, *, paused: bool = False) -> dict[str, Any]:
    confined = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "worker",
        "image": image,
        "command": ["sleep", "infinity"],
        "securityContext": confined,
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "workers"},
        "spec": {
            "paused": paused,
            "selector": {"matchLabels": {"app": "workers"}},
            "template": {
                "metadata": {"labels": {"app": "workers"}},
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
                    "containers": [container],
                },
            },
        },
    }


@pytest.fixture
def following(team_a: Team, v1: str) -> Iterator[Bundle]:
    """A bundle that follows a Deployment, whose first version is published."""
    team_a.kubectl.apply(workload(v1))
    resource = manifest("sales", "", SUBDIRS)
    resource["spec"]["source"] = {"workloadRef": {"name": "workers"}}
    team_a.kubectl.apply(resource)
    bundle = team_a.bundle("sales")
    bundle.wait_ready()
    yield bundle
    team_a.kubectl.text("delete", "deployment/workers", "--wait=false")


def test_a_workloads_new_image_is_published_when_its_rollout_is_complete(
    operator: Installation, following: Bundle, v2: str
) -> None:
    following.kubectl.apply(workload(v2))
    following.until(lambda seen: seen["status"]["version"]["published"] == digest(v2))
    following.wait_ready()
    following.kubectl.text("rollout", "status", "deployment/workers", "--timeout=1s")
    assert set(published(operator, following).values()) == {digest(v2)}


def test_a_paused_workload_is_parsed_and_not_published(
    operator: Installation, following: Bundle, v1: str, v2: str
) -> None:
    following.kubectl.apply(workload(v2, paused=True))
    message = following.wait_reason("WorkloadPaused")
    assert "workers is paused" in message
    assert set(published(operator, following).values()) == {digest(v1)}


def test_a_tenant_reads_and_writes_its_own_bundles_alone(team_a: Team, team_b: Team) -> None:
    team_a.kubectl.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "alice"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
            "subjects": [{"kind": "User", "name": "alice"}],
        }
    )

    def may(team: Team, *what: str) -> bool:
        try:
            team.kubectl.text("auth", "can-i", *what, "--as=alice")
        except ClusterError:
            return False
        return True

    assert may(team_a, "create", "dagbundles")
    assert not may(team_a, "update", "dagbundles", "--subresource=status")
    assert not may(team_b, "get", "dagbundles")
