from __future__ import annotations

from typing import Any

import pytest

from dagbundle import errors
from dagbundle.resources import base, bundle, crd, grants, manifest


def resource(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "dagbundle.dev/v1alpha1",
        "kind": "DagBundle",
        "metadata": {"name": "sales", "namespace": "team-sales", "labels": {"a": "b"}},
        "spec": {"source": {"image": {"reference": "r/i:1"}}, **spec},
    }


def load(document: object) -> bundle.DagBundle:
    return base.validate(bundle.DagBundle, document, what="DagBundle in x.yaml")


def test_the_least_bundle_takes_the_documented_defaults() -> None:
    found = load(resource())
    assert [subdir.path for subdir in found.spec.subdirs] == ["."]
    assert (found.spec.rollout.scope, found.spec.rollout.on_import_error) == ("Bundle", "KeepLastGood")
    assert found.spec.parser.type is None


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (None, "it is empty, not a mapping"),
        ([], "it is a list, not a mapping"),
        ({**resource(), "kind": "Dagbundle"}, "kind: 'Dagbundle' is not allowed (allowed: 'DagBundle')"),
        (
            resource(subdir=[]),
            "spec.subdir: unknown field; did you mean 'subdirs'? (allowed: bundleName, deletionPolicy,",
        ),
        (resource(source={}), "spec.source: exactly one of image and workloadRef is needed"),
        (resource(source={"git": {}}), "spec.source.git: unknown field (allowed: image, workloadRef)"),
        (
            resource(rollout={"scope": "All"}),
            "spec.rollout.scope: 'All' is not allowed (allowed: 'Bundle' or 'Subdir')",
        ),
        (
            resource(rollout={"maxRemovedDags": -1}),
            "spec.rollout.maxRemovedDags: must be a whole number of at least 0, as in 2, or a percentage up to 100%",
        ),
        (resource(rollout={"maxRemovedDags": "101%"}), "or a percentage up to 100%, as in 10% (it is '101%')"),
        (
            resource(parser={"processes": "2"}),
            "spec.parser.processes: must be a whole number from 1 to 64, as in 2, without quotes (it is '2')",
        ),
        (
            resource(parser={"processes": True}),
            "spec.parser.processes: must be a whole number from 1 to 64, as in 2 (it is true)",
        ),
        (resource(parser={"fileTimeout": "0s"}), "spec.parser.fileTimeout: must be at least 1s"),
        (
            resource(parser={"fileTimeout": "soon"}),
            "spec.parser.fileTimeout: must be a duration, as in 30s, 5m or 1h30m",
        ),
        (resource(subdirs=[]), "spec.subdirs: must be a list, as in [a, b], with 1 to 64 entries (it is [])"),
        (resource(subdirs=[{"path": "/abs"}]), "spec.subdirs[0].path: must be a path below the bundle's root, as in"),
        (resource(subdirs=[{"path": "a/../../b"}]), "spec.subdirs[0].path: 'a/../../b' must not contain '..'"),
        (resource(subdirs=[{"path": "a"}, {"path": "a/"}]), "spec.subdirs: path 'a' occurs more than once"),
        (
            resource(subdirs=[{"path": "a", "runAsUser": 0}]),
            "spec.subdirs[0].runAsUser: must be a whole number from 1 to 2,",
        ),
        (resource(suspend="yes"), "spec.suspend: must be true or false, without quotes (it is 'yes')"),
        (
            {**resource(), "metadata": {"name": "Bad_Name"}},
            "metadata.name: must be a name of lower-case letters, digits and -",
        ),
    ],
)
def test_what_does_not_fit_is_named_by_path_and_what_is_allowed(document: object, words: str) -> None:
    with pytest.raises(errors.ResourceError) as caught:
        load(document)
    assert words in caught.value.message
    assert caught.value.message.startswith("DagBundle in x.yaml is not valid")


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(errors.ResourceError) as caught:
        load(resource(subdirs=[{"path": 1}, {"odd": 2}], suspend=3))
    assert len(caught.value.message.splitlines()) == 5


def test_a_status_that_somebody_applies_is_ignored() -> None:
    assert "status" not in load({**resource(), "status": {"x": 1}}).model_dump()


@pytest.mark.parametrize(("text", "number"), [("30s", 30), ("2m", 120), ("1h30m", 5400), ("1h1m1s", 3661)])
def test_durations_are_read_as_seconds(text: str, number: int) -> None:
    assert base.seconds(text) == number


@pytest.mark.parametrize(("text", "number"), [("5", 5), ("1Ki", 1024), ("2M", 2_000_000), ("1Gi", 2**30)])
def test_quantities_are_read_as_bytes(text: str, number: int) -> None:
    assert base.quantity_bytes(text) == number


def test_a_namespace_twice_in_the_grants_is_refused() -> None:
    with pytest.raises(errors.ResourceError, match="namespace 'a' occurs more than once"):
        base.validate(grants.Grants, {"tenants": [{"namespace": "a"}, {"namespace": "a"}]}, what="grants")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"version": "v2"}, "version: 'v2' is not allowed (allowed: 'v1beta')"),
        ({"version": "v1beta", "bundle_parsr": "x"}, "bundle_parsr: unknown field; did you mean 'bundle_parser'?"),
        (
            {"version": "v1beta", "bundle_config": {"processes": 0}},
            "bundle_config.processes: must be a whole number from 1",
        ),
        ({"version": "v1beta", "bundle_config": {"loaders": {"yaml": {"pattern": []}}}}, "did you mean 'patterns'?"),
        ({}, "version: required field is missing"),
    ],
)
def test_a_bad_manifest_is_named_by_path_and_what_is_allowed(document: object, words: str) -> None:
    with pytest.raises(errors.ResourceError) as caught:
        base.validate(manifest.Manifest, document, what="manifest dagbundle.yaml")
    assert words in caught.value.message


def test_a_manifests_parser_may_carry_the_proposals_ending() -> None:
    found = base.validate(manifest.Manifest, {"version": "v1beta", "bundle_parser": "SinglePassBundleParser"}, what="m")
    assert found.parser_type == "SinglePass"


def test_a_manifest_without_a_parser_leaves_it_open() -> None:
    assert base.validate(manifest.Manifest, {"version": "v1beta"}, what="m").parser_type is None


def unbounded(schema: dict[str, Any], path: str) -> list[str]:
    """Return where a CRD's schema takes a text, list or map of any size."""
    found = []
    kind = schema.get("type")
    if kind == "string" and not {"maxLength", "enum"} & schema.keys():
        found.append(path)
    if kind == "array" and "maxItems" not in schema:
        found.append(path)
    if "additionalProperties" in schema and "maxProperties" not in schema:
        found.append(path)
    if "x-kubernetes-preserve-unknown-fields" in schema:
        found.append(f"{path} (passed on)")
    for name, below in schema.get("properties", {}).items():
        found += unbounded(below, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            found += unbounded(schema[name], f"{path}[]")
    return found


def test_every_field_of_the_crd_is_bounded_but_what_is_passed_on_as_it_is() -> None:
    schema = crd.definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    passed_on = [f"spec.pod.{name}[]" for name in ("env", "envFrom", "volumes", "volumeMounts", "tolerations")]
    expected = {f"{path} (passed on)" for path in ("spec.parser.config", *passed_on)}
    assert {path.lstrip(".") for path in unbounded(schema, "")} == expected


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"parser": {"config": {"x": "y" * base.MAX_OBJECT_BYTES}}}, "parser.config: it has"),
        ({"pod": {"env": [{"name": "A", "value": "y" * base.MAX_OBJECT_BYTES}]}}, r"pod.env\[0\]: it has"),
        ({"pod": {"labels": {"x" * 400: "y"}}}, "longer than 317"),
        ({"pod": {"annotations": {"x": "y" * 5000}}}, "at most 4,096 characters"),
        ({"timeout": "99999999h"}, "must be a duration"),
        ({"pod": {"scratch": "9999999999Ti"}}, "is more than"),
        ({"source": {"image": {"reference": "a:1", "path": "/opt/../etc"}}}, "must not contain '..'"),
    ],
)
def test_a_value_without_measure_is_refused_by_its_path(spec: dict[str, Any], told: str) -> None:
    with pytest.raises(errors.ResourceError, match=told):
        load(resource(**spec))
