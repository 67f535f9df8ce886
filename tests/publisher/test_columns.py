"""The lengths that vetting holds a document to are those of Airflow's own models, of each minor."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from dagbundle.targets.airflow import vetting
from publisher.conftest import installed


@pytest.mark.parametrize("name", sorted(vetting.LIMITS))
def test_a_columns_limit_is_its_models(name: str) -> None:
    table, _, column = name.partition(".")
    found = installed().Dag.metadata.tables.get(table)
    if found is None or column not in found.c:
        assert installed().minor in {"3.1", "3.2"}, "the newest minor has every column"
        return
    kind = found.c[column].type
    kind = getattr(kind, "impl", kind)  # what Airflow's own types of ids are made of
    assert isinstance(kind, sa.String)
    assert kind.length == vetting.LIMITS[name]


INTEGERS = {
    "dag": ("max_active_tasks", "max_active_runs", "max_consecutive_failed_dag_runs"),
    "task_instance": ("pool_slots", "priority_weight", "max_tries"),
}


@pytest.mark.parametrize("table", sorted(INTEGERS))
def test_whole_numbers_of_a_document_end_in_columns_of_32_bits(table: str) -> None:
    columns = installed().Dag.metadata.tables[table].c
    for name in INTEGERS[table]:
        assert isinstance(columns[name].type, sa.Integer)
        assert not isinstance(columns[name].type, sa.BigInteger)
