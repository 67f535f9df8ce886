"""Namespaces share what an upkeep may do in turn, and in each its bundles."""

from __future__ import annotations

from collections.abc import Mapping

from dagbundle.targets.airflow import limits
from dagbundle.targets.airflow.next_runs import Spent
from dagbundle.targets.airflow.shares import places

MANY: Mapping[str, str] = {**{f"sales{number}": "sales" for number in range(1000)}, "ops": "ops", "hr": "hr"}


def test_each_namespace_has_a_place_however_many_another_one_needs() -> None:
    needs = {**{name: 100 for name, namespace in MANY.items() if namespace == "sales"}, "ops": 1, "hr": 3}
    found = places(needs, MANY, 500)
    assert sum(found.values()) == 500
    assert (found["ops"], found["hr"]) == (1, 3)
    assert set(found.values()) == {1, 3}


def test_one_namespace_has_all_places_where_no_other_needs_any() -> None:
    assert places({"sales1": 30, "sales2": 5}, MANY, 500) == {"sales1": 30, "sales2": 5}
    assert places({}, MANY, 500) == {}
    found = places({"sales1": 300, "sales2": 5}, MANY, 100)
    assert found == {"sales1": 95, "sales2": 5}


def test_where_there_are_fewer_places_than_namespaces_chance_decides_who_waits() -> None:
    names = {f"b{number}": f"n{number}" for number in range(10)}
    met = [frozenset(places(dict.fromkeys(names, 1), names, 5)) for _ in range(50)]
    assert {len(found) for found in met} == {5}
    assert len(set(met)) > 1


def test_a_namespace_that_took_its_time_leaves_the_rest_to_others() -> None:
    spent = Spent(MANY)
    spent.add("sales1", limits.UPKEEP_BUNDLE_CPU_SECONDS)
    assert not spent.allows("sales1")
    assert spent.allows("sales2")
    spent.add("sales2", limits.UPKEEP_NAMESPACE_CPU_SECONDS)
    assert not spent.allows("sales3")
    assert spent.allows("ops")


def test_the_first_dags_of_a_namespace_are_computed_though_no_time_is_left() -> None:
    spent = Spent(MANY)
    spent.add("sales1", limits.UPKEEP_CPU_SECONDS)
    assert spent.allows("ops")
    spent.add("ops", 0.001)
    assert not spent.allows("ops")
