"""The words for what does not fit: plain ones, for each kind of field that the models have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pydantic
import pytest

from dagbundle import errors
from dagbundle.resources import base, bundle, faults, grants, manifest

WHOLE: dict[type[pydantic.BaseModel], dict[str, Any]] = {
    bundle.DagBundle: {
        "apiVersion": "dagbundle.dev/v1alpha1",
        "kind": "DagBundle",
        "metadata": {"name": "sales", "namespace": "team-sales"},
        "spec": {
            "source": {"image": {"reference": "r/i:1", "path": "/dags"}},
            "parser": {
                "type": "SinglePass", "config": {}, "processes": 2, "fileTimeout": "30s", "fileMemory": "1Gi",
                "maxUnchangedAge": "1h", "connections": ["a_*"], "variables": ["a"],
            },
            "subdirs": [
                {"path": "a", "serviceAccountName": "a", "runAsUser": 1, "dagIdPrefix": "a_", "shards": 2}
            ],
            "rollout": {
                "scope": "Bundle", "onImportError": "Fail", "maxImportErrors": 1, "maxRemovedDags": "10%",
            },
            "bundleName": "a",
            "pod": {
                "python": "python3", "env": [{"name": "A"}], "envFrom": [{}], "volumes": [{"name": "a"}],
                "volumeMounts": [{"name": "a"}], "imagePullSecrets": ["a"], "nodeSelector": {"a": "b"},
                "tolerations": [{}], "labels": {"a": "b"}, "annotations": {"a": "b"}, "priorityClassName": "a",
                "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}, "scratch": "1Gi",
            },
            "timeout": "10m",
            "retryInterval": "1m",
            "deletionPolicy": "Orphan",
            "suspend": False,
        },
    },
    grants.Grants: {
        "tenants": [
            {
                "namespace": "a", "dagIdPrefixes": ["a_"], "bundleNames": ["a"], "connections": ["a"],
                "variables": ["a_*"],
            }
        ]
    },
    manifest.Manifest: {
        "version": "v1beta",
        "bundle_parser": "SinglePass",
        "bundle_config": {
            "processes": 2, "loaders": {"yaml": {"enabled": True, "patterns": ["a"], "defaults": {}}},
        },
    },
}  # fmt: skip
"""A document of each model in which every field is."""
WRONG = (None, True, 3, -1, 2.5, "", "\0", "x" * 600, [], [3], {}, {3: 4})
PYDANTICS = re.compile(
    r"Input should|should have|Extra inputs|valid (string|integer|list|dictionary|boolean)|instance of"
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    for key, below in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(below, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    if not path:
        return other
    first, *rest = path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    changed = {key: replaced(below, tuple(rest), other) if key == first else below for key, below in items}
    return changed if isinstance(value, dict) else list(changed.values())


def written(path: tuple[Any, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def refusal(model: type[pydantic.BaseModel], document: object) -> str:
    try:
        base.validate(model, document, what="it")
    except errors.ResourceError as error:
        return error.message
    return ""


def schemas(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
    for below in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from schemas(below)


@pytest.mark.parametrize("model", WHOLE, ids=lambda model: model.__name__)
def test_whatever_is_wrong_in_whichever_field_is_said_in_plain_words_with_its_path(
    model: type[pydantic.BaseModel],
) -> None:
    assert refusal(model, WHOLE[model]) == ""
    refused = set()
    for path in places(WHOLE[model]):
        for value in WRONG:
            message = refusal(model, replaced(WHOLE[model], path, value))
            assert not PYDANTICS.search(message), (path, value)
            if message:
                above = [written(path[: len(path) - up]) for up in range(min(3, len(path)))]  # where a rule is about it
                assert any(f"\n  {place}" in message for place in above), (path, value)
                assert "another value" not in message, (path, value)
                refused.add(path)
    open_ended = {path for path in places(WHOLE[model]) if path[:2] == ("bundle_config", "loaders") and len(path) == 5}
    assert refused >= set(places(WHOLE[model])) - open_ended


@pytest.mark.parametrize("model", WHOLE, ids=lambda model: model.__name__)
def test_every_pattern_of_the_models_has_words_and_an_example(model: type[pydantic.BaseModel]) -> None:
    found = {
        schema["pattern"] for schema in schemas(model.model_json_schema()) if isinstance(schema.get("pattern"), str)
    }
    assert found <= faults.FORMS.keys()


def test_the_examples_of_the_patterns_fit_them() -> None:
    for pattern, words in faults.FORMS.items():
        for example in re.split(r", | or ", words.rpartition("as in ")[2]):
            assert re.fullmatch(pattern, example), (pattern, example)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (
            ("spec", "pod", "resources", "limits", "cpu"),
            2,
            "a text, as in 'sales', with at most 64 characters, in quotes",
        ),
        (("spec", "suspend"), "yes", "spec.suspend: must be true or false, without quotes (it is 'yes')"),
        (("spec", "parser"), None, "spec.parser: must be a mapping of fields (config, connections,"),
        (("spec", "pod", "nodeSelector"), {3: "a"}, "nodeSelector[3]: the name of a field must be a text: put it in"),
        (("spec", "subdirs"), [{}], "spec.subdirs[0].path: required field is missing: it must be a path below"),
    ],
)
def test_a_fault_names_a_right_value(path: tuple[Any, ...], value: object, told: str) -> None:
    assert told in refusal(bundle.DagBundle, replaced(WHOLE[bundle.DagBundle], path, value))
