"""README's "On a cluster", and the tutorial of a cluster, command by command as they are printed there."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping

import pytest

from e2e import dags, images
from e2e.cluster import ClusterError, Kubectl, layout
from e2e.cluster.given import AnyCluster
from e2e.database import Database
from e2e.installation import CHART, Installation
from e2e.tenants import Bundle, condition
from support import tutorials

Images = Callable[..., str]
README = images.ROOT / "README.md"
TUTORIAL = images.ROOT / "docs/tutorials/cluster.md"
EXAMPLES = pathlib.Path("examples/cluster")
NAMESPACE = "dagbundle-quickstart"
"""In place of README's, in which the database of all stories runs."""
RELEASE = "dagbundle-operator"
TEAM = "team-sales"
SECONDS = 600
GONE = "--timeout=120s"
FILES = {"ingest/orders.py": dags.dag("orders", "fetch", "store"), "reporting/revenue.py": dags.dag("revenue")}
BROKEN = FILES | {"reporting/revenue.py": dags.broken("revenue")}
REPAIRED = FILES | {"reporting/revenue.py": dags.dag("revenue", tag="v2")}


@pytest.fixture
def database(operator: Installation) -> Iterator[Database]:
    """A new database, as the platform team of README has one."""
    made = operator.database.another("quickstart")
    yield made
    operator.database.drop("quickstart")


@pytest.fixture
def own(cluster: AnyCluster, uv: pathlib.Path, database: Database, tenant_image: Images) -> dict[str, str]:
    """What a reader puts in the place of README's words: their registry, with both images, and their database."""
    version = re.search(r"^appVersion: (\S+)$", (CHART / "Chart.yaml").read_text("utf-8"), re.MULTILINE)
    assert version
    cluster.push_image(images.operator(uv), f"dagbundle-operator:{version[1]}")
    for tag, files in (("1.4.2", FILES), ("1.5.0", BROKEN), ("1.5.1", REPAIRED)):
        tenant_image(files, name="sales-dags", tag=tag, pinned=False)
    return {"dagbundle-system": NAMESPACE, "registry.example/": f"{cluster.registry}/", "postgresql://…": database.url}


@pytest.fixture
def place(operator: Installation, database: Database, kubectl: Kubectl) -> Iterator[None]:  # noqa: ARG001 - outlives the bundle
    """A cluster without the operator of the other stories, which comes back at the end."""
    operator.uninstall()
    try:
        yield
    finally:
        try:
            _clean(kubectl)
        finally:
            operator.install()


def _clean(kubectl: Kubectl) -> None:
    kubectl.within(TEAM).text("delete", "dagbundle", "--all", "--ignore-not-found", GONE)
    kubectl.within(NAMESPACE).helm("uninstall", RELEASE, "--ignore-not-found", "--wait", GONE)
    kubectl.text("delete", "crd", "dagbundles.dagbundle.dev", "--ignore-not-found", GONE)
    kubectl.text("delete", "namespace", TEAM, NAMESPACE, "--ignore-not-found", GONE)


def commands() -> list[str]:
    """Return the section's blocks of shell commands, in their order."""
    _, _, rest = README.read_text("utf-8").partition("\n## On a cluster\n")
    section, _, _ = rest.partition("\n## ")
    return re.findall(r"```sh\n(.*?)```", section, re.DOTALL)


def checkout(folder: pathlib.Path, own: Mapping[str, str]) -> None:
    """Lay out what the commands read of a checkout, with the registry of these tests in the examples."""
    (folder / "charts").mkdir()
    (folder / "charts" / CHART.name).symlink_to(CHART)
    (folder / EXAMPLES).mkdir(parents=True)
    for path in (images.ROOT / EXAMPLES).iterdir():
        (folder / EXAMPLES / path.name).write_text(replaced(path.read_text("utf-8"), own), "utf-8")


def replaced(text: str, own: Mapping[str, str]) -> str:
    """Put in what a reader has of their own, in the order given."""
    for theirs, ours in own.items():
        text = text.replace(theirs, ours)
    return text


def shell(script: str, folder: pathlib.Path, kubeconfig: pathlib.Path) -> str:
    """Run commands as a reader does, from the checkout; end at the first one that fails, and return what they print."""
    programs = [str(layout.program(name).parent) for name in ("kubectl", "helm") if layout.program(name).exists()]
    path = os.pathsep.join([*programs, os.environ["PATH"]])
    done = subprocess.run(
        [shutil.which("bash") or "bash", "-euc", script], cwd=folder, capture_output=True, text=True, check=False,
        timeout=2 * SECONDS, env={**os.environ, "PATH": path, "KUBECONFIG": str(kubeconfig)},
    )  # fmt: skip
    if done.returncode:
        raise ClusterError(f"{script}\nended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


@pytest.mark.usefixtures("place")
def test_the_commands_of_readme_take_a_teams_first_bundle_to_ready(
    kubectl: Kubectl, database: Database, own: Mapping[str, str], tmp_path: pathlib.Path
) -> None:
    checkout(tmp_path, own)
    for block in commands():
        shell(replaced(block, own), tmp_path, kubectl.kubeconfig)
    bundle = Bundle(kubectl.within(TEAM), "sales")
    assert condition(bundle.get(), "Ready")["status"] == "True"
    assert sorted(database.live(TEAM, "sales").dags) == ["orders", "revenue"]


@pytest.mark.usefixtures("place")
def test_the_commands_of_the_cluster_tutorial_install_publish_break_repair_and_remove(
    kubectl: Kubectl, database: Database, own: Mapping[str, str], tmp_path: pathlib.Path
) -> None:
    checkout(tmp_path, own)
    steps = tutorials.steps(TUTORIAL)
    for step in steps:
        script = replaced(step.script, own)
        if "kubectl delete dagbundle " in script:
            assert sorted(database.live(TEAM, "sales").dags) == ["orders", "revenue"]
        answer = shell(script, tmp_path, kubectl.kubeconfig)
        assert [line for line in step.shown if line not in answer] == [], f"{script}\n{answer}"
    assert list(database.live(TEAM, "sales").dags) == []
    names = {item["metadata"]["name"] for item in kubectl("get", "namespaces")["items"]}
    assert names & {TEAM, NAMESPACE} == set()
