from __future__ import annotations

from typing import Any

import pytest

from dagbundle import errors
from dagbundle.resources import base, bundle, grants
from dagbundle.rollout import plan, policy
from dagbundle.rollout.model import BundleKey, Hold, Live


def resource(namespace: str = "team-sales", **spec: Any) -> bundle.DagBundle:
    document = {
        "apiVersion": "dagbundle.dev/v1alpha1",
        "kind": "DagBundle",
        "metadata": {"name": "sales", "namespace": namespace},
        "spec": {"source": {"image": {"reference": "r/i:1"}}, **spec},
    }
    return base.validate(bundle.DagBundle, document, what="test")


def granted(**tenant: Any) -> grants.Grants:
    return base.validate(grants.Grants, {"tenants": [{"namespace": "team-sales", **tenant}]}, what="grants")


def test_without_grants_nothing_is_limited() -> None:
    assert policy.resolve(resource(bundleName="any"), None).granted_prefixes == ()


def test_a_namespace_that_no_grant_lists_is_not_enabled() -> None:
    with pytest.raises(errors.ResourceError, match="no grant lists it") as raised:
        policy.resolve(resource("team-other"), granted())
    assert raised.value.reason == "NamespaceNotEnabled"


def test_a_spec_can_narrow_its_grant() -> None:
    subdirs = [{"path": "a", "dagIdPrefix": "sales.a."}]
    found = policy.resolve(resource(subdirs=subdirs), granted(dagIdPrefixes=["sales."]))
    assert (dict(found.prefixes), found.granted_prefixes) == ({"a": "sales.a."}, ("sales.",))


def test_a_spec_cannot_widen_its_grant() -> None:
    subdirs = [{"path": "a", "dagIdPrefix": "ops."}]
    with pytest.raises(
        errors.ResourceError, match=r"spec.subdirs\[0\].dagIdPrefix 'ops.' is outside .*granted: sales."
    ) as raised:
        policy.resolve(resource(subdirs=subdirs), granted(dagIdPrefixes=["sales."]))
    assert raised.value.reason == "NotGranted"


@pytest.mark.parametrize(("name", "allowed"), [("team-sales.sales", True), ("legacy", True), ("other", False)])
def test_a_bundle_name_must_be_the_default_or_granted(name: str, allowed: bool) -> None:
    if allowed:
        policy.resolve(resource(bundleName=name), granted(bundleNames=["legacy"]))
    else:
        with pytest.raises(errors.ResourceError, match="is not granted"):
            policy.resolve(resource(bundleName=name), granted(bundleNames=["legacy"]))


def test_a_plan_has_one_run_for_each_subdir_that_leaves_nested_ones_out() -> None:
    found = plan.plan(
        resource(subdirs=[{"path": "."}, {"path": "a"}, {"path": "a/b"}]), version="v", live=Live(BundleKey("n", "b"))
    )
    assert [(run.subdir, run.exclude) for run in found.runs] == [(".", ("a", "a/b")), ("a", ("a/b",)), ("a/b", ())]


def test_a_suspended_bundle_plans_nothing() -> None:
    assert plan.plan(resource(suspend=True), version="v", live=Live(BundleKey("n", "b"))).reason == "Suspended"


def test_a_held_template_plans_nothing_until_the_version_or_the_spec_changes() -> None:
    bundle_key = BundleKey("team-sales", "sales")
    held = Live(bundle_key, holds=(Hold(plan.template_hash(resource(), "v"), "v", "bad"),))
    found = plan.plan(resource(), version="v", live=held)
    assert found.reason == "Held"
    assert "`dagbundle resume team-sales/sales`" in found.message
    assert plan.plan(resource(), version="v2", live=held).runs
    assert plan.plan(resource(subdirs=[{"path": "x"}]), version="v", live=held).runs


# --- Variables and Connections ---


def test_values_are_those_that_are_granted_unless_the_spec_names_fewer() -> None:
    grant = granted(variables=["sales_*", "region"], connections=["db"])
    found = policy.resolve(resource(), grant)
    assert (found.variables, found.connections) == (("sales_*", "region"), ("db",))
    narrowed = policy.resolve(resource(parser={"variables": ["sales_eu_*", "sales_day", "region"]}), grant)
    assert (narrowed.variables, narrowed.connections) == (("sales_eu_*", "sales_day", "region"), ("db",))
    assert policy.resolve(resource(parser={"variables": []}), grant).variables == ()
    assert policy.resolve(resource(), granted()).variables == ()
    assert policy.resolve(resource(), None).connections == ("*",)


@pytest.mark.parametrize("name", ["payroll", "sales", "sal*", "*", "regions", "region*"])
def test_a_spec_cannot_name_values_that_are_not_granted(name: str) -> None:
    grant = granted(variables=["sales_*", "region"])
    with pytest.raises(errors.ResourceError, match=r"spec.parser.variables names .* outside of the grant") as raised:
        policy.resolve(resource(parser={"variables": ["region", name]}), grant)
    assert raised.value.reason == "NotGranted"


@pytest.mark.parametrize(
    ("patterns", "name", "allowed"),
    [
        (["region"], "region", True),
        (["region"], "regions", False),
        (["region"], "Region", False),
        (["sales_*"], "sales_", True),
        (["sales_*"], "sales_db", True),
        (["sales_*"], "sales", False),
        (["*"], "anything", True),
        ([], "anything", False),
        (["a.b"], "axb", False),
        (["s[a]les"], "sales", False),
    ],
)
def test_a_pattern_is_a_name_or_the_beginning_of_names(patterns: list[str], name: str, allowed: bool) -> None:
    assert policy.allows(patterns, name) is allowed


CLIMBING = [
    "sales_x/../hr_payroll",
    "sales_/./x",
    "sales_x//hr",
    "sales_x/",
    "sales_%2e%2e",
    "sales_x?a",
    "sales_x#a",
    "sales_\\x",
    "sales_x/..;/hr_payroll",
]


@pytest.mark.parametrize("name", CLIMBING)
def test_no_pattern_allows_a_name_that_leads_elsewhere_in_a_backend_of_paths(name: str) -> None:
    assert not policy.allows(["*", "sales_*", name], name)
    assert not policy.allows(["*", "sales_*"], name + "*") or name.endswith("/")


@pytest.mark.parametrize("name", CLIMBING)
def test_a_grant_of_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(errors.ResourceError, match=r"must not have '\.', '\.\.' or nothing between slashes"):
        granted(variables=[name])


@pytest.mark.parametrize("name", ["sales_x/eu/day", "sales.x", "sales..x", "sales_x/..y", "sales x"])
def test_dots_and_slashes_of_ordinary_names_are_allowed(name: str) -> None:
    assert policy.allows(["sales*"], name)


@pytest.mark.parametrize("name", ["", "a*b", "**", "new\nline", "x" * 251])
def test_a_pattern_with_a_star_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(errors.ResourceError, match=r"tenants\[0\].variables\[0\]"):
        granted(variables=[name])


def test_suspending_does_not_change_the_template() -> None:
    assert plan.template_hash(resource(suspend=True), "v") == plan.template_hash(resource(), "v")
