"""Whatever fails on the cluster while a bundle is rolled out, it ends as it would have without, and nothing is lost."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from e2e import dags
from e2e.cluster import Cluster, ClusterError, Kubectl
from e2e.installation import Installation
from e2e.tenants import Bundle, Team

Images = Callable[..., str]
RUN_SECONDS = 12
"""How long a test has for its fault while files are parsed."""
SUBDIRS = [
    {"path": "ingest", "serviceAccountName": "ingest-parser"},
    {"path": "reporting", "serviceAccountName": "reporting-parser"},
]


@pytest.fixture(scope="session")
def quick(tenant_image: Images) -> str:
    files = {"ingest/a.py": dags.dag("slow.old"), "reporting/b.py": dags.dag("slow.kept")}
    return tenant_image(files, tag="quick")


@pytest.fixture(scope="session")
def slow(tenant_image: Images) -> str:
    """An image of which one file takes its time, and the others are reported before."""
    files = {f"ingest/a{number}.py": dags.dag(f"slow.a{number}") for number in range(3)}
    files |= {"ingest/z.py": dags.slow("slow.z", RUN_SECONDS), "reporting/b.py": dags.dag("slow.kept")}
    return tenant_image(files, tag="slow")


@pytest.fixture
def rolling(team_b: Team, quick: str, slow: str) -> Bundle:
    """A bundle that has a version live, and another that is being parsed."""
    # a name of its own, as revisions are counted on when a bundle comes back
    bundle = team_b.apply(f"rolling-{secrets.token_hex(3)}", quick, SUBDIRS, retryInterval="5s")
    bundle.wait_ready()
    bundle.set_image(slow)
    until_parsing(bundle, slow)
    return bundle


def until_parsing(bundle: Bundle, image: str) -> Any:
    """Wait until the subdir `ingest` of an image is being parsed, and return its pod."""
    return bundle.until_pod(
        lambda seen: (
            seen["metadata"]["annotations"]["dagbundle.dev/subdir"] == "ingest"
            and seen["spec"]["containers"][0]["image"] == image
            and seen["status"]["phase"] == "Running"
        )
    )


def digest(image: str) -> str:
    return image.partition("@")[2]


def assert_published(operator: Installation, bundle: Bundle, slow: str) -> None:
    """Check that the slow image is what is live, whole, published once, and nothing is left of the way there."""
    bundle.wait_ready()
    live = operator.database.live(bundle.kubectl.namespace or "", bundle.name)
    assert set(live.dags) == {"slow.a0", "slow.a1", "slow.a2", "slow.z", "slow.kept"}
    assert {dag.bundle_version for dag in live.dags.values()} == {digest(slow)}
    assert live.revision == 2
    assert bundle.status["revision"] == 2


def test_a_rollout_outlives_the_operators_end_while_it_is_parsed(
    operator: Installation, rolling: Bundle, slow: str
) -> None:
    operator.kill("controller")
    assert_published(operator, rolling, slow)


def test_a_rollout_outlives_the_operators_end_before_its_jobs_are_made(
    operator: Installation, team_b: Team, quick: str, slow: str
) -> None:
    bundle = team_b.apply(f"rolling-{secrets.token_hex(3)}", quick, SUBDIRS)
    bundle.wait_ready()
    bundle.set_image(slow)
    operator.kill("controller")
    assert_published(operator, bundle, slow)


def test_when_the_leader_ends_another_leads(operator: Installation, rolling: Bundle, slow: str) -> None:
    operator.await_available("controller")
    first = operator.leader()
    operator.kubectl.text("delete", "pod", first, "--force", "--grace-period=0")
    operator.until_led_by_another_than(first)
    assert_published(operator, rolling, slow)


def test_only_one_of_two_operators_leads(operator: Installation) -> None:
    operator.await_available("controller")
    assert len(operator.pods("controller")) == 2
    leading = [pod for pod in operator.pods("controller") if operator.metric(pod, "dagbundle_leading") == 1]
    assert [pod["metadata"]["name"] for pod in leading] == [operator.leader()]


def test_a_report_is_sent_again_when_the_server_ends_in_the_midst_of_it(
    operator: Installation, rolling: Bundle, slow: str
) -> None:
    operator.kill("server")
    assert_published(operator, rolling, slow)
    assert [job["status"].get("failed", 0) for job in rolling.jobs()[-2:]] == [0, 0]


def test_a_rollout_outlives_a_restart_of_postgresql(operator: Installation, rolling: Bundle, slow: str) -> None:
    operator.database.restart()
    assert_published(operator, rolling, slow)


def test_a_rollout_waits_for_a_postgresql_that_is_away_when_it_ends(
    operator: Installation, rolling: Bundle, slow: str
) -> None:
    with operator.database.away():
        time.sleep(RUN_SECONDS + 5)  # how long the fault lasts: nothing tells that a parser has begun to wait
    assert_published(operator, rolling, slow)


def test_a_rollout_outlives_the_api_servers_absence(
    own_cluster: Cluster, operator: Installation, rolling: Bundle, slow: str
) -> None:
    own_cluster.server.freeze()
    try:
        time.sleep(20)  # how long the fault lasts
    finally:
        own_cluster.server.thaw()
    assert_published(operator, rolling, slow)


def test_a_job_that_somebody_deletes_is_made_again(operator: Installation, rolling: Bundle, slow: str) -> None:
    pod = until_parsing(rolling, slow)
    rolling.kubectl.text("delete", "job", pod["metadata"]["labels"]["job-name"])
    assert_published(operator, rolling, slow)


def test_a_pod_that_is_evicted_is_replaced_and_counts_for_nothing(
    operator: Installation, rolling: Bundle, slow: str
) -> None:
    pod = until_parsing(rolling, slow)
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace}}
    path = f"/api/v1/namespaces/{namespace}/pods/{name}/eviction"
    rolling.kubectl.text("create", "--raw", path, "--filename=-", stdin=json.dumps(eviction))
    assert_published(operator, rolling, slow)
    job = rolling.kubectl("get", "job", pod["metadata"]["labels"]["job-name"])
    assert job["status"].get("failed", 0) == 0


@pytest.mark.slow
def test_a_pod_that_fills_its_scratch_volume_is_named(team_b: Team, tenant_image: Images) -> None:
    fill = "import time\nopen('/tmp/full', 'wb').write(bytes(40 << 20))\ntime.sleep(60)\nreturn ''"
    image = tenant_image({"fill.py": dags.probing("fills", fill)}, tag="fills")
    parser = {"fileTimeout": "3m"}
    bundle = team_b.apply("filling", image, pod={"scratch": "10Mi"}, parser=parser, retryInterval="1h")
    message = bundle.wait_reason("RunFailed", seconds=240)
    assert "Evicted" in message


def test_an_edit_during_a_rollout_supersedes_it(
    operator: Installation, rolling: Bundle, slow: str, tenant_image: Images
) -> None:
    pod = until_parsing(rolling, slow)
    other = tenant_image({"ingest/n.py": dags.dag("slow.new"), "reporting/b.py": dags.dag("slow.kept")}, tag="newer")
    rolling.set_image(other)
    rolling.wait_ready()
    live = operator.database.live("team-b", rolling.name)
    assert set(live.dags) == {"slow.new", "slow.kept"}
    assert live.revision == 2
    rolling.kubectl.wait(f"job/{pod['metadata']['labels']['job-name']}", "delete")


def test_an_undo_during_a_rollout_leaves_what_was_live(operator: Installation, rolling: Bundle, quick: str) -> None:
    rolling.set_image(quick)
    rolling.wait_ready()
    live = operator.database.live("team-b", rolling.name)
    assert {dag.bundle_version for dag in live.dags.values()} == {digest(quick)}


@pytest.fixture
def leaving(operator: Installation, tenant_image: Images) -> Iterator[Bundle]:
    """A bundle in a namespace that is about to go."""
    team = operator.team("team-leaving")
    bundle = team.apply("leaving", tenant_image({"a.py": dags.dag("leaving")}, tag="leaving"))
    bundle.wait_ready()
    yield bundle
    operator.kubectl.text("wait", "namespace/team-leaving", "--for=delete", "--timeout=60s")


def test_a_namespace_goes_with_its_bundles_and_dags(operator: Installation, kubectl: Kubectl, leaving: Bundle) -> None:
    kubectl.text("delete", "namespace", "team-leaving", "--timeout=60s")
    assert operator.database.live("team-leaving", leaving.name).dags == {}


def test_a_namespace_that_is_deleted_without_postgresql_goes_when_that_is_back(
    operator: Installation, kubectl: Kubectl, tenant_image: Images
) -> None:
    team = operator.team("team-left")
    bundle = team.apply("left", tenant_image({"a.py": dags.dag("left-behind")}, tag="left"))
    bundle.wait_ready()
    with operator.database.away():
        kubectl.text("delete", "namespace", "team-left", "--wait=false")
        bundle.until(lambda seen: "deletionTimestamp" in seen["metadata"])
        with pytest.raises(ClusterError, match="timed out"):
            kubectl.text("wait", "namespace/team-left", "--for=delete", "--timeout=10s")
    kubectl.text("wait", "namespace/team-left", "--for=delete", "--timeout=90s")
    assert operator.database.live("team-left", "left").dags == {}
