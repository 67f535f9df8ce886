"""Argo CD's health check, run by its own dialect of Lua over objects that the models accept."""

import pathlib
from typing import Any

import lupa.lua51 as lua
import pytest
import yaml

from dagbundle.resources import bundle, status

ROOT = pathlib.Path(__file__).resolve().parents[3]
KEY = "resource.customizations.health.dagbundle.dev_DagBundle"
CHECK: str = yaml.safe_load((ROOT / "examples" / "gitops" / "argocd" / "argocd-cm.yaml").read_text())["data"][KEY]
OBJECTS: dict[str, Any] = yaml.safe_load((pathlib.Path(__file__).parent / "bundles.yaml").read_text())


def health(resource: dict[str, Any]) -> tuple[str, str]:
    runtime = lua.LuaRuntime(unpack_returned_tuples=True)
    runtime.globals().obj = runtime.table_from(resource, recursive=True)
    answer = runtime.execute(CHECK)
    return answer.status, answer.message


@pytest.mark.parametrize("name", OBJECTS)
def test_a_bundle_is_as_healthy_as_it_says(name: str) -> None:
    case = OBJECTS[name]
    assert health(case["object"]) == (case["status"], case["message"])


@pytest.mark.parametrize("name", OBJECTS)
def test_the_objects_are_what_the_operator_reads_and_writes(name: str) -> None:
    resource = OBJECTS[name]["object"]
    bundle.DagBundle.model_validate(resource)
    status.Status.model_validate(resource["status"])
