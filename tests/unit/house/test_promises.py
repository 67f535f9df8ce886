"""README and docs say what is: versions, commands and examples are held to the chart, the code and each other."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest
import yaml

from dagbundle.resources import bundle

ROOT = pathlib.Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text()
CHART = yaml.safe_load((ROOT / "charts/dagbundle-operator/Chart.yaml").read_text())
TEAM = list(yaml.safe_load_all((ROOT / "examples/cluster/team-sales.yaml").read_text()))
BUNDLE = yaml.safe_load((ROOT / "examples/cluster/sales.yaml").read_text())
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "Dockerfile",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("docs/tutorials/*.md")),
    *sorted(ROOT.glob("examples/gitops/**/*.yaml")),
    ROOT / "charts/dagbundle-operator/README.md",
]


def _of_kind(kind: str, documents: list[Any]) -> list[Any]:
    return [item for item in documents if item["kind"] == kind]


def _section(title: str) -> str:
    return README.partition(f"## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_tags_that_a_document_names_are_the_charts(document: pathlib.Path) -> None:
    text = document.read_text()
    version = CHART["appVersion"]
    images = re.findall(r"dagbundle-operator:(\d[\w.-]*)", text)
    assert {re.sub(r"-airflow3\.\d$", "", tag) for tag in images} <= {version}
    assert set(re.findall(r"(?:targetRevision: |tag: )v?(\d[\w.-]*)", text)) <= {version}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_is_installed_by_a_name_that_no_index_has(document: pathlib.Path) -> None:
    assert re.findall(r"(?:pip|uv|pipx) .*\bdagbundle[-_]operator(?![\w*-]*\*?\.whl).*", document.read_text()) == []


def test_removals_have_no_limit_by_default_and_the_readme_says_so() -> None:
    assert bundle.DagBundle.model_validate(BUNDLE).spec.rollout.max_removed_dags is None
    assert "(`maxRemovedDags`; by default there is no limit)" in " ".join(README.split())


def test_the_readmes_team_has_its_namespace_its_bundles_accounts_and_the_documented_role() -> None:
    resource = bundle.DagBundle.model_validate(BUNDLE)
    namespace = resource.metadata.namespace
    assert [item["metadata"]["name"] for item in _of_kind("Namespace", TEAM)] == [namespace]
    accounts = [item["metadata"]["name"] for item in _of_kind("ServiceAccount", TEAM)]
    assert accounts == [subdir.service_account_name for subdir in resource.spec.subdirs]
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/tenancy.md").read_text(), re.DOTALL)
    (documented,) = (list(yaml.safe_load_all(block)) for block in blocks if "kind: Role\n" in block)
    assert _of_kind("Role", TEAM) == _of_kind("Role", documented)
    (binding,), (other,) = _of_kind("RoleBinding", TEAM), _of_kind("RoleBinding", documented)
    assert [subject["name"] for subject in binding["subjects"]] == accounts
    assert {**binding, "subjects": []} == {**other, "subjects": []}
    assert all(item["metadata"].get("namespace", namespace) == namespace for item in TEAM)


def _applied(page: str) -> list[list[Any]]:
    """Return the documents of each here-document of a page."""
    return [
        list(yaml.safe_load_all(text)) for text in re.findall(r"<<'END'\n(.*?)^END$", page, re.DOTALL | re.MULTILINE)
    ]


def test_the_cluster_tutorial_creates_what_the_readmes_examples_create() -> None:
    team, bundles = _applied((ROOT / "docs/tutorials/cluster.md").read_text())
    assert team == TEAM
    assert bundles == [BUNDLE]


@pytest.mark.parametrize(
    ("page", "test"),
    [("laptop", "tests/integration/cli/test_tutorial.py"), ("cluster", "e2e/test_quickstart.py")],
)
def test_all_blocks_of_a_tutorial_are_of_a_kind_that_its_test_runs_or_compares(page: str, test: str) -> None:
    text = (ROOT / f"docs/tutorials/{page}.md").read_text()
    assert set(re.findall(r"(?m)^ *(?:```|~~~)(.+)$", text)) == {"sh", "text"}
    assert f"docs/tutorials/{page}.md" in (ROOT / test).read_text()


def test_one_name_of_a_namespace_is_used_on_all_pages() -> None:
    others = {"airflow", "argocd", "flux-system"}  # deployments of their own, beside this one
    option = re.compile(
        r"(?:kubectl|helm)\b[^|\n]*? (?:-n|--namespace)[ =]([a-z][a-z0-9-]*)|[{,-] ?namespace: ([a-z][a-z0-9-]*)[,}\n]"
    )
    found: dict[str, str] = {}
    for document in DOCUMENTS:
        for pair in option.findall(document.read_text()):
            found.setdefault(pair[0] or pair[1], document.relative_to(ROOT).as_posix())
    assert {"team-sales", "dagbundle-system"} <= found.keys()
    assert {name: page for name, page in found.items() if name not in others | {"team-sales", "dagbundle-system"}} == {}


def test_the_readmes_cluster_commands_apply_what_is_there_and_in_an_order_that_works() -> None:
    text = _section("On a cluster")
    commands = re.findall(
        r"^(?:kubectl|helm) .*$", "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)), re.MULTILINE
    )
    applied = [match[1] for command in commands if (match := re.search(r"apply -f (\S+)", command))]
    assert [name for name in applied if not (ROOT / name).exists()] == []
    words = (
        "apply -f examples/cluster/team-sales.yaml",
        "create namespace dagbundle-system",
        "create secret",
        "helm install",
        "apply -f examples/cluster/sales.yaml",
        "wait --for=condition=Ready dagbundle/sales -n team-sales",
    )
    order = [next(number for number, command in enumerate(commands) if word in command) for word in words]
    assert order == sorted(order)
    (shown,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert yaml.safe_load(shown) == BUNDLE
    values = yaml.safe_load((ROOT / "charts/dagbundle-operator/values.yaml").read_text())
    for name in re.findall(r"--set '?(\w+)[.\[]", text):
        assert name in values
