"""An upgrade from the release before loses nothing: what is live stays live, and what is under way goes on."""

from __future__ import annotations

import dataclasses
import pathlib
import secrets
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from e2e import dags, images
from e2e.cluster.given import AnyCluster
from e2e.installation import CHART, Installation
from e2e.tenants import Bundle, condition

Images = Callable[..., str]
RELEASED = "1f691a3169538425bfbad19208aecc6a601cf01f"
"""The commit of the newest release."""
CRD = "customresourcedefinition/dagbundles.dagbundle.dev"
GO_ON = "/tmp/go-on"  # noqa: S108 - the pod's own volume
SUBDIRS = [
    {"path": "ingest", "serviceAccountName": "ingest-parser"},
    {"path": "reporting", "serviceAccountName": "reporting-parser"},
]
V1 = {"ingest/a.py": dags.dag("upgrade.a"), "reporting/b.py": dags.dag("upgrade.b")}
V2 = {**V1, "ingest/c.py": dags.dag("upgrade.c"), "ingest/z.py": dags.waiting("upgrade.z", GO_ON)}
"""Is parsed until it is told to go on."""


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", images.ROOT, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def released_tree(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The tree of the newest release, out of the clone's history."""
    if git("cat-file", "-e", f"{RELEASED}^{{commit}}").returncode:
        pytest.skip(f"this clone's history lacks {RELEASED}, as a shallow one does: `git fetch --unshallow`")
    folder = tmp_path_factory.mktemp("released")
    archived = git("archive", f"--output={folder / 'tree.tar'}", RELEASED)
    assert archived.returncode == 0, archived.stderr
    with tarfile.open(folder / "tree.tar") as archive:
        archive.extractall(folder / "tree", filter="data")
    return folder / "tree"


@pytest.fixture(scope="module")
def released(
    cluster: AnyCluster, operator: Installation, uv: pathlib.Path, released_tree: pathlib.Path
) -> Iterator[Installation]:
    """The newest release in place of the working tree's version, with tables of its own."""
    digest = cluster.push_image(images.operator(uv, released_tree), "dagbundle-operator:released")
    image = f"{cluster.registry}/dagbundle-operator@{digest}"
    chart = released_tree / CHART.relative_to(images.ROOT)
    try:
        operator.uninstall()
        operator.database.execute("drop schema dagbundle cascade")  # older programs refuse newer tables
        made = dataclasses.replace(operator, image=image, chart=chart)
        made.install()
        yield made
    finally:
        operator.install()


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """What kubectl shows of a bundle and its Jobs at one moment."""

    status: Any
    jobs: dict[str, int]
    """UIDs, and how many of the pods have failed."""


def look(bundle: Bundle) -> Look:
    failed = {job["metadata"]["uid"]: int(job["status"].get("failed", 0)) for job in bundle.jobs()}
    return Look(bundle.status, failed)


@dataclasses.dataclass(frozen=True, slots=True)
class Upgrade:
    """What was there before an upgrade, during which one bundle rested and another was rolled out."""

    resting: Bundle
    rested: Look
    rolling: Bundle
    rolled: Look
    pod: Any
    """The one that is parsing."""
    servers: list[str]
    """The pods that it may be sending its report to."""
    v1: str
    v2: str
    crd: Any


@pytest.fixture(scope="module")
def upgrade(operator: Installation, released: Installation, tenant_image: Images) -> Iterator[Upgrade]:
    """An upgrade of the newest release to the working tree, with a rollout that is still under way."""
    v1, v2 = tenant_image(V1, tag="upgrade-1"), tenant_image(V2, tag="upgrade-2")
    other = tenant_image({"r.py": dags.dag("upgrade.resting")}, tag="upgrade-resting")
    team = operator.team("team-b")
    # names of their own, as revisions are counted on when a bundle comes back
    resting = team.apply(f"resting-{secrets.token_hex(3)}", other)
    rolling = team.apply(f"rolling-{secrets.token_hex(3)}", v1, SUBDIRS, parser={"fileTimeout": "10m"})
    resting.wait_ready()
    rolling.wait_ready()
    rolling.set_image(v2)
    pod = rolling.until_pod(lambda seen: is_parsing(seen, v2))
    crd, servers = released.kubectl("get", CRD), [one["metadata"]["name"] for one in released.pods("server")]
    before = Upgrade(resting, look(resting), rolling, look(rolling), pod, servers, v1, v2, crd)
    operator.install()
    yield before
    team.kubectl.text("delete", "dagbundles", "--all", "--timeout=120s")


def is_parsing(pod: Any, image: str) -> bool:
    subdir, container = pod["metadata"]["annotations"]["dagbundle.dev/subdir"], pod["spec"]["containers"][0]
    return bool(subdir == "ingest" and container["image"] == image and pod["status"]["phase"] == "Running")


@pytest.fixture(scope="module")
def ended(operator: Installation, upgrade: Upgrade) -> Upgrade:
    """The same when the old servers are gone, and the rollout that was under way has ended."""
    for server in upgrade.servers:  # until then one may take the rest of a report
        operator.kubectl.wait(f"pod/{server}", "delete")
    upgrade.rolling.kubectl.text("exec", upgrade.pod["metadata"]["name"], "--container=parser", "--", "touch", GO_ON)
    upgrade.rolling.wait_ready()
    return upgrade


def digest(image: str) -> str:
    return image.partition("@")[2]


def live(operator: Installation, bundle: Bundle) -> tuple[int, dict[str, str]]:
    """Return the revision that is live, its DAGs, and the bundle versions that they came from."""
    found = operator.database.live(bundle.kubectl.namespace or "", bundle.name)
    return found.revision, {dag_id: dag.bundle_version for dag_id, dag in found.dags.items()}


def test_nothing_that_was_live_is_lost_by_an_upgrade(operator: Installation, upgrade: Upgrade) -> None:
    assert live(operator, upgrade.rolling) == (1, dict.fromkeys(["upgrade.a", "upgrade.b"], digest(upgrade.v1)))
    assert live(operator, upgrade.resting)[1].keys() == {"upgrade.resting"}


def test_a_rollout_is_under_way_throughout_an_upgrade(upgrade: Upgrade) -> None:
    pod = upgrade.rolling.kubectl("get", "pod", upgrade.pod["metadata"]["name"])
    assert (pod["metadata"]["uid"], pod["status"]["phase"]) == (upgrade.pod["metadata"]["uid"], "Running")
    assert condition(upgrade.rolling.get(), "Reconciling")["status"] == "True"


def test_an_upgrade_brings_the_new_programs_and_the_new_crd(operator: Installation, upgrade: Upgrade) -> None:
    crd = operator.kubectl("get", CRD)
    wanted = yaml.safe_load((CHART / "files" / "dagbundles.dagbundle.dev.yaml").read_text())
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    pods = [*operator.pods("controller"), *operator.pods("server")]
    assert {pod["spec"]["containers"][0]["image"] for pod in pods} == {operator.image}
    assert crd["metadata"]["uid"] == upgrade.crd["metadata"]["uid"]
    assert crd["metadata"]["labels"]["app.kubernetes.io/version"] == version
    assert [one["schema"] for one in crd["spec"]["versions"]] == [one["schema"] for one in wanted["spec"]["versions"]]


def test_a_rollout_that_an_upgrade_met_is_published_whole_and_once(operator: Installation, ended: Upgrade) -> None:
    whole = dict.fromkeys(["upgrade.a", "upgrade.b", "upgrade.c", "upgrade.z"], digest(ended.v2))
    assert live(operator, ended.rolling) == (2, whole)
    assert ended.rolling.status["revision"] == 2


def test_a_report_that_an_upgrade_cut_is_sent_again(ended: Upgrade) -> None:
    log = ended.rolling.kubectl.text("logs", ended.pod["metadata"]["name"], "--container=parser")
    assert "trying again" in log


def test_no_job_is_made_twice_and_no_pod_fails_by_an_upgrade(ended: Upgrade) -> None:
    assert look(ended.rolling).jobs == dict.fromkeys(ended.rolled.jobs, 0)


def test_a_ready_bundle_gets_no_new_rollout_by_an_upgrade(ended: Upgrade) -> None:
    assert look(ended.resting) == ended.rested


def test_after_an_upgrade_a_bundle_is_rolled_out_as_before(operator: Installation, ended: Upgrade) -> None:
    ended.rolling.set_image(ended.v1)
    ended.rolling.wait_ready()
    assert live(operator, ended.rolling) == (3, dict.fromkeys(["upgrade.a", "upgrade.b"], digest(ended.v1)))
