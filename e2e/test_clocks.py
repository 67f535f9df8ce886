"""A server whose clock is minutes off takes reports as any other does, and believes the cluster about tokens."""

from __future__ import annotations

import dataclasses
import email.utils
import pathlib
import secrets
import time
from collections.abc import Callable, Iterator

import pytest

from e2e import dags, images, parsers
from e2e.cluster import Cluster
from e2e.cluster.given import AnyCluster
from e2e.installation import Installation
from e2e.tenants import Bundle, Team

Images = Callable[..., str]
MINUTES = 10
GO_ON = "/tmp/go-on"  # noqa: S108 - the pod's own volume
DAGS = ("clock.a", "clock.b", "clock.z")


@pytest.fixture(scope="module")
def misled(cluster: AnyCluster, operator: Installation, uv: pathlib.Path) -> Iterator[Installation]:
    """The operator of an image whose programs can be told a wrong time; the usual one is back afterwards."""
    digest = cluster.push_image(images.with_other_clock(images.operator(uv)), "dagbundle-operator:clock")
    try:
        yield dataclasses.replace(operator, image=f"{cluster.registry}/dagbundle-operator@{digest}")
    finally:
        operator.install()


@pytest.fixture(scope="module", params=[MINUTES, -MINUTES], ids=["ahead", "behind"])
def minutes(request: pytest.FixtureRequest, misled: Installation) -> int:
    """By how many minutes the clock of the server's pods is wrong."""
    wrong = int(request.param)
    variables = [{"name": name, "value": value} for name, value in images.other_clock(wrong).items()]
    misled.install(server={"replicas": 2, "extraEnv": variables})
    return wrong


@pytest.fixture
def parsing(minutes: int, team_b: Team, tenant_image: Images) -> Bundle:
    """A bundle that is being parsed until it is told to go on."""
    files = {"a.py": dags.dag(DAGS[0]), "b.py": dags.dag(DAGS[1]), "z.py": dags.waiting(DAGS[2], GO_ON)}
    name = f"{'ahead' if minutes > 0 else 'behind'}-{secrets.token_hex(3)}"
    bundle = team_b.apply(name, tenant_image(files, tag="clock"), parser={"fileTimeout": "10m"})
    bundle.until_pod(lambda seen: bool(seen["status"]["phase"] == "Running"))
    return bundle


def test_the_servers_clock_is_wrong(operator: Installation, minutes: int) -> None:
    for pod in operator.pods("server"):
        with parsers.reached(operator, pod["metadata"]["name"]) as server:
            said = email.utils.parsedate_to_datetime(server.run("x").date).timestamp()
        assert said - time.time() == pytest.approx(60 * minutes, abs=30)


def test_a_rollout_is_published_whole_whatever_time_the_server_has(operator: Installation, parsing: Bundle) -> None:
    (pod,) = parsing.pods()
    parsing.kubectl.text("exec", pod["metadata"]["name"], "--container=parser", "--", "touch", GO_ON)
    parsing.wait_ready()
    live = operator.database.live("team-b", parsing.name)
    assert (live.revision, set(live.dags)) == (1, set(DAGS))
    (job,) = parsing.jobs()
    assert job["status"].get("failed", 0) == 0


def test_a_token_ends_when_the_cluster_says_whatever_time_the_server_has(
    own_cluster: Cluster, operator: Installation, parsing: Bundle
) -> None:
    (pod,) = parsing.pods()
    token, run = parsers.token_of(parsing.kubectl, pod), parsers.run_of(pod)
    half = 30 * MINUTES
    with parsers.reached(operator) as server:
        assert server.run(run, token).believes_token
        assert server.run(run, parsers.ending(own_cluster, token, half)).believes_token
        over = server.run(run, parsers.ending(own_cluster, token, -half))
    assert (over.status, over.reason) == (401, "TokenRefused")
