"""What a document may name before Airflow's decoders see it."""

from __future__ import annotations

from typing import Any

import pytest

from dagbundle import errors
from dagbundle.rollout import content
from dagbundle.targets.airflow import vetting
from support import serialized

ANY = vetting.Allowed()
CRON = {
    "__type": "airflow.timetables.trigger.CronTriggerTimetable",
    "__var": {"expression": "@daily", "timezone": "UTC"},
}


def document(*tasks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return serialized.dag("a", list(tasks) or [serialized.task("one")], **{"timetable": CRON, **fields})


def watched(classpath: Any) -> dict[str, Any]:
    asset = {
        "__type": "asset", "name": "x", "uri": "x://y", "group": "asset", "extra": {},
        "watchers": [{"name": "w", "trigger": {"classpath": classpath, "kwargs": {}}}],
    }  # fmt: skip
    return {"__type": "airflow.timetables.simple.AssetTriggeredTimetable", "__var": {"asset_condition": asset}}


def test_an_ordinary_document_passes() -> None:
    vetting.check(document(), ANY)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"timetable": {"__type": "tenant.Evil", "__var": {}}}, r"dag\.timetable\.__type is 'tenant.Evil'"),
        ({"timetable": {"__type": "airflow.timetables.base.os", "__var": {}}}, "no such class"),
        ({"timetable": "@daily"}, "it is no timetable"),
        ({"timetable": None}, "it is no timetable"),
        (
            {"default_args": {"__type": "base_exc_ser", "__var": {"exc_cls_name": "eval"}}},
            r"default_args\.__type is 'base_exc_ser'",
        ),
        ({"default_args": [{"__type": "airflow_exc_ser", "__var": {}}]}, r"dag\.default_args\[0\]\.__type"),
        ({"default_args": {"__type": "connection", "__var": {"conn_id": "a"}}}, "connection"),
        ({"default_args": {"__type": "simple_task_instance", "__var": {}}}, "simple_task_instance"),
        ({"default_args": {"__type": ["dict"], "__var": {}}}, "no such class"),
        ({"params": [["p", {"__class": "subprocess.Popen"}]]}, "it is no Param's class"),
        ({"deadline": [{"__classname__": "tenant.Evil"}]}, "there is no such field"),
        ({"default_args": {"__class_path": "tenant.Evil"}}, "it is not allowed"),
        ({"default_args": {"__classname__": "tenant.Evil"}}, "a DAG holds no such object"),
        ({"default_args": {"__classname__": "datetime.timedelta"}}, "only a deadline is written so"),
        ({"default_args": {"Encoding.TYPE": "airflow_exc_ser"}}, "another object"),
        ({"create_dagrun": "x"}, "there is no such field"),
        ({"timetable": watched("tenant.Evil")}, "the triggerer may not import it"),
        ({"timetable": watched(None)}, "the triggerer may not import it"),
        ({"tags": ["x" * 101]}, "a tag is a text of at most 100 characters"),
        ({"tags": [1]}, "a tag"),
        ({"description": 1}, "a text is expected"),
        ({"max_active_runs": "many"}, "a whole number is expected"),
        ({"relative_fileloc": "x" * 2001}, "at most 2,000 are allowed"),
        ({"default_args": {"__type": "asset", "name": "x" * 1501, "uri": "u", "group": "g"}}, "an asset's name"),
        ({"default_args": {"__type": "asset", "name": 1, "uri": "u", "group": "g"}}, "an asset's name"),
        ({"default_args": {"__type": "asset", "__var": []}}, "an asset is an object"),
        ({"default_args": {"__type": "asset", "name": "x", "uri": "u", "group": "g"}}, r"extra is None, and an object"),
    ],
)
def test_a_document_that_names_or_is_what_it_must_not_is_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(errors.TargetError, match=told) as raised:
        vetting.check(document(**fields), ANY)
    assert raised.value.reason == "NotAllowed"


@pytest.mark.parametrize(
    ("defaults", "told"),
    [
        ({"tasks": {"x": {"__type": "base_exc_ser", "__var": {}}}}, r"client_defaults\.tasks\.x\.__type"),
        (
            {"tasks": {"start_from_trigger": True, "start_trigger_args": {"trigger_cls": "tenant.Evil"}}},
            "triggerer",
        ),
        ({"tasks": {"pool": "other"}}, r"client_defaults\.tasks\.pool is 'other'"),
        ({"tasks": []}, None),
        ({"tasks": "x"}, "it is no object"),
        ("x", "no object of objects"),
    ],
)
def test_what_stands_beside_the_dag_is_looked_at_too(defaults: Any, told: str | None) -> None:
    found = {**document(), "client_defaults": defaults}
    allowed = vetting.Allowed(pools=frozenset({"sales"}))
    if told is None:
        vetting.check(found, allowed)
        return
    with pytest.raises(errors.TargetError, match=told):
        vetting.check(found, allowed)


@pytest.mark.parametrize("name", ["__class", "__classname__", "__class_path", "__type"])
@pytest.mark.parametrize("value", [["a"], {"a": 1}, None, 1])
def test_a_name_that_is_no_text_is_refused(name: str, value: Any) -> None:
    with pytest.raises(errors.TargetError, match=name):
        vetting.check(document(default_args={name: value}), ANY)


def test_a_refusal_says_how_the_platform_team_would_allow_it() -> None:
    with pytest.raises(errors.TargetError) as raised:
        vetting.check(document(timetable={"__type": "tenant.Workdays", "__var": {}}), ANY)
    assert raised.value.hint == "the platform team allows it by DAGBUNDLE_ALLOWED_CLASSES"


@pytest.mark.parametrize(
    ("field", "allowed"),
    [
        ("pool", vetting.Allowed(pools=frozenset({"sales"}))),
        ("queue", vetting.Allowed(queues=frozenset({"sales"}))),
        ("executor", vetting.Allowed(executors=frozenset({"sales"}))),
    ],
)
def test_a_task_chooses_among_what_is_allowed(field: str, allowed: vetting.Allowed) -> None:
    vetting.check(document(serialized.task("one", **{field: "sales"})), allowed)
    vetting.check(document(serialized.task("one")), allowed)
    vetting.check(document(serialized.task("one", **{field: "anything"})), ANY)
    with pytest.raises(errors.TargetError, match=rf"dag\.tasks\[0\]\.{field} is 'other'"):
        vetting.check(document(serialized.task("one", **{field: "other"})), allowed)
    with pytest.raises(errors.TargetError, match=field):
        vetting.check(document(serialized.task("one", _is_mapped=True, partial_kwargs={field: "other"})), allowed)


def test_a_document_is_nested_as_deeply_as_can_be_stored_and_no_deeper() -> None:
    value: Any = []
    for _ in range(98):  # besides those of the document, its DAG and the innermost
        value = [value]
    vetting.check(document(default_args=value), ANY)
    content.split(document(default_args=value))
    with pytest.raises(errors.TargetError, match="nested more than 100 levels deep"):
        vetting.check(document(default_args=[value]), ANY)
    with pytest.raises(errors.ContentError, match="nested more than 100 levels deep"):
        content.split(document(default_args=[value]))


def test_a_dag_names_so_many_assets_at_most() -> None:
    named = [
        {"__type": "asset", "name": f"n{n}", "uri": f"x://{n}", "group": "asset", "extra": {}} for n in range(5_001)
    ]
    vetting.check(document(serialized.task("one", outlets=named[1:])), ANY)
    with pytest.raises(errors.TargetError, match="at most 5,000 assets"):
        vetting.check(document(serialized.task("one", outlets=named)), ANY)
    others = [{"__type": "asset_alias", "name": "n0", "group": "asset"}, {"__type": "asset_ref", "name": "n0"}]
    with pytest.raises(errors.TargetError, match="at most 5,000 assets, aliases and references"):
        vetting.check(document(serialized.task("one", outlets=[*named[2:], *others])), ANY)


def test_what_a_deployment_allows_comes_from_its_environment() -> None:
    found = vetting.read(
        {
            "DAGBUNDLE_ALLOWED_CLASSES": "plugins.Workdays, ",
            "DAGBUNDLE_ALLOWED_TRIGGERS": "ours.Trigger",
            "DAGBUNDLE_ALLOWED_CALLBACKS": "ours.call",
            "DAGBUNDLE_ALLOWED_CALLBACK_EXECUTORS": "default",
            "DAGBUNDLE_ALLOWED_POOLS": "a,b",
            "DAGBUNDLE_ALLOWED_SHARED_ASSETS": "true",
        }
    )
    assert found.classes == {"plugins.Workdays"}
    assert found.triggers == {"ours.Trigger"}
    assert found.callbacks == {"ours.call"}
    assert found.callback_executors == {"default"}
    assert found.pools == {"a", "b"}
    assert found.queues is None
    assert found.shared_assets
    vetting.check(document(timetable={"__type": "plugins.Workdays", "__var": {}}), found)
    vetting.check(document(timetable=watched("ours.Trigger")), found)


def test_assets_have_owners_unless_the_deployment_says_so_in_one_way() -> None:
    assert not vetting.read({}).shared_assets
    assert not vetting.read({"DAGBUNDLE_ALLOWED_SHARED_ASSETS": "false"}).shared_assets
    with pytest.raises(errors.UsageError, match="'yes' is neither true nor false"):
        vetting.read({"DAGBUNDLE_ALLOWED_SHARED_ASSETS": "yes"})


def test_a_pattern_is_refused_because_it_allows_more_than_it_says() -> None:
    with pytest.raises(errors.UsageError, match=r"holds the pattern 'airflow\.triggers\.\*'"):
        vetting.read({"DAGBUNDLE_ALLOWED_TRIGGERS": "airflow.triggers.*"})
