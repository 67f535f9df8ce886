from __future__ import annotations

from typing import Any

from dagbundle.rollout import content, diff
from dagbundle.rollout.model import Edge
from support import serialized


def taken(*tasks: dict[str, Any], **fields: Any) -> Any:
    return content.split(serialized.dag("d", list(tasks), **fields))


def test_equal_contents_have_no_differences() -> None:
    assert not diff.diff(taken(serialized.task("a")), taken(serialized.task("a")))


def test_a_changed_setting_is_named_by_its_path() -> None:
    found = diff.diff(taken(params={"x": [1, 2]}), taken(params={"x": [1, 3]}))
    assert found.fields == (diff.FieldChange("params.x[1]", 2, 3),)


def test_a_list_of_another_length_is_one_change() -> None:
    found = diff.diff(taken(tags=["a"]), taken(tags=["a", "b"]))
    assert found.fields == (diff.FieldChange("tags", ["a"], ["a", "b"]),)


def test_a_number_and_a_boolean_are_not_equal() -> None:
    assert diff.compare_fields({"x": True}, {"x": 1}) == (diff.FieldChange("x", True, 1),)


def test_added_removed_and_changed_tasks_and_edges_are_told_apart() -> None:
    before = taken(serialized.task("a", ["b"]), serialized.task("b"), serialized.task("gone"))
    after = taken(serialized.task("a", ["new"], retries=2), serialized.task("b"), serialized.task("new"))
    found = diff.diff(before, after)
    assert found.tasks_added == ("new",)
    assert found.tasks_removed == ("gone",)
    assert found.tasks_changed == (diff.TaskChange("a", (diff.FieldChange("retries", None, 2),)),)
    assert found.edges_added == (Edge("a", "new"),)
    assert found.edges_removed == (Edge("a", "b"),)


def test_a_task_that_moves_into_a_group_is_changed() -> None:
    inner = serialized.group("g", {"a": ["operator", "a"]})
    found = diff.diff(
        taken(serialized.task("a")),
        taken(serialized.task("a"), root=serialized.group(None, {"g": ["taskgroup", inner]})),
    )
    assert found.groups_added == ("g",)
    assert found.tasks_changed == (diff.TaskChange("a", (diff.FieldChange("task_group", "", "g"),)),)


def test_a_new_dag_is_all_added() -> None:
    assert diff.diff(None, taken(serialized.task("a"))).tasks_added == ("a",)
