"""An upgrade starts no rollout: what 0.1.0 published keeps its template hash."""

from __future__ import annotations

import json
import pathlib
import typing
from collections.abc import Iterator
from typing import Any

import pydantic
import pytest

from dagbundle.resources import base, bundle
from dagbundle.rollout import plan

GOLDEN = json.loads((pathlib.Path(__file__).parents[2] / "golden" / "templates.v0.1.0.json").read_text())


def resource(spec: dict[str, Any]) -> bundle.DagBundle:
    document = {
        "apiVersion": "dagbundle.dev/v1alpha1",
        "kind": "DagBundle",
        "metadata": {"name": "sales", "namespace": "team-sales"},
        "spec": spec,
    }
    return base.validate(bundle.DagBundle, document, what="test")


@pytest.mark.parametrize("template", GOLDEN["templates"], ids=lambda template: str(template["name"]))
def test_a_spec_has_the_template_hash_that_the_first_release_gave_it(template: dict[str, Any]) -> None:
    assert plan.template_hash(resource(template["spec"]), "sha256:1") == template["hash"]


def test_each_field_that_came_after_the_first_release_is_declared_with_its_default() -> None:
    first = {tuple(path.split(".")) for path in GOLDEN["fields"]}
    later = {path: default for path, default in fields(bundle.Spec) if path not in first}

    assert later == {tuple(part for part in path if part != "*"): value for path, value in bundle.LATER.items()}


def test_a_field_that_came_later_counts_once_it_is_set() -> None:
    spec = GOLDEN["templates"][0]["spec"]
    assert plan.template_hash(resource({**spec, "parser": {"variables": ["region"]}}), "sha256:1") != (
        plan.template_hash(resource(spec), "sha256:1")
    )


def test_a_field_of_each_item_of_a_list_counts_only_where_it_is_set() -> None:
    found = {"subdirs": [{"path": "a", "later": 1}, {"path": "b", "later": 2}], "other": None}
    for path in (("subdirs", "*", "later"), ("other", "missing"), ("missing", "field")):
        plan._drop(found, path, 1)
    assert found == {"subdirs": [{"path": "a"}, {"path": "b", "later": 2}], "other": None}


def fields(model: type[pydantic.BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The paths and defaults of a model's fields and of those of the models inside."""
    for name, field in model.model_fields.items():
        path = (*above, field.alias or name)
        yield path, field.default
        for inner in models(field.annotation):
            yield from fields(inner, path)


def models(annotation: Any) -> Iterator[type[pydantic.BaseModel]]:
    """The models in a type."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from models(argument)
