from __future__ import annotations

import contextlib
import functools
import pathlib
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from dagbundle import errors
from dagbundle.rollout import judge, policy
from dagbundle.rollout.content import split
from dagbundle.rollout.model import FileOutcome, ParsedDag, StagedFile
from dagbundle.store import schema
from dagbundle.store.dagstore import DagStore
from dagbundle.store.database import Database
from integration.store.builder import OPS, SALES, SYNTAX_ERROR, apply, counted
from support import serialized
from support.postgres import PostgresServer


def set_version(store_url: str, version: str) -> None:
    db = Database(store_url)
    table = sa.table(db.tables.version_table, sa.column("version_num"), schema=db.tables.schema)
    db.write(lambda c: c.execute(sa.update(table).values(version_num=version)))
    db.close()


@pytest.fixture(params=["created at once", "migrated step by step"])
def fresh_store(request: pytest.FixtureRequest, empty_database_url: str) -> Iterator[DagStore]:
    """A new store, made each of the two ways that there are."""
    if request.param == "migrated step by step":
        with contextlib.closing(Database(empty_database_url)) as db:
            schema._migrate(db, None, schema.HEAD, up=True)
    with DagStore.open(empty_database_url, upgrade=True) as opened:
        yield opened


def test_a_new_store_has_the_tables_that_the_code_knows(fresh_store: DagStore) -> None:
    store = fresh_store
    tables = store.db.tables

    def ours(name: str | None, kind: str, parents: Any) -> bool:
        if kind == "schema":
            return name == tables.schema
        if kind != "table":
            return True
        return (name or "").startswith(tables.prefix) and parents.get("schema_name") == tables.schema

    def compare(connection: sa.Connection) -> list[Any]:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": tables.schema is not None,
                "include_name": ours,
                "compare_type": True,
                "compare_server_default": tables.schema is not None,  # SQLite shows no identities
                "version_table": tables.version_table,
                "version_table_schema": tables.schema,
                "target_metadata": tables.metadata,
            },
        )
        return list(compare_metadata(context, tables.metadata))

    assert store.db.read(compare) == []


def test_constraints_and_indexes_have_the_names_that_the_code_gives_them(fresh_store: DagStore) -> None:
    store = fresh_store
    inspector = sa.inspect(store.db.engine)
    tables = store.db.tables
    for table in tables.metadata.sorted_tables:
        found = {index["name"] for index in inspector.get_indexes(table.name, tables.schema)}
        assert {index.name for index in table.indexes} <= found
        keys = {item["name"] for item in inspector.get_foreign_keys(table.name, tables.schema)}
        assert {str(constraint.name) for constraint in table.foreign_key_constraints} == keys


def test_every_migration_is_known_by_number_without_loading_them() -> None:
    scripts = ScriptDirectory.from_config(schema.alembic_config())
    assert tuple(reversed([script.revision for script in scripts.walk_revisions()])) == schema.REVISIONS
    assert scripts.get_current_head() == schema.HEAD


def test_a_store_without_tables_says_how_to_get_them_and_creates_nothing(empty_database_url: str) -> None:
    with pytest.raises(errors.SchemaError, match="no tables") as caught:
        DagStore.open(empty_database_url)
    assert caught.value.hint == "Run: dagbundle db upgrade"
    if empty_database_url.startswith("sqlite"):
        assert not pathlib.Path(empty_database_url.removeprefix("sqlite:///")).exists()


def test_a_store_with_newer_tables_is_left_alone(database_url: str) -> None:
    set_version(database_url, "9999")
    with contextlib.closing(Database(database_url)) as db:
        for call in (
            lambda: DagStore.open(database_url),
            lambda: DagStore.open(database_url, upgrade=True),
            lambda: schema.downgrade(db, schema.BASE),
        ):
            with pytest.raises(errors.SchemaError, match="newer"):
                call()


def test_a_store_with_older_tables_says_so(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "0999"))
    monkeypatch.setattr(schema, "HEAD", "0999")
    with pytest.raises(errors.SchemaError, match="needs 0999") as caught:
        DagStore.open(database_url)
    assert caught.value.hint == "Run: dagbundle db upgrade"


def test_the_way_up_down_and_up_again_works_with_data_in_the_tables(empty_database_url: str) -> None:
    for _ in range(2):
        with DagStore.open(empty_database_url, upgrade=True) as store:
            assert apply(store, SALES, {"a.py": {"a": "1"}, "b.py": SYNTAX_ERROR}) == 1
            for revision in reversed((schema.BASE, *schema.REVISIONS[:-1])):
                schema.downgrade(store.db, revision)
                assert schema.current(store.db) == (None if revision == schema.BASE else revision)
            inspector = sa.inspect(store.db.engine)
            left = inspector.get_table_names(store.db.tables.schema)
            assert [name for name in left if name != store.db.tables.version_table] == []
        with pytest.raises(errors.SchemaError, match="no tables"):
            DagStore.open(empty_database_url)


def test_an_upgrade_says_whose_the_assets_are_that_live_dags_define(database_url: str) -> None:
    def bundle(dag_id: str, owner: str) -> list[StagedFile]:
        asset = {
            "name": "orders",
            "uri": "s3://orders",
            "group": "raw",
            "extra": {"owner": owner, "rows": [1, {"ä": 2}]},
        }
        alone = {**asset, "name": dag_id, "extra": {}}  # a group makes it nobody's
        condition = {"__type": "asset_any", "objects": [{"__type": "asset", **asset}, {"__type": "asset", **alone}]}
        mapped = {"outlets": [{"__type": "asset", "__var": {**asset, "name": f"of_{dag_id}"}}]}
        made = split(
            serialized.dag(
                dag_id,
                [serialized.task("one", _is_mapped=True, partial_kwargs=mapped), serialized.task("two")],
                timetable={"__type": "airflow.timetables.simple.AssetTriggeredTimetable", "__var": condition},
            )
        )
        outcome = FileOutcome(f"{dag_id}.py", dags=(ParsedDag(dag_id, made.sha256),))
        return [StagedFile(outcome, contents=(made,))]

    def rows(store: DagStore) -> list[list[Any]]:
        tables = store.db.tables
        return [
            sorted(map(repr, store.db.read(lambda c, table=table: c.execute(sa.select(table)).all())))  # type: ignore[misc] # bound at once
            for table in (tables.asset, tables.asset_owner)
        ]

    with DagStore.open(database_url) as store:
        for key, dag_id in ((SALES, "z"), (OPS, "a")):
            store.register_bundle(key, str(key))
            rules = functools.partial(judge.judge, policy=policy.Policy())
            store.submit_dags(
                key, bundle(dag_id, key.name), version="v1", template_hash="v1", judge=rules, python="3.11"
            )
        before = rows(store)
        assert [len(found) for found in before] == [6, 3]
        schema.downgrade(store.db, "0005")
        schema.upgrade(store.db)
        assert rows(store) == before


def test_upgrading_twice_changes_nothing(database_url: str) -> None:
    with DagStore.open(database_url) as store:
        apply(store, SALES, {"a.py": {"a": "1"}})
        assert schema.upgrade(store.db) is None
        assert counted(store, "dag") == 1


@pytest.mark.postgres
def test_two_upgrades_at_once_take_turns(empty_postgres_url: str) -> None:
    def upgrade(_: int) -> str | None:
        with DagStore.open(empty_postgres_url, upgrade=True) as store:
            return schema.current(store.db)

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(upgrade, range(3))) == [schema.HEAD] * 3


@pytest.mark.parametrize("revision", ["0999", "nonsense"])
def test_a_downgrade_goes_only_down(database_url: str, revision: str) -> None:
    with DagStore.open(database_url) as store, pytest.raises(errors.SchemaError, match="cannot be downgraded"):
        schema.downgrade(store.db, revision)


def test_a_migration_that_fails_leaves_the_tables_as_they_were(store: DagStore) -> None:
    apply(store, SALES, {"a.py": {"a": "1"}})
    seen: list[str] = []

    def fail(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "DROP TABLE" in statement:
            seen.append(statement)
            if len(seen) == 5:
                raise RuntimeError("the power went")

    sa.event.listen(store.db.engine, "before_cursor_execute", fail)
    with pytest.raises(RuntimeError, match="the power went"):
        schema.downgrade(store.db, schema.BASE)
    assert schema.current(store.db) == schema.HEAD
    assert sorted(store.live(SALES).dags) == ["a"]


def test_an_upgrade_goes_only_up_and_to_versions_that_there_are(database_url: str) -> None:
    with DagStore.open(database_url) as store, pytest.raises(errors.SchemaError, match="cannot be upgraded to 0999"):
        schema.upgrade(store.db, "0999")


@pytest.mark.parametrize("url", ["", None, "mysql://root@localhost/x", "not a url"])
def test_a_database_that_cannot_be_used_is_a_usage_error(url: str | None) -> None:
    with pytest.raises(errors.UsageError) as caught:
        DagStore.open(url)
    assert "DAGBUNDLE_DATABASE_URL" in caught.value.hint


# --- Files and backups ----------------------------------------------------------------------------------------------


def test_a_new_file_can_be_read_by_its_user_only(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "new" / "folder" / "store.db"
    with DagStore.open(f"sqlite:///{path}", upgrade=True) as store:
        apply(store, SALES, {"a.py": {"a": "1"}})
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_a_place_that_cannot_be_written_is_reported(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.StoreUnavailableError, match="cannot be created"):
        DagStore.open(f"sqlite:///{tmp_path}/file/store.db", upgrade=True)


def test_a_file_that_is_no_database_is_reported(tmp_path: pathlib.Path) -> None:
    (tmp_path / "store.db").write_text("this is not a database, but long enough to be looked at " * 20)
    with pytest.raises(errors.StoreUnavailableError, match="not a database"):
        DagStore.open(f"sqlite:///{tmp_path}/store.db")


def test_a_backup_is_a_whole_store_as_of_one_moment(sqlite_store: DagStore, tmp_path: pathlib.Path) -> None:
    apply(sqlite_store, SALES, {"a.py": {"a": "1"}})
    then = sqlite_store.live(SALES)
    target = tmp_path / "copy.db"
    sqlite_store.backup(target)
    apply(sqlite_store, SALES, {"a.py": {"a": "2"}})
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert list(tmp_path.glob("copy.db*")) == [target]
    with pytest.raises(errors.UsageError, match="exists already"):
        sqlite_store.backup(target)
    with DagStore.open(f"sqlite:///{target}") as restored:
        assert restored.live(SALES) == then
        assert apply(restored, SALES, {"a.py": {"a": "3"}}) == 2


def test_a_backup_that_cannot_be_written_leaves_nothing(sqlite_store: DagStore, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.StoreUnavailableError):
        sqlite_store.backup(tmp_path / "file" / "copy.db")


def test_a_file_is_backed_up_before_it_is_migrated(tmp_path: pathlib.Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with DagStore.open(url, upgrade=True) as store:
        assert list(tmp_path.glob("*.backup")) == []
        apply(store, SALES, {"a.py": {"a": "1"}})
        then = store.live(SALES)
        saved = schema.downgrade(store.db, schema.BASE)
        assert saved is not None
        assert list(tmp_path.glob("*.backup")) == [saved]
    shutil.copy(saved, tmp_path / "store.db")
    for left in tmp_path.glob("store.db-*"):
        left.unlink()
    with DagStore.open(url) as store:
        assert store.live(SALES) == then
    with sqlite3.connect(saved) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


@pytest.mark.postgres
def test_postgresql_is_dumped_and_restored_with_its_own_programs(
    postgres_store: DagStore, postgres_server: PostgresServer, empty_postgres_url: str, tmp_path: pathlib.Path
) -> None:
    dump, restore = postgres_server.program("pg_dump"), postgres_server.program("pg_restore")
    if dump is None or restore is None:
        pytest.skip("this server came without pg_dump and pg_restore")
    apply(postgres_store, SALES, {"a.py": {"a": "1"}, "b.py": SYNTAX_ERROR})
    target = tmp_path / "dagbundle.dump"
    source = postgres_store.db.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    subprocess.run([dump, "--format=custom", "--schema=dagbundle", f"--file={target}", source], check=True)
    subprocess.run([restore, "--exit-on-error", f"--dbname={empty_postgres_url}", target], check=True)
    with DagStore.open(empty_postgres_url) as restored:
        assert restored.live(SALES) == postgres_store.live(SALES)
        assert restored.get_serialized_dag("a") == postgres_store.get_serialized_dag("a")
        assert apply(restored, SALES, {"a.py": {"a": "2"}}) == 2


@pytest.mark.postgres
def test_a_backup_of_postgresql_is_left_to_pg_dump(postgres_store: DagStore, tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.UsageError) as caught:
        postgres_store.backup(tmp_path / "x")
    assert "pg_dump" in caught.value.hint
