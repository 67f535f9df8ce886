from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from dagbundle import errors
from dagbundle.rollout.content import join, split
from dagbundle.rollout.model import BundleKey, FileOutcome, ParsedDag, StagedFile
from dagbundle.store.dagstore import DagStore
from dagbundle.store.records import Page
from integration.store.builder import (
    OPS,
    SALES,
    SYNTAX_ERROR,
    Files,
    Prepared,
    apply,
    changeset,
    document,
    judged,
    prepare,
    run,
    start,
)


def publish_dag(store: DagStore, dag_id: str, **shape: int) -> dict[str, Any]:
    """Publish one DAG of a given shape as a bundle of its own."""
    whole = document(dag_id, **shape)  # type: ignore[arg-type] # numbers only
    parts = split(whole)
    bundle = BundleKey("shapes", dag_id)
    rollout = start(store, bundle)
    outcome = FileOutcome(f"{dag_id}.py", dags=(ParsedDag(dag_id, parts.sha256),))
    run(store, rollout, ".", [StagedFile(outcome, contents=(parts,))])
    found = changeset(store, rollout)
    store.publish(rollout.id, found, judged(store.live(bundle), found.runs))
    return whole


def statements_of(store: DagStore, call: Callable[[], object]) -> list[tuple[str, Any]]:
    seen: list[tuple[str, Any]] = []

    def listen(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        seen.append((statement, parameters))

    sa.event.listen(store.db.engine, "before_cursor_execute", listen)
    try:
        call()
    finally:
        sa.event.remove(store.db.engine, "before_cursor_execute", listen)
    return seen


def test_a_whole_dag_comes_back_as_it_was_serialized(store: DagStore) -> None:
    whole = publish_dag(store, "deep", tasks=12, depth=3)
    assert store.get_serialized_dag("deep") == whole == join(split(whole))
    assert list(json.loads(json.dumps(store.get_serialized_dag("deep")))["dag"]["tasks"]) == whole["dag"]["tasks"]


def test_one_task_comes_with_the_header_and_its_groups_and_nothing_else(store: DagStore) -> None:
    whole = publish_dag(store, "deep", tasks=5, depth=2)
    sliced = store.get_serialized_dag("deep", "task_0")
    (task,) = sliced["dag"]["tasks"]
    assert task["__var"]["task_id"] == "task_0"
    assert task["__var"].get("downstream_task_ids", []) == []
    outer = sliced["dag"]["task_group"]
    assert list(outer["children"]) == ["g1"]
    inner = outer["children"]["g1"][1]["children"]["g1.g2"][1]
    assert inner["children"] == {"task_0": ["operator", "task_0"]}
    assert inner["downstream_task_ids"] == []
    assert {k: v for k, v in sliced["dag"].items() if k not in {"tasks", "task_group"}} == {
        k: v for k, v in whole["dag"].items() if k not in {"tasks", "task_group"}
    }
    assert list(store.get_serialized_dag("deep", "task_3")["dag"]["task_group"]["children"]) == ["task_3"]


def test_what_is_not_there_is_not_found(store: DagStore) -> None:
    publish_dag(store, "one")
    for call, message in (
        (lambda: store.get_serialized_dag("none"), "no live DAG none"),
        (lambda: store.get_serialized_dag("none", "task_0"), "no live DAG none"),
        (lambda: store.get_serialized_dag("one", "none"), "DAG one has no task none"),
        (lambda: store.get_dag("none"), "no live DAG none"),
        (lambda: store.source("none"), "no live DAG none"),
        (lambda: store.source("one"), "No source text"),
        (lambda: store.list_tasks("none"), "no live DAG none"),
        (lambda: store.content("0" * 64), "no content"),
        (lambda: store.history(OPS), r"no bundle team-ops\.ops"),
        (lambda: store.list_dags(OPS), r"no bundle team-ops\.ops"),
        (lambda: store.state_at(BundleKey("shapes", "one"), 9), "no revision 9"),
    ):
        with pytest.raises(errors.NotFoundError, match=message):
            call()
    assert store.contents(["0" * 64]) == {}


def test_reading_one_task_reads_no_more_rows_of_a_large_dag_than_of_a_small_one(store: DagStore) -> None:
    publish_dag(store, "small", tasks=3, depth=1)
    publish_dag(store, "large", tasks=3000, depth=1)
    if store.db.is_postgresql:
        store.db.write(lambda c: c.exec_driver_sql("ANALYZE"))
    costs = []
    for dag_id in ("small", "large"):
        found = statements_of(store, lambda dag_id=dag_id: store.get_serialized_dag(dag_id, "task_0"))
        seen = [item for item in found if item[0].startswith(("SELECT", "WITH"))]
        assert len(seen) == 2
        costs.append([_rows_touched(store, statement, parameters) for statement, parameters in seen])
    assert all(rows <= 10 for cost in costs for rows in cost), costs


def _rows_touched(store: DagStore, statement: str, parameters: Any) -> int:
    """Count the rows that PostgreSQL looked at; on SQLite make sure that every table is searched by its key."""
    if not store.db.is_postgresql:
        plan = store.db.read(lambda c: c.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all())
        details = [row[3] for row in plan]
        assert [detail for detail in details if re.match(r"SCAN dagbundle_", detail)] == []
        searches = [detail for detail in details if detail.startswith("SEARCH")]
        assert searches
        for detail in searches:
            assert re.search(r"USING (INTEGER PRIMARY KEY|INDEX \S*autoindex\S*) ", detail), detail
            assert "task" not in detail or detail.count("=?") == 2, detail
        return len(searches)

    def explain(connection: sa.Connection) -> int:
        found = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).scalar_one()
        return _rows_of(found[0]["Plan"])

    return store.db.read(explain)


def _rows_of(plan: dict[str, Any]) -> int:
    own = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) if "Relation Name" in plan else 0
    return int(own * plan["Actual Loops"]) + sum(_rows_of(child) for child in plan.get("Plans", []))


def test_the_number_of_statements_of_a_publish_does_not_depend_on_the_number_of_files(store: DagStore) -> None:
    counts = []
    for number in (10, 200):
        bundle = BundleKey("team", f"b{number}")
        names = [f"n{number}_{index}" for index in range(number)]
        first = {f"{name}.py": {name: "1"} for name in names} | {"e.py": SYNTAX_ERROR}
        second = {f"{name}.py": {name: "2"} for name in names[:-3]} | {"f.py": SYNTAX_ERROR, "x.py": {f"x{number}": ""}}
        per_bundle = []
        for files in (first, second, second):
            ready: list[Prepared] = []
            per_bundle.append(len(statements_of(store, functools.partial(_prepare_into, ready, store, bundle, files))))
            per_bundle.append(len(statements_of(store, functools.partial(ready[0].publish, store))))
        counts.append(per_bundle)
    assert counts[0] == counts[1]
    assert max(counts[0]) < 60


def _prepare_into(ready: list[Prepared], store: DagStore, bundle: BundleKey, files: Files) -> None:
    ready.append(prepare(store, bundle, files))


# --- Details and lists ----------------------------------------------------------------------------------------------


def test_a_dags_details_say_where_it_comes_from_and_since_when(store: DagStore) -> None:
    apply(store, SALES, {"a.py": {"a": "1"}}, version="v1")
    apply(store, SALES, {"a.py": {"a": "1"}}, version="v2")
    details = store.get_dag("a")
    assert (details.bundle, details.airflow_name, details.path) == (SALES, "team-sales.sales", "a.py")
    assert (details.number, details.since_revision, details.bundle_version) == (1, 1, "v2")
    assert (details.task_count, details.dag_hash, details.relative_fileloc) == (2, "0" * 32, "a.py")
    assert details.since.utcoffset() is not None
    assert details.since.utcoffset().total_seconds() == 0  # type: ignore[union-attr] # checked above
    assert store.source("a") == "# [('a', '1')]"


def test_pages_show_everything_once_and_in_order(store: DagStore) -> None:
    names = sorted(f"dag_{index:02}" for index in range(23))
    apply(store, SALES, {f"{name}.py": {name: "1"} for name in names} | {f"e{i}.py": SYNTAX_ERROR for i in range(7)})
    for number in range(9):
        apply(store, OPS, {"o.py": {"O": str(number), "_o": "1"}})

    def walk(ask: Callable[..., Page[Any]], *arguments: object) -> list[Any]:
        items: list[Any] = []
        cursor = None
        while True:
            page = ask(*arguments, limit=limit, cursor=cursor)
            items += page.items
            if page.next_cursor is None:
                return items
            cursor = page.next_cursor

    for limit in (1, 3, 23, 1000):  # noqa: B007 - walk reads it
        assert [row.dag_id for row in walk(store.list_dags, SALES)] == names
        assert [row.dag_id for row in walk(store.list_dags)] == ["O", "_o", *names]
        assert len(walk(store.list_errors)) == 7
        assert [row.bundle for row in walk(store.list_bundles)] == [OPS, SALES]
        assert [row.revision for row in walk(store.history, OPS)] == list(range(9, 0, -1))
        assert [row.number for row in walk(store.list_versions, "O")] == list(range(9, 0, -1))
        assert [row.task_id for row in walk(store.list_tasks, "O")] == ["task_0", "task_1"]


def test_a_page_loses_nothing_when_rows_go_between_two_pages(store: DagStore) -> None:
    apply(store, SALES, {f"{name}.py": {name: "1"} for name in "abcdef"})
    first = store.list_dags(limit=3)
    apply(store, SALES, {f"{name}.py": {name: "1"} for name in "cdefg"})
    second = store.list_dags(limit=10, cursor=first.next_cursor)
    assert [row.dag_id for row in second.items] == ["d", "e", "f", "g"]


@pytest.mark.parametrize("cursor", ["nonsense", "bnVsbA==", "WzEsMl0=", "W251bGxd", "é"])
def test_a_cursor_that_no_list_gave_out_is_refused(store: DagStore, cursor: str) -> None:
    with pytest.raises(errors.UsageError, match="cursor"):
        store.list_dags(cursor=cursor)


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_page_is_bounded(store: DagStore, limit: int) -> None:
    with pytest.raises(errors.UsageError, match="1 to 1000"):
        store.list_dags(limit=limit)


def test_bundles_are_listed_with_what_they_hold(store: DagStore) -> None:
    apply(store, SALES, {"a.py": {"a": "1", "b": "1"}, "e.py": SYNTAX_ERROR}, version="v1")
    store.register_bundle(OPS, "ops")
    ops, sales = store.list_bundles().items
    assert (ops.revision, ops.dags, ops.import_errors, ops.version) == (0, 0, 0, "")
    assert (sales.revision, sales.dags, sales.import_errors, sales.version) == (1, 2, 1, "v1")


def test_any_number_of_dag_ids_can_be_asked_for_at_once(store: DagStore) -> None:
    apply(store, SALES, {"a.py": {"a": "1"}})
    assert store.owners([f"none{index}" for index in range(70_000)] + ["a"]) == {"a": SALES}
    assert store.owners([]) == {}
