"""Serialized DAGs that no serializer wrote: refused or taken, but nothing is imported and nothing half written."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from dagbundle import errors
from publisher.conftest import Deployment, allowing, dag, document, installed, opened
from support import airflow_tables

FILE = "airflow.providers.standard.triggers.file.FileDeleteTrigger"
"""What a watcher may start by default is nothing: this is allowed by a setting."""
NAMES = [
    "tenant_canary.Evil",
    "os.system",
    "builtins.eval",
    "airflow.timetables.base.Timetable",
    "dag",
    "operator",
    "x" * 3000,
]
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(max_size=20),
    st.sampled_from(NAMES), st.just([]), st.just({}),
    st.sampled_from(NAMES).map(lambda name: {"__type": name, "__var": {"exc_cls_name": name, "args": []}}),
    st.sampled_from(NAMES).map(lambda name: {"__class": name, "default": 1}),
    st.sampled_from(NAMES).map(lambda name: {"__classname__": name, "__data__": {}, "__version__": 1}),
)  # fmt: skip


def rich() -> dict[str, Any]:
    """A document with much in it."""
    from airflow.providers.standard.operators.empty import EmptyOperator  # noqa: PLC0415 - after AIRFLOW_HOME is set
    from airflow.sdk import Asset, Param, TaskGroup  # noqa: PLC0415 - likewise

    made = dag(
        "hostile", schedule=[Asset("in", uri="x://in")], tags=["t"], params={"p": Param(1, type="integer")},
        description="d", doc_md="# doc", owner_links={"airflow": "https://example.com"},
    )  # fmt: skip
    with TaskGroup("group", dag=made):
        EmptyOperator(task_id="in_group", dag=made, outlets=[Asset("out", uri="x://out")], pool="default_pool")
    return document(made, "h.py")


rich_once = functools.cache(rich)


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """The document with one to three places changed."""
    found: dict[str, Any] = copy.deepcopy(rich_once())
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(found))
        holder, key = draw(st.sampled_from(places))
        holder[key] = draw(VALUES)
    return found


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


@pytest.fixture(scope="module")
def canary() -> Iterator[None]:
    """A module that anybody could import, and nobody may."""
    folder = pathlib.Path(tempfile.mkdtemp())
    (folder / "tenant_canary.py").write_text("class Evil:\n    deserialize = classmethod(lambda cls, _: cls())\n")
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def shared(sqlite_template: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    path = tmp_path_factory.mktemp("hostile") / "airflow.db"
    shutil.copy(sqlite_template, path)
    for found in opened(f"sqlite:///{path}"):
        yield allowing(found, FILE)


@pytest.mark.usefixtures("canary")
@given(found=mutated())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_mutated_document_is_refused_or_published_whole_and_as_airflow_can_read_it(
    shared: Deployment, found: dict[str, Any]
) -> None:
    before = airflow_tables.dump(shared.url)
    try:
        shared.submit({"h.py": [found], "other.py": [dag("other")]}, version=str(len(before)))
    except errors.DagBundleError:
        assert airflow_tables.dump(shared.url) == before
    else:
        with Session(shared.store.db.engine) as session:
            assert "other" in {row.dag.dag_id for row in session.scalars(sa.select(installed().SerializedDag))}
    assert "tenant_canary" not in sys.modules


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        ({"timezone": "Mars/Base"}, "InvalidTimezone"),
        ({"task_group": {"nothing": 1}}, "KeyError: '_group_id'"),
    ],
)
def test_what_airflow_cannot_read_is_refused_with_its_reason(
    shared: Deployment, harm: dict[str, Any], why: str
) -> None:
    found = rich()
    found["dag"].update(harm)
    with pytest.raises(errors.TargetError, match=r"^DAG hostile of bundle team-sales\.sales, file h\.py: ") as refused:
        shared.submit({"h.py": [found]}, version=why)
    assert why in refused.value.message


def test_what_airflow_says_of_a_document_is_bounded(shared: Deployment) -> None:
    found = rich()
    found["dag"]["timezone"] = "Mars/" + "x" * 100_000
    with pytest.raises(errors.TargetError) as refused:
        shared.submit({"h.py": [found]}, version="long")
    assert len(refused.value.message) < 10_000


@pytest.mark.usefixtures("canary")
@pytest.mark.parametrize(
    "harm",
    [
        {"timetable": {"__type": "tenant_canary.Evil", "__var": {}}},
        {"params": [["p", {"__class": "tenant_canary.Evil", "default": 1}]]},
        {"default_args": {"__type": "airflow_exc_ser", "__var": {"exc_cls_name": "tenant_canary.Evil"}}},
    ],
)
def test_no_class_of_a_tenants_choosing_is_imported(shared: Deployment, harm: dict[str, Any]) -> None:
    found = rich()
    found["dag"].update(harm)
    with pytest.raises(errors.TargetError):
        shared.submit({"h.py": [found]}, version="evil")
    assert "tenant_canary" not in sys.modules


@pytest.mark.usefixtures("canary")
def test_a_modules_name_in_any_place_of_a_document_is_never_imported(shared: Deployment) -> None:
    plain = calling()
    shared.submit({"h.py": [plain]}, version="plain")
    places = [path for path, _ in _strings(plain)]
    assert {"classpath", "trigger_cls", "path", "__classname__", "__type"} <= {path[-1] for path in places}
    for path in places:
        found = copy.deepcopy(plain)
        holder: Any = found
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = "tenant_canary.Evil"
        with contextlib.suppress(errors.DagBundleError):
            shared.submit({"h.py": [found]}, version="/".join(map(str, path))[:200])
            with Session(shared.store.db.engine) as session:
                assert [row.dag for row in session.scalars(sa.select(installed().SerializedDag))]
        assert "tenant_canary" not in sys.modules, path


def calling() -> dict[str, Any]:
    """A document with everything that Airflow imports and calls, and which is allowed: keys are plain texts."""
    found: dict[str, Any] = json.loads(json.dumps(rich_once()))
    moment = "airflow.providers.standard.triggers.temporal.DateTimeTrigger"
    notifier = "airflow.providers.smtp.notifications.smtp.SmtpNotifier"
    asset = {"__type": "asset", "name": "in", "uri": "x://in/", "group": "asset", "extra": {},
             "watchers": [{"name": "w", "trigger": {"classpath": FILE, "kwargs": {"filepath": "x"}}}]}  # fmt: skip
    kind = "airflow.timetables.simple.AssetTriggeredTimetable"
    found["dag"]["timetable"] = {"__type": kind, "__var": {"asset_condition": asset}}
    callback = {"__classname__": "airflow.sdk.definitions.deadline.AsyncCallback", "__version__": 0,
                "__data__": {"path": notifier, "kwargs": {"to": "a@example.com"}}}  # fmt: skip
    alert = {"reference": {"reference_type": "DagRunQueuedAtDeadline"}, "interval": 1.0, "callback": callback}
    found["dag"]["deadline"] = [{"__type": "deadline_alert", "__var": alert}]
    found["dag"]["tasks"][0]["__var"] |= {
        "start_from_trigger": True,
        "start_trigger_args": {"__type": "START_TRIGGER_ARGS", "trigger_cls": moment, "trigger_kwargs": None,
                               "next_method": "execute", "next_kwargs": None, "timeout": None},
    }  # fmt: skip
    return found


def _strings(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    if isinstance(value, str):
        yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _strings(item, (*path, key))


@pytest.mark.parametrize("params", [5, "x", [1], [["p"]], [["p", {"__class": "tenant_canary.Evil"}]]])
def test_params_that_are_none_are_refused(shared: Deployment, params: Any) -> None:
    found = rich()
    found["dag"]["params"] = params
    with pytest.raises(errors.TargetError, match=r"^DAG hostile of bundle team-sales\.sales, file h\.py: ") as refused:
        shared.submit({"h.py": [found]}, version="params")
    assert refused.value.reason == "NotAllowed"
