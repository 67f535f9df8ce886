"""What a content says of Airflow's assets."""

from __future__ import annotations

from typing import Any

import pytest

from dagbundle.rollout import assets, content
from dagbundle.rollout.assets import AssetDefinition, Mention
from dagbundle.rollout.moves import Candidate
from support import serialized


def asset(name: str = "x", **fields: Any) -> dict[str, Any]:
    return {"__type": "asset", "name": name, "uri": f"s3://{name}", "group": "asset", "extra": {}, **fields}


def scheduled(*found: dict[str, Any]) -> dict[str, Any]:
    condition = {"__type": "asset_any", "objects": list(found)}
    return {"__type": "airflow.timetables.simple.AssetTriggeredTimetable", "__var": {"asset_condition": condition}}


def wrapped(found: dict[str, Any]) -> dict[str, Any]:
    return {"__type": "asset", "__var": {name: value for name, value in found.items() if name != "__type"}}


def named(*ports: Any, timetable: Any = None, **fields: Any) -> dict[str, AssetDefinition | None]:
    task = serialized.task("one", outlets=list(ports), **fields)
    found = assets.named(content.split(serialized.dag("a", [task], timetable=timetable)))
    return {
        name: found[assets.key_of(name, f"s3://{name}")]
        for name in "xyz"
        if assets.key_of(name, f"s3://{name}") in found
    }


def digest(definition: AssetDefinition | None) -> str:
    assert definition is not None
    return definition.digest


@pytest.mark.parametrize("group", ["", "asset", "dataset", "model", None, 5, ["asset"], {"a": 1}], ids=repr)
def test_an_asset_with_no_more_than_its_name_is_no_definition(group: Any) -> None:
    assert named(wrapped(asset(group=group)), timetable=scheduled(asset("y", group=group))) == {"x": None, "y": None}


@pytest.mark.parametrize(
    ("fields", "owns"),
    [({"extra": {"a": 1}}, True), ({"watchers": [{"name": "w", "trigger": {}}]}, True), ({"group": "raw"}, False)],
)
def test_an_extra_or_watchers_make_an_asset_somebodys_and_a_group_does_not(fields: dict[str, Any], owns: bool) -> None:
    found = named(wrapped(asset(**fields)))["x"]
    assert found is not None
    assert found.owns is owns


def test_a_definition_is_the_same_in_a_schedule_in_an_inlet_and_of_a_mapped_task() -> None:
    extra = {"b": 1, "a": [2]}
    of_schedule = named(timetable=scheduled(asset(extra=extra)))["x"]
    of_inlet = named(inlets=[wrapped(asset(extra={"a": [2], "b": 1}))])["x"]
    of_mapped = named(_is_mapped=True, partial_kwargs={"outlets": [wrapped(asset(extra=extra))]})["x"]
    assert digest(of_schedule) == digest(of_inlet) == digest(of_mapped)


def test_what_makes_definitions_differ() -> None:
    different = [{"extra": {"a": 1}}, {"extra": {"a": 2}}, {"extra": {"a": 1}, "group": "raw"},
                 {"extra": {"a": 1}, "watchers": [{"name": "w", "trigger": {}}]}]  # fmt: skip
    assert len({digest(named(wrapped(asset(**fields)))["x"]) for fields in different}) == len(different)


def test_of_two_definitions_the_last_counts_and_a_name_alone_takes_nothing_back() -> None:
    first, last = wrapped(asset(extra={"a": 1})), wrapped(asset(extra={"a": 2}))
    assert named(first, last, wrapped(asset())) == named(last)


@pytest.mark.parametrize(
    "port",
    [None, "x", 1, {"__type": "asset"}, {"__type": "asset", "__var": []}, {"__type": "asset", "__var": {"name": 1}}],
)
def test_what_is_no_asset_is_passed_over(port: Any) -> None:
    assert named(port) == {}


def candidate(path: str, dag_id: str, *names: str, **more: Any) -> Candidate:
    task = serialized.task("one", outlets=[asset(name) for name in names], **more)
    return Candidate(dag_id, ".", path, content.split(serialized.dag(dag_id, [task])))


def some(letter: str, count: int) -> list[str]:
    return [f"{letter}{number}" for number in range(count)]


def mentions(*names: str) -> set[Mention]:
    return {Mention("asset", name, f"s3://{name}") for name in names}


def test_assets_aliases_and_references_are_mentioned() -> None:
    alias = {"__type": "asset_alias", "name": "y", "group": "asset"}
    reference = {"__type": "asset_ref", "__var": {"name": "z"}}
    task = serialized.task("one", outlets=[asset(), alias], inlets=[asset()])
    found = content.split(serialized.dag("a", [task], timetable=scheduled(reference)))
    assert assets.mentioned(found) == {
        ("asset", "x", "s3://x"), ("asset_alias", "y", "None"), ("asset_ref", "z", "None")
    }  # fmt: skip


def test_the_file_that_names_most_assets_breaks_where_a_bundle_names_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "MOST_NAMED", 10)
    items = [
        candidate("large.py", "large", *some("l", 7)),
        candidate("large.py", "other", *some("l", 2)),
        candidate("small.py", "small", *some("s", 2)),
        candidate("same.py", "same", *some("s", 2)),
    ]
    assert assets.too_many(items, lambda _: mentions("t0")) == []
    (found,) = assets.too_many(items, lambda _: mentions("t0", "t1"))
    assert (found.path, found.problem.kind) == ("large.py", "TooManyAssets")
    assert "DAG 'large' names 7 assets" in found.problem.message
    assert "all DAGs of file 'large.py' name 7: the DAGs of a bundle name at most 10" in found.problem.message


def test_assets_that_a_bundle_names_already_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "MOST_NAMED", 3)
    known = mentions("a", "b", "c", "d")
    assert assets.too_many([candidate("a.py", "a", "a", "b")], lambda _: known) == []
    assert len(assets.too_many([candidate("a.py", "a", "a", "e")], lambda _: known)) == 1


def test_a_publication_that_names_no_asset_does_not_ask_what_its_bundle_names() -> None:
    assert assets.too_many([candidate("a.py", "a")], lambda _: pytest.fail("it asked")) == []


def test_a_publication_asks_for_names_only_where_its_bundle_names_too_many_with_it() -> None:
    asked: list[int] = []
    assert assets.too_many([candidate("a.py", "a", "x", "y")], lambda few: asked.append(few) or ()) == []  # type: ignore[func-returns-value]
    assert asked == [assets.MOST_NAMED - 2]


def test_a_caller_that_judges_again_can_have_more_files_break_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "MOST_NAMED", 15)
    items = [candidate(f"{n}.py", f"d{n}", *some(f"n{n}", n)) for n in range(1, 6)]
    items.append(candidate("same.py", "same", "t0"))

    for least, broken in ((1, ["5.py"]), (2, ["4.py", "5.py"]), (4, ["2.py", "3.py", "4.py", "5.py"])):
        found = assets.too_many(items, lambda _: mentions("t0"), least=least)
        assert [item.path for item in found] == broken
    assert len(assets.too_many(items, lambda _: mentions("t0"), least=100)) == 5
    assert assets.too_many(items[:2], lambda _: mentions("t0"), least=100) == []
