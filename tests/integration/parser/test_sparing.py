"""What importing Airflow sparingly leaves out is there for whoever uses it, and nobody else's imports are changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from integration.parser.conftest import Airflow

pytestmark = pytest.mark.airflow
ROOT = Path(__file__).parents[3]

BEGIN = """
import json, sys
sys.path.insert(0, sys.argv[1])
from dagbundle_parser.loaders.airflow import AirflowAdapter
AirflowAdapter.get()
"""

SOURCE = (
    BEGIN
    + """
before = "libcst" in sys.modules
from airflow.sdk.bases import decorator
source = "@setup\\n@task.virtualenv(requirements=['a'])\\n@mine\\ndef f():\\n    return 1\\n"
found = [decorator.remove_task_decorator(source, "@task.virtualenv") for _ in range(2)]
module = sys.modules[decorator.remove_task_decorator.__module__]
import libcst
derives = issubclass(module._TaskDecoratorRemover, libcst.CSTTransformer)
print(json.dumps([before, found, derives, module.__spec__.name]))
"""
)

MODELS = (
    BEGIN
    + """
import pydantic
from airflow.sdk.execution_time import comms
said = {}
class Derived(comms.VariableResult):
    more: int
class Own(pydantic.BaseModel):
    number: int
value = {"key": "a", "value": "v"}
for model, good in ((comms.VariableResult, value), (Derived, {**value, "more": 1}), (Own, {"number": 1})):
    try:
        model(**dict.fromkeys(good, object()))
    except pydantic.ValidationError as error:
        said[model.__name__] = [error.error_count(), model(**good).model_dump_json()]
adapted = pydantic.TypeAdapter(list[comms.VariableResult]).validate_python([{"key": "b", "value": "v"}])
print(json.dumps([said, adapted[0].key, "defer_build" in pydantic.BaseModel.model_config, Own.__pydantic_complete__]))
"""
)

METRICS = (
    BEGIN
    + """
import importlib, importlib.util
same = []
for package in ("airflow", "airflow.sdk"):
    name = f"{package}._shared.observability.metrics.metrics_registry"
    if name not in sys.modules:
        continue
    module = sys.modules[name]
    spec = importlib.util.find_spec(name)
    stock = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stock)
    path = str(stock.YAML_REGISTRY_PATH)
    same.append(module.read_metrics_yaml(path) == stock.read_metrics_yaml(path) != [])
    same.append(module.read_metrics_yaml.__module__ != name)
print(json.dumps(same))
"""
)


def test_libcst_comes_in_when_the_source_of_a_task_is_asked_for(airflow: Airflow) -> None:
    before, found, derives, name = airflow.script(SOURCE, str(ROOT / "operator"))
    assert not before
    assert found == ["@mine\ndef f():\n    return 1\n"] * 2
    assert derives
    assert name in {"airflow.sdk.definitions._internal.decorators", "airflow.utils.decorators"}


def test_models_of_airflow_validate_as_ever_and_those_of_a_file_are_built_at_once(airflow: Airflow) -> None:
    said, adapted, deferred, complete = airflow.script(MODELS, str(ROOT / "operator"))
    assert said["VariableResult"][0] == 2
    assert '"key":"a"' in said["VariableResult"][1]
    assert said["Derived"][0] == 3
    assert '"more":1' in said["Derived"][1]
    assert said["Own"] == [1, '{"number":1}']
    assert adapted == "b"
    assert not deferred
    assert complete


def test_metrics_that_libyaml_reads_are_those_that_airflow_reads(airflow: Airflow) -> None:
    same = airflow.script(METRICS, str(ROOT / "operator"))
    assert all(same)
    assert same or airflow.minor in {"3.0", "3.1"}
