"""What a document may have Airflow import and call: triggers, watchers, callbacks of deadlines, and their arguments."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from dagbundle import errors
from dagbundle.targets.airflow import vetting
from support import serialized

NOTIFIER = "airflow.providers.smtp.notifications.smtp.SmtpNotifier"
ANY = vetting.Allowed(notifiers=lambda: frozenset({NOTIFIER}))
FILE = "airflow.providers.standard.triggers.file.FileDeleteTrigger"
MOMENT = "airflow.providers.standard.triggers.temporal.DateTimeTrigger"
CALLING = {"callback_path": "subprocess.check_output", "callback_kwargs": {"args": ["touch", "CANARY"]}}
NULL = {"__type": "airflow.timetables.simple.NullTimetable", "__var": {}}


def document(*tasks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return serialized.dag("a", list(tasks) or [serialized.task("one")], **{"timetable": NULL, **fields})


def watched(classpath: Any, kwargs: Any = None) -> dict[str, Any]:
    asset = {
        "__type": "asset", "name": "x", "uri": "x://y", "group": "asset", "extra": {},
        "watchers": [{"name": "w", "trigger": {"classpath": classpath, "kwargs": kwargs or {}}}],
    }  # fmt: skip
    kind = "airflow.timetables.simple.AssetTriggeredTimetable"
    return document(timetable={"__type": kind, "__var": {"asset_condition": asset}})


def started(classpath: str, *, starts: bool = True, kwargs: Any = None, **more: Any) -> dict[str, Any]:
    arguments = {
        "__type": "START_TRIGGER_ARGS", "trigger_cls": classpath, "trigger_kwargs": kwargs,
        "next_method": "execute_complete", "next_kwargs": None, "timeout": None, **more,
    }  # fmt: skip
    return document(serialized.task("one", start_trigger_args=arguments, start_from_trigger=starts))


def deadline(path: str, kind: str = "callback.AsyncCallback", **more: Any) -> dict[str, Any]:
    callback = {
        "__classname__": f"airflow.sdk.definitions.{kind}", "__version__": 0,
        "__data__": {"path": path, "kwargs": more.pop("kwargs", {}), **more},
    }  # fmt: skip
    alert = {"reference": {"reference_type": "DagRunQueuedAtDeadline"}, "interval": 1.0, "callback": callback}
    return document(deadline=[{"__type": "deadline_alert", "__var": alert}])


def changed(found: dict[str, Any], **body: Any) -> dict[str, Any]:
    """The deadline with other parts."""
    made = copy.deepcopy(found)
    made["dag"]["deadline"][0]["__var"].update(body)
    return made


def refused(found: dict[str, Any], told: str, allowed: vetting.Allowed = ANY) -> errors.TargetError:
    with pytest.raises(errors.TargetError, match=told) as raised:
        vetting.check(found, allowed)
    assert raised.value.reason == "NotAllowed"
    return raised.value


@pytest.mark.parametrize(
    "name",
    [
        "airflow.triggers.callback.CallbackTrigger",
        "airflow.triggers.deadline.DeadlineCallbackTrigger",
        "airflow.triggers.base.os",
        "airflow.providers.standard.triggers.file.FileDeleteTrigger",
        "airflow.providers.cncf.kubernetes.triggers.pod.KubernetesPodTrigger",
        "tenant.Evil",
    ],
)
def test_by_default_a_watcher_starts_no_trigger_and_a_task_none_but_those_that_wait_for_a_moment(name: str) -> None:
    refused(watched(name, CALLING), "trigger.classpath is .* the triggerer may not import it")
    refused(started(name, kwargs=CALLING), r"start_trigger_args\.trigger_cls is .* may not import it")


def test_no_setting_allows_a_trigger_that_calls_what_its_argument_names() -> None:
    name = "airflow.triggers.callback.CallbackTrigger"
    allowed = vetting.Allowed(triggers=frozenset({name}))
    assert not refused(watched(name, CALLING), "may not import it", allowed).hint


def test_a_trigger_that_waits_for_a_moment_is_allowed() -> None:
    vetting.check(
        started(MOMENT, kwargs={"__type": "dict", "__var": {"moment": {"__type": "datetime", "__var": 1.0}}}), ANY
    )


def test_a_watcher_starts_no_trigger_that_waits_for_a_moment_since_its_event_ends_the_triggerer() -> None:
    refused(watched(MOMENT, {"moment": 1.0}), "trigger.classpath is .* it ends the triggerer")
    vetting.check(watched(FILE, {"filepath": "x"}), vetting.Allowed(triggers=frozenset({FILE})))


def test_an_operator_that_only_names_its_trigger_may_name_any_since_nobody_imports_it() -> None:
    vetting.check(started("airflow.providers.standard.triggers.file.FileTrigger", starts=False), ANY)


@pytest.mark.parametrize("place", ["partial_kwargs", "client_defaults"])
def test_a_task_starts_from_its_trigger_wherever_that_is_said(place: str) -> None:
    found = started("tenant.Evil", starts=False)
    if place == "client_defaults":
        found["client_defaults"] = {"tasks": {"start_from_trigger": True}}
    else:
        found["dag"]["tasks"][0]["__var"]["partial_kwargs"] = {"start_from_trigger": True}
    refused(found, r"trigger_cls is 'tenant\.Evil'")


def test_arguments_of_a_trigger_stand_only_where_they_are_looked_at() -> None:
    refused(document(default_args={"__type": "START_TRIGGER_ARGS", "trigger_cls": "tenant.Evil"}), "stand in")
    refused(started(MOMENT, other=1), "there is no such field")


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({"a": {"Encoding.TYPE": "airflow_exc_ser", "Encoding.VAR": {}}}, "may not begin so|another object"),
        ({"a": {"__type": "operator", "__var": {}}}, "plain values only"),
        ({"a": {"__type": "dict", "__var": {}, "other": 1}}, "plain values only"),
        ({"a": {"__classname__": "datetime.datetime", "x": 1}}, "plain values only|only a deadline"),
        ({"a": {"__reduce__": 1}}, "may not begin so"),
        ({"a": [[[[[[[[[[[1]]]]]]]]]]]}, "levels deep"),
        ({"a": "x" * 70_000}, "at most 65,536 are allowed"),
        ({"a": "{% for i in range(10) %}x{% endfor %}"}, "a template may name a value"),
        ({"a": "{{ 'x' * 10**9 }}"}, "a template may name a value"),
        ({"a": "{{ x.__class__ }}"}, "a template may name a value"),
        ([1], "an object is expected"),
    ],
)
def test_arguments_are_plain_small_values(kwargs: Any, told: str) -> None:
    refused(watched(MOMENT, kwargs), told)
    refused(started(MOMENT, kwargs=kwargs), told)
    refused(started(MOMENT, next_kwargs=kwargs), told)
    refused(deadline(NOTIFIER, kwargs=kwargs), told)


@pytest.mark.parametrize("kind", ["callback.AsyncCallback", "deadline.AsyncCallback", "callback.SyncCallback",
                                  "deadline.SyncCallback"])  # fmt: skip
@pytest.mark.parametrize("path", ["os.system", "tenant_canary.evil", "unittest.__main__.main",
                                  "airflow.triggers.callback.CallbackTrigger", None, ["os.system"]])  # fmt: skip
def test_a_deadline_calls_nothing_but_a_notifier_of_an_installed_provider(kind: str, path: Any) -> None:
    refused(deadline(path, kind), r"callback\.__data__\.path is .* it may not be called")


def test_a_deadline_may_call_an_installed_notifier_with_templates_that_name_a_value() -> None:
    vetting.check(deadline(NOTIFIER, kwargs={"to": "a@example.com", "subject": "late: {{ dag_run.dag_id }}"}), ANY)


@pytest.mark.parametrize("name", ["files", "template"])
def test_a_notifier_reads_no_file_of_the_triggerers(name: str) -> None:
    refused(deadline(NOTIFIER, kwargs={name: "/proc/self/environ"}), "read a file")


def test_a_deadline_calls_what_the_deployment_allows_by_its_exact_name() -> None:
    allowed = vetting.Allowed(callbacks=frozenset({"ours.calls.page"}))
    vetting.check(deadline("ours.calls.page"), allowed)
    assert "DAGBUNDLE_ALLOWED_CALLBACKS" in refused(deadline("ours.calls.other"), "may not be called", allowed).hint
    refused(deadline(NOTIFIER), "may not be called", allowed)


def test_a_sync_callback_goes_only_to_an_executor_that_is_known_to_carry_it_out() -> None:
    sync = "callback.SyncCallback"
    refused(deadline(NOTIFIER, sync), "executor is 'default', and this executor is not known")
    allowed = vetting.Allowed(callbacks=frozenset({"a.b"}), callback_executors=frozenset({"LocalExecutor"}))
    vetting.check(deadline("a.b", sync, executor="LocalExecutor"), allowed)
    refused(deadline("a.b", sync, executor="KubernetesExecutor"), "not known", allowed)
    refused(deadline("a.b", sync), "not known", allowed)
    refused(deadline("a.b", executor="LocalExecutor"), "runs in the triggerer", allowed)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"reference": {"reference_type": "Evil"}}, "it is one of"),
        ({"reference": {"reference_type": "AverageRuntimeDeadline", "max_runs": 10**9}}, "from 1 to 10,000"),
        ({"reference": {"reference_type": "FixedDatetimeDeadline", "datetime": 1e300}}, "must be from"),
        ({"reference": {"__class_path": "tenant.Evil"}}, "it is not allowed"),
        ({"reference": {"reference_type": "DagRunQueuedAtDeadline", "other": 1}}, "no such field"),
        ({"interval": 1e300}, "must be from"),
        ({"interval": "x"}, "a number is expected"),
        ({"interval": {"__classname__": "tenant.Evil", "__data__": 1}}, "holds no such object|no interval"),
        (
            {"interval": {"__classname__": "airflow.sdk.definitions.deadline.VariableInterval",
                          "__version__": 0, "__data__": {"key": "secret"}}},
            "would read any Variable",
        ),
        ({"callback": None}, "a callback is expected"),
        ({"callback": {"__classname__": "datetime.timedelta", "__version__": 1, "__data__": 1}}, "no callback"),
        ({"name": "x" * 251}, "at most 250"),
        ({"other": 1}, "no such field"),
    ],
)  # fmt: skip
def test_every_part_of_a_deadline_is_looked_at(body: dict[str, Any], told: str) -> None:
    refused(changed(deadline(NOTIFIER), **body), told)


def test_a_deadline_is_not_taken_in_another_shape_or_place() -> None:
    alert = deadline("os.system")["dag"]["deadline"][0]
    refused(document(deadline=[alert["__var"]]), "there is no such field|deadline_alert is expected")
    refused(document(deadline=alert["__var"]), "a list is expected")
    refused(document(deadline=["0190f5c0-0000-7000-8000-000000000000"]), "an object is expected")
    refused(document(default_args=alert), "stands in dag.deadline only|only a deadline")


@pytest.mark.parametrize("name", [["x"], {"x": 1}])
def test_a_name_that_is_no_text_is_refused_wherever_one_is_expected(name: Any) -> None:
    for found in (
        watched(name),
        watched(MOMENT, {"x": {"__type": name, "__var": 1}}),
        watched(MOMENT, {"x": {"__classname__": name}}),
        started(name),
        deadline(NOTIFIER, kwargs={"to": {"__type": name, "__var": 1}}),
        changed(deadline(NOTIFIER), interval={"__classname__": name, "__data__": 1}),
    ):
        with pytest.raises(errors.TargetError) as error:
            vetting.check(found, ANY)
        assert error.value.reason == "NotAllowed"
    for field in ("pool", "queue", "executor"):
        limited = vetting.Allowed(pools=frozenset({"p"}), queues=frozenset({"q"}), executors=frozenset({"e"}))
        with pytest.raises(errors.TargetError, match=field):
            vetting.check(document(serialized.task("one", **{field: name})), limited)
