"""Fields of DAGs and tasks: types, columns, links, schemas, and the graph of all DAGs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dagbundle import errors
from dagbundle.targets.airflow import vetting
from support import serialized

ANY = vetting.Allowed()
NULL = {"__type": "airflow.timetables.simple.NullTimetable", "__var": {}}


def document(*tasks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return serialized.dag("a", list(tasks) or [serialized.task("one")], **{"timetable": NULL, **fields})


def refused(found: dict[str, Any], told: str) -> None:
    with pytest.raises(errors.TargetError, match=told):
        vetting.check(found, ANY)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"max_active_tasks": 2**40}, "dag.max_active_tasks is 1099511627776, and it must be from 0 to"),
        ({"max_active_runs": 2**31}, "dag.max_active_runs"),
        ({"max_active_runs": True}, "a whole number"),
        ({"max_consecutive_failed_dag_runs": 1.5}, "a whole number"),
        ({"catchup": 1}, "true or false"),
        ({"dagrun_timeout": 1e300}, "must be from"),
        ({"dag_display_name": "x" * 2001}, "at most 2,000"),
        ({"allowed_run_types": ["evil"]}, "no such type of run"),
        ({"allowed_run_types": [["manual"]]}, "no such type of run"),
        ({"owner_links": {"airflow": "javascript:alert(1)"}}, "begins with https:, http: or mailto:"),
        ({"owner_links": {"airflow": "java\nscript:alert(1)"}}, "begins with"),
        ({"owner_links": {"airflow": "data:text/html,x"}}, "begins with"),
        ({"owner_links": {"airflow": "https://" + "x" * 500}}, "at most 500"),
        ({"owner_links": {"x" * 501: "https://x"}}, "at most 500"),
        ({"edge_info": {"a": {"b": "label"}}}, "an object is expected"),
        ({"tags": ["t"] * 1001}, "at most 1,000"),
    ],
)
def test_a_field_that_no_column_or_page_of_airflows_should_get_is_refused(fields: dict[str, Any], told: str) -> None:
    refused(document(**fields), told)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"owner": ["a", "b"]}, r"task one: dag\.tasks\[0\]\.owner is \['a', 'b'\], and a text is expected"),
        ({"owner": "x" * 501}, "at most 500"),
        ({"pool_slots": "x"}, "a whole number"),
        ({"pool_slots": 2**31}, "must be from 1 to 2,147,483,647"),
        ({"retries": 2**40}, "retries"),
        ({"priority_weight": 2**40}, "priority_weight"),
        ({"trigger_rule": "sometimes"}, "no such rule"),
        ({"trigger_rule": ["all_success"]}, "no such rule"),
        ({"trigger_rule": {"all_success": 1}}, "no such rule"),
        ({"retry_delay": 1e300}, "must be from"),
        ({"retry_delay": -1}, "must be from"),
        ({"execution_timeout": "x"}, "a number"),
        ({"task_type": "x" * 1001}, "at most 1,000"),
        ({"depends_on_past": "yes"}, "true or false"),
        ({"partial_kwargs": {"pool_slots": "x"}}, r"partial_kwargs\.pool_slots"),
        ({"partial_kwargs": {"retry_delay": {"__type": "timedelta", "__var": 1e300}}}, "must be from"),
        ({"partial_kwargs": 1}, "an object is expected"),
    ],
)
def test_a_task_that_would_end_the_scheduler_when_it_writes_its_row_is_refused(
    fields: dict[str, Any], told: str
) -> None:
    refused(document(serialized.task("one", **fields)), told)


def test_owners_that_add_up_to_more_than_a_column_are_refused_though_each_is_short() -> None:
    tasks = [serialized.task(f"t{number}", owner=f"{number:0>400}") for number in range(6)]
    refused(document(*tasks), r"the length of all tasks' owners is 2410, and Airflow's dag.owners has 2,000 characters")
    vetting.check(document(*tasks[:4]), ANY)


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"$ref": "http://169.254.169.254/latest"}, "may not refer"),
        ({"$ref": "file:///etc/passwd"}, "may not refer"),
        ({"allOf": [{"$ref": "#/definitions/a"}]}, "may not refer"),
        ({"$dynamicRef": "#a"}, "may not refer"),
        ({"$id": "http://example.com/x"}, "may have no address"),
        ({"$schema": "http://example.com/x"}, "may have no address"),
        ({"pattern": "(a+)+" * 200}, "at most 500"),
        (
            {"__type": "dict", "__var": {"properties": {"__type": "dict", "__var": {"$ref": {"$ref": "x:y"}}}}},
            "may not",
        ),
    ],
)
@pytest.mark.parametrize("place", ["dag", "task", "partial", "defaults"])
def test_a_params_schema_names_no_other_document(schema: dict[str, Any], told: str, place: str) -> None:
    params = [["p", {"__class": "airflow.sdk.definitions.param.Param", "default": 1, "schema": schema}]]
    found = {
        "dag": document(params=params),
        "task": document(serialized.task("one", params=params)),
        "partial": document(serialized.task("one", partial_kwargs={"params": params})),
        "defaults": {**document(), "client_defaults": {"tasks": {"params": params}}},
    }[place]
    refused(found, told)


def test_a_params_property_may_have_any_name() -> None:
    schema = {"type": "object", "properties": {"$ref": {"type": "string"}, "id": {"type": "integer"}},
              "$schema": "https://json-schema.org/draft/2020-12/schema"}  # fmt: skip
    params = [["p", {"__class": "airflow.sdk.definitions.param.Param", "default": {}, "schema": schema}]]
    vetting.check(document(params=params), ANY)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"source": "a", "target": "b"}, "dependency_type"),
        ({"source": "a", "target": "b", "dependency_type": "evil"}, "no such kind"),
        ({"source": 1, "target": "b", "dependency_type": "trigger"}, "source"),
        ({"source": "asset:x", "target": "b", "dependency_type": "trigger", "dependency_id": "i"}, "begins with"),
        ({"source": "asset", "target": "a", "dependency_type": "asset", "dependency_id": "x"}, "no such asset"),
        (
            {"source": "asset", "target": "a", "dependency_type": "asset",
             "dependency_id": json.dumps({"name": "other", "uri": "x://y"})},
            "no such asset",
        ),
        ({"source": "asset-alias", "target": "a", "dependency_type": "asset-alias", "dependency_id": "x"}, "alias"),
        ("x", "an object"),
    ],
)  # fmt: skip
def test_an_entry_that_would_break_airflows_graph_of_all_dags_is_refused(entry: Any, told: str) -> None:
    refused(document(dag_dependencies=[entry]), told)


@pytest.mark.parametrize("name", ["inlets", "outlets"])
def test_what_a_task_reads_or_writes_says_what_it_is(name: str) -> None:
    unnamed = [{"__var": {"name": "o", "uri": "x://o", "group": "asset", "extra": {}}}]
    for fields in ({name: unnamed}, {"partial_kwargs": {name: unnamed}}):
        refused(document(serialized.task("one", **fields)), rf"{name}\[0\] is .* it does not say what it is")


def test_dependencies_on_the_dags_own_assets_are_taken() -> None:
    outlets = [
        {"__type": "asset", "__var": {"name": "o", "uri": "x://o", "group": "asset", "extra": {}}},
        {"__type": "asset_alias", "__var": {"name": "al", "group": "asset"}},
    ]
    entries = [
        {"source": "a", "target": "asset", "label": "o", "dependency_type": "asset",
         "dependency_id": json.dumps({"name": "o", "uri": "x://o"})},
        {"source": "a", "target": "asset-alias", "label": "a", "dependency_type": "asset-alias", "dependency_id": "al"},
        {"source": "a", "target": "b", "label": "t", "dependency_type": "trigger", "dependency_id": "t"},
    ]  # fmt: skip
    vetting.check(document(serialized.task("one", outlets=outlets), dag_dependencies=entries), ANY)
