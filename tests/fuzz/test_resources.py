"""DagBundles, names and manifests of hostile authors: they are refused with an error of ours, or they are bounded."""

from __future__ import annotations

import fnmatch
import json
import pathlib
from typing import Any

import pytest
import yaml

from dagbundle import errors
from dagbundle.resources import base, bundle, grants
from dagbundle.rollout import plan, policy
from dagbundle.rollout.model import BundleKey, Live
from dagbundle.runtime.kubernetes import jobs
from fuzz import fuzzing
from support import manifests

MEMORY = 256 << 20
CPU = 20.0
JOB_BYTES = 1 << 20
"""etcd takes no larger object."""
SETTINGS = jobs.Settings("https://server.dagbundle.svc:8443", "CA", "registry.test/operator:1", "parser-pull")
GRANTS = grants.Grants.model_validate(
    {"tenants": [{"namespace": "team-sales", "dagIdPrefixes": ["sales_"], "variables": ["sales_*"],
                  "connections": ["sales_db", "dir/*"]}]}
)  # fmt: skip


def a_bundle() -> dict[str, Any]:
    """A DagBundle with all that a spec can say."""
    return {
        "apiVersion": "dagbundle.dev/v1alpha1",
        "kind": "DagBundle",
        "metadata": {"name": "sales", "namespace": "team-sales", "uid": "u", "labels": {"a": "b"}},
        "spec": {
            "source": {"image": {"reference": "registry.test/sales:1", "path": "/dags"}},
            "parser": {
                "type": "SinglePass", "processes": 2, "fileTimeout": "30s", "fileMemory": "512Mi", "config": {"a": [1]},
                "variables": ["sales_region"], "connections": ["sales_db"],
            },
            "pod": {
                "python": "/usr/bin/python3", "env": [{"name": "A", "value": "b"}],
                "envFrom": [{"secretRef": {"name": "s"}}],
                "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}}, "nodeSelector": {"a": "b"},
                "tolerations": [{"key": "a", "operator": "Exists"}], "imagePullSecrets": ["mine"],
                "volumes": [{"name": "v", "emptyDir": {}}], "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            },
            "subdirs": [
                {"path": "ingest", "dagIdPrefix": "sales_in", "serviceAccountName": "ingest", "runAsUser": 50010,
                 "shards": 2},
                {"path": ".", "dagIdPrefix": "sales_"},
            ],
            "rollout": {"maxRemovedDags": "10%", "maxImportErrors": 3, "onImportError": "Fail"},
            "suspend": False,
        },
    }  # fmt: skip


def check_bundle(document: Any) -> None:
    if isinstance(document, dict) and isinstance(document.get("metadata"), dict):
        document["metadata"]["namespace"] = "team-sales"  # the API server says in which one it was applied
    with fuzzing.budget(CPU, MEMORY):
        try:
            resource = base.validate(bundle.DagBundle, document, what="a DagBundle")
            rules = policy.resolve(resource, GRANTS)
            found = plan.plan(resource, version="v", live=Live(BundleKey("team-sales", resource.metadata.name)))
            made = [jobs.build(order(resource, run), SETTINGS) for run in found.runs]
        except (errors.ResourceError, errors.ContentError) as error:  # the second: a text that no database stores
            assert len(error.message) < 25_000  # noqa: PT017 - many inputs raise nothing
            return
    assert all(name.startswith("sales_") for name in rules.variables)
    assert all(name == "sales_db" or name.startswith("dir/") for name in rules.connections)
    for job in made:
        check_job(job)


def order(resource: bundle.DagBundle, run: plan.RunPlan) -> jobs.Order:
    return jobs.Order(resource, "uid", run, "run-id", "rollout", "registry.test/sales:1")


def check_job(job: dict[str, Any]) -> None:
    assert len(json.dumps(job, allow_nan=False)) < JOB_BYTES
    pod = job["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    for volume in pod["volumes"]:
        assert "hostPath" not in volume


def test_a_dagbundle_is_refused_or_gives_bounded_jobs_that_are_restricted() -> None:
    assert fuzzing.drive("bundles", [a_bundle()], check_bundle) > 1


def check_key(found: Any) -> None:
    """A pattern, and a name that is looked up."""
    pattern, key = [*found, "", ""][:2] if isinstance(found, list) else ("", found)
    if not isinstance(pattern, str) or not isinstance(key, str):
        return
    with fuzzing.budget(CPU, MEMORY):
        allowed = policy.allows([pattern], key)
    if allowed:
        assert key == pattern or (pattern.endswith("*") and fnmatch.fnmatchcase(key, f"{literal(pattern[:-1])}*"))
        assert not {"", ".", ".."} & set(key.split("/"))
        assert not set("%?#\\") & set(key)


def literal(text: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in text)


def test_a_name_of_a_value_is_allowed_only_where_it_leads_where_the_grant_says() -> None:
    seeds = [
        ["sales_*", "sales_x/../hr"],
        ["sales_*", "sales_x"],
        ["sales_db", "sales_db"],
        ["*", "a/b"],
        ["a/*", "a/b/c"],
    ]
    assert fuzzing.drive("names", seeds, check_key) > 1


def a_manifest() -> dict[str, Any]:
    return {
        "version": "v1beta",
        "bundle_parser": "SinglePassBundleParser",
        "bundle_fetch_interval": "5 minutes",
        "bundle_config": {
            "processes": 4,
            "directories_to_scan": [{"path": "/ingest/", "scan_interval": "1 day"}],
            "loaders": {"yaml": {"enabled": True, "defaults": {"owner": "a"}}, "ini": {"a": 1}},
        },
    }


def test_both_sides_refuse_a_manifest_or_read_the_same_in_it(tmp_path: pathlib.Path) -> None:
    def check(document: Any) -> None:
        (tmp_path / "dagbundle.yaml").write_text(json.dumps(document))
        with fuzzing.budget(CPU, MEMORY):
            ours, theirs = manifests.of_trusted_side(tmp_path), manifests.of_parser(tmp_path)
        for refused in (ours, theirs):
            assert not isinstance(refused, str) or len(refused) < 25_000
        assert ours == theirs or (isinstance(ours, str) and isinstance(theirs, str)), (document, ours, theirs)

    assert fuzzing.drive("manifests", [a_manifest()], check) > 1


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(12)),
        "&a [*a]",
        "!!python/object/apply:os.system ['true']",
        "[" * 20_000,
        "{" * 20_000,
        "? " * 5_000,
        "- " * 20_000,
        "'" + "\\x" * 10,
        "\x00",
        "%YAML 9.9\n---\nversion: v1beta",
        "version: " + "9" * 100_000,
        "!!timestamp x",
        "<<: [1]",
    ],
    ids=[
        "aliases",
        "itself",
        "python",
        "lists",
        "maps",
        "keys",
        "items",
        "quotes",
        "nul",
        "directive",
        "number",
        "time",
        "merge",
    ],
)
def test_yaml_that_is_none_or_much_of_nothing_is_refused_as_a_manifest(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "dagbundle.yaml").write_text(text)
    for reader in (manifests.of_trusted_side, manifests.of_parser):
        with fuzzing.budget(CPU, MEMORY):
            assert isinstance(reader(tmp_path), str)


def test_the_manifest_of_this_suite_is_taken(tmp_path: pathlib.Path) -> None:
    (tmp_path / "dagbundle.yaml").write_text(yaml.safe_dump(a_manifest()))
    assert manifests.of_trusted_side(tmp_path) == ("SinglePass", 4, ("ingest",), ("ini",))
    assert manifests.of_parser(tmp_path) == ("SinglePass", 4, ("ingest",), ("ini",))
