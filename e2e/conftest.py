"""What the end-to-end tests share: a cluster for the whole session, kubectl for it, and namespaces that come and go.

The cluster is the one that KUBECONFIG names; else kind's, where pytest-kind is installed and Docker can have its
image; else our own, which is installed and brought up, and taken down at the end unless it was up before or `--keep-
cluster` is given.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import secrets
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import pytest

from dagbundle.store.dagstore import DagStore
from e2e import images, installation
from e2e.bare import World
from e2e.cluster import ApiServer, Cluster, ClusterError, Image, Kubectl, bases
from e2e.cluster.apiserver import NAMESPACES_AND_GARBAGE
from e2e.cluster.given import AnyCluster, GivenCluster, KindCluster
from e2e.cluster.install import install
from e2e.installation import Installation
from e2e.tenants import Team
from support import postgres

NamespaceFactory = Callable[..., Kubectl]
TenantImageFactory = Callable[..., str]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what the tests can be told."""
    with contextlib.suppress(ValueError):  # pytest-kind, where it is installed, has the same option
        parser.addoption(
            "--keep-cluster", action="store_true", help="leave the cluster and the operator up, to look at"
        )


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[AnyCluster]:
    """The cluster of this session."""
    keep = bool(request.config.getoption("keep_cluster"))
    if given := os.environ.get("KUBECONFIG"):
        yield GivenCluster(pathlib.Path(given).absolute())
    elif KindCluster.available():
        kind = KindCluster()
        kind.up()
        yield kind
        if not keep:
            kind.down()
    else:
        yield from _own(keep=keep)


def _own(*, keep: bool) -> Iterator[Cluster]:
    install()
    own = Cluster()
    started = own.up()
    yield own
    if started and not keep:
        own.down(purge=True)


@pytest.fixture(scope="session")
def own_cluster(cluster: AnyCluster) -> Cluster:
    """Our own cluster, for what only its registry can show; elsewhere the test is skipped."""
    if not isinstance(cluster, Cluster):
        pytest.skip("only our own cluster has this")
    return cluster


@pytest.fixture(scope="session")
def kubectl(cluster: AnyCluster) -> Kubectl:
    """Kubectl as the cluster's administrator; its answers are parsed JSON."""
    return Kubectl(cluster.kubeconfig)


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[NamespaceFactory]:
    """Make namespaces: `namespace("team", labels={…})` returns kubectl within a new one, deleted after the test."""
    made: list[str] = []
    numbers = itertools.count(1)

    def make(prefix: str = "e2e", *, labels: dict[str, str] | None = None) -> Kubectl:
        name = f"{prefix}-{secrets.token_hex(3)}-{next(numbers)}"
        made.append(name)
        metadata = {"name": name, "labels": labels or {}}
        kubectl.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        within = kubectl.within(name)
        # the controllers make it a moment later, and without it no pod is admitted
        within.wait("serviceaccount/default", "create")
        return within

    yield make
    for name in made:
        kubectl.text("delete", "namespace", name, "--ignore-not-found", "--wait=false")


@pytest.fixture(scope="session")
def python_image(cluster: AnyCluster) -> str:
    """The reference, with its digest, of an image that has Debian and Python and does nothing by itself."""
    return f"{cluster.registry}/python@{cluster.push_image(debian(), 'python:1')}"


@pytest.fixture(scope="session")
def operator_image(cluster: AnyCluster, uv: pathlib.Path) -> str:
    """The reference, with its digest, of the operator's image, made of the working tree."""
    digest = cluster.push_image(images.operator(uv), "dagbundle-operator:test")
    return f"{cluster.registry}/dagbundle-operator@{digest}"


@pytest.fixture(scope="session")
def tenant_image(cluster: AnyCluster, uv: pathlib.Path) -> TenantImageFactory:
    """Make tenants' images: `tenant_image({"ingest/a.py": text})` returns a reference with its digest."""
    bases_made: dict[bool, Image] = {}

    def make(
        files: Mapping[str, str],
        *,
        tag: str = "1",
        name: str = "tenant",
        airflow: bool = True,
        pinned: bool = True,
        links: Mapping[str, str] | None = None,
    ) -> str:
        if airflow not in bases_made:
            bases_made[airflow] = images.airflow(uv) if airflow else images.without_airflow()
        digest = cluster.push_image(images.with_dags(bases_made[airflow], files, links=links), f"{name}:{tag}")
        return f"{cluster.registry}/{name}@{digest}" if pinned else f"{cluster.registry}/{name}:{tag}"

    return make


@pytest.fixture(scope="session")
def operator(request: pytest.FixtureRequest, cluster: AnyCluster, operator_image: str) -> Iterator[Installation]:
    """The operator, installed once with its database and the tenants of `installation.GRANTS`, and gone at the end."""
    database_image = f"{cluster.registry}/database@{cluster.push_image(images.postgres(), 'database:1')}"
    keep = bool(request.config.getoption("keep_cluster"))
    with installation.installed(cluster, operator_image, database_image, keep=keep) as made:
        yield made


@pytest.fixture
def team_a(operator: Installation) -> Iterator[Team]:
    """The team that may publish dag_ids with the prefix `a.` alone; its bundles are deleted after the test."""
    yield from _team(operator, "team-a")


@pytest.fixture
def team_b(operator: Installation) -> Iterator[Team]:
    """The team that may publish what nobody owns; its bundles are deleted after the test."""
    yield from _team(operator, "team-b")


def _team(operator: Installation, namespace: str) -> Iterator[Team]:
    team = operator.team(namespace)
    yield team
    team.kubectl.text("delete", "dagbundles", "--all", "--timeout=120s")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Show with a failed story what a human would look at first: nothing of it is there when the session is over."""
    report: Any = yield
    operator = getattr(item, "funcargs", {}).get("operator")
    if report.when in {"setup", "call"} and report.failed and operator is not None:
        report.sections.append(("the operator", operator.told()))
    return report


def debian() -> Image:
    """Return Debian with Python, as its own user."""
    return bases.debian().adding(user="65534:65534")


@pytest.fixture(scope="session")
def uv() -> pathlib.Path:
    """The program that makes virtual environments."""
    try:
        return images.find_uv()
    except ClusterError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def api_server() -> Iterator[ApiServer]:
    """An API server of this test's own, with nothing that runs pods, to be stopped and killed."""
    install(api_only=True)
    with ApiServer() as server:
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    """An API server alone, with the controllers that end what is deleted."""
    install(api_only=True)
    with ApiServer(controllers=NAMESPACES_AND_GARBAGE) as server:
        yield server


@pytest.fixture(scope="module")
def database() -> Iterator[postgres.PostgresServer]:
    """A PostgreSQL."""
    with postgres.running_postgres() as database:
        yield database


@pytest.fixture(scope="module")
def world(server: ApiServer, database: postgres.PostgresServer) -> Iterator[World]:
    """A reconciler without a cluster: an API server and a database, and a test that plays the nodes."""
    with DagStore.open(database.create_database(), upgrade=True) as store:
        world = World(server, store)
        world.prepare()
        yield world
