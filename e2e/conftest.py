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
import shutil
from collections.abc import Callable, Iterator

import pytest

from e2e.cluster import ApiServer, Cluster, Image, Kubectl, bases
from e2e.cluster.given import AnyCluster, GivenCluster, KindCluster
from e2e.cluster.install import install

NamespaceFactory = Callable[..., Kubectl]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what the tests can be told."""
    with contextlib.suppress(ValueError):  # pytest-kind, where it is installed, has the same option
        parser.addoption("--keep-cluster", action="store_true", help="leave the cluster up for the next session")


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


def debian() -> Image:
    """Return Debian with Python, as its own user."""
    return bases.debian().adding(user="65534:65534")


@pytest.fixture(scope="session")
def uv() -> pathlib.Path:
    """The program that makes virtual environments: the project's own, which the Makefile installs, or the machine's."""
    own = pathlib.Path(__file__).parents[1] / ".venvs" / "uv" / "bin" / "uv"
    found = str(own) if own.exists() else shutil.which("uv")
    if found is None:
        pytest.fail("uv is missing: run `make .venvs/uv/installed`", pytrace=False)
    return pathlib.Path(found)


@pytest.fixture
def api_server() -> Iterator[ApiServer]:
    """An API server of this test's own, with nothing that runs pods, to be stopped and killed."""
    install(api_only=True)
    with ApiServer() as server:
        yield server
