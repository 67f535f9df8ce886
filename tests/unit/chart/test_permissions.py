"""What the chart's roles allow: explained where it stands, listed in the documents, and never what must not be.

The rules themselves are plain YAML, so they are read here without Helm; e2e/test_chart.py asks an API server about the
rendered ones.
"""

import pathlib
import re
from typing import Any

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[3]
TEMPLATES = ROOT / "charts" / "dagbundle-operator" / "templates"
FILES = sorted(path for path in TEMPLATES.rglob("*.yaml") if re.search(r"(?m)^kind: (Cluster)?Role$", path.read_text()))
CODE = re.compile(r"{{-?\s*(?:/\*.*?\*/|[^{}]*?)\s*-?}}", re.DOTALL)

Rule = dict[str, list[str]]


def plain(text: str) -> str:
    """Return a template without its code: lines of it alone go, the end of each role's name stays."""
    text = re.sub(r'{{ include "dagbundle\.name" \(list [.$]+ "(\w+)"\) }}', r"x-\1", text)
    text = text.replace('{{ include "dagbundle.fullname" . }}', "x")
    lines = [line for line in text.splitlines() if not re.fullmatch(r"\s*{{.*}}\s*", line)]
    return CODE.sub("x", "\n".join(lines))


def roles() -> dict[str, list[Rule]]:
    """Return the rules of every role, by kind and the end of its name."""
    found: dict[str, list[Rule]] = {}
    for path in FILES:
        for item in yaml.safe_load_all(plain(path.read_text())):
            if item and item["kind"] in {"ClusterRole", "Role"}:
                name = item["metadata"]["name"].removeprefix("x-")
                own = "" if item["kind"] == "ClusterRole" else " in its own namespace"
                found[f"{name}{own}"] = item["rules"]
    return found


ROLES = roles()
RULES = [pytest.param(rule, id=f"{name}-{','.join(rule['resources'])}") for name in ROLES for rule in ROLES[name]]


def test_all_roles_of_the_chart_are_read() -> None:
    assert set(ROLES) == {
        "controller", "controller in its own namespace", "server", "tenant", "tenant-server", "view", "edit",
    }  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(TEMPLATES).as_posix())
def test_every_rule_says_why_it_is_there(path: pathlib.Path) -> None:
    lines = path.read_text().splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("  - apiGroups:")]
    assert starts
    assert [lines[start] for start in starts if not lines[start - 1].startswith("  # ")] == []


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_is_open_ended(rule: Rule) -> None:
    assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
    assert set(rule) <= {"apiGroups", "resources", "resourceNames", "verbs"}


@pytest.mark.parametrize("rule", RULES)
def test_nobody_may_touch_secrets_roles_bindings_or_run_commands_in_pods(rule: Rule) -> None:
    forbidden = {
        "secrets", "configmaps", "roles", "rolebindings", "clusterroles", "clusterrolebindings",
        "serviceaccounts/token", "pods/exec", "pods/log", "pods/attach", "pods/ephemeralcontainers",
        "certificatesigningrequests", "nodes", "users", "groups", "userextras",
    }  # fmt: skip
    assert forbidden & set(rule["resources"]) == set()
    assert {"escalate", "bind", "approve"} & set(rule["verbs"]) == set()


@pytest.mark.parametrize("rule", RULES)
def test_of_service_accounts_nothing_is_allowed_but_to_impersonate(rule: Rule) -> None:
    if "serviceaccounts" in rule["resources"]:
        assert rule["verbs"] == ["impersonate"]


def test_only_the_role_for_teams_namespaces_impersonates() -> None:
    assert [name for name in ROLES if any("impersonate" in rule["verbs"] for rule in ROLES[name])] == ["tenant"]


@pytest.mark.parametrize("role", ["tenant", "tenant-server"])
def test_a_role_for_teams_namespaces_is_bound_in_namespaces_only(role: str) -> None:
    bound = [
        (item["kind"], item["metadata"].get("namespace"))
        for path in FILES
        for item in yaml.safe_load_all(plain(path.read_text()))
        if item and item["kind"].endswith("Binding") and item["roleRef"]["name"].endswith(f"x-{role}")
    ]
    assert [kind for kind, _ in bound] == ["RoleBinding"]
    assert all(namespace for _, namespace in bound)


def test_in_every_namespace_the_controller_writes_nothing_but_bundles_and_events() -> None:
    reads = {"get", "list", "watch"}
    writes = {name for rule in ROLES["controller"] if set(rule["verbs"]) - reads for name in rule["resources"]}
    assert writes == {"dagbundles", "dagbundles/status", "events"}


def documented() -> set[tuple[str, str, str, str]]:
    text = (ROOT / "docs" / "security.md").read_text()
    rows = re.findall(r"(?m)^\| ([a-z][a-z -]*) \| (`[^|]+`) \| (`[^|]+`) \| ([a-z, ]+) \| \S.* \|$", text)
    return {(role, groups, resources, verbs) for role, groups, resources, verbs in rows}


def row(role: str, rule: Rule) -> tuple[str, str, str, str]:
    def listed(names: list[Any]) -> str:
        return ", ".join(f"`{name or 'core'}`" for name in names)

    return role, listed(rule["apiGroups"]), listed(rule["resources"]), ", ".join(rule["verbs"])


def test_the_security_document_lists_every_rule_and_no_other() -> None:
    assert documented() == {row(role, rule) for role, rules in ROLES.items() for rule in rules}
