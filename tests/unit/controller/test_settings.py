"""What the controller reads from its environment."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest

from dagbundle import errors
from dagbundle.controller import operator, settings

DATABASE, DIRECT = "postgresql://pooler.example/airflow", "postgresql://postgres.example/airflow"


@pytest.fixture
def environment(tmp_path: pathlib.Path) -> dict[str, str]:
    """What every controller needs."""
    (tmp_path / "grants.yaml").write_text("tenants: []\n")
    return {
        "DAGBUNDLE_DATABASE_URL": DATABASE,
        "DAGBUNDLE_SERVER_URL": "https://server.example",
        "DAGBUNDLE_PARSER_IMAGE": "parser:1",
        "DAGBUNDLE_GRANTS_FILE": str(tmp_path / "grants.yaml"),
    }


def test_grants_that_give_a_key_twice_are_refused_with_its_line(environment: dict[str, str]) -> None:
    pathlib.Path(environment["DAGBUNDLE_GRANTS_FILE"]).write_text("tenants: []\ntenants:\n- namespace: team-sales\n")
    with pytest.raises(errors.UsageError, match="the key 'tenants' in line 2 is in its mapping already"):
        settings.read(environment)


def test_the_controller_listens_where_its_database_is_or_where_it_is_told_to(environment: dict[str, str]) -> None:
    read = settings.read(environment)
    assert operator.listen_url(read) == DATABASE
    told = settings.read({**environment, "DAGBUNDLE_LISTEN_URL": DIRECT})
    assert operator.listen_url(told) == DIRECT
    assert dataclasses.replace(told, listen_url="") == read
