"""The tables' version: looked at whenever a store opens, moved only when somebody asks.

Alembic does the moving and is imported only then. Opening asks one cheap question and compares the answer with the
versions that this program knows, which a test holds to the migrations in `migrations/versions`.
"""

from __future__ import annotations

import datetime as dt
import pathlib
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from dagbundle import errors
from dagbundle.store import backup, database, tables

if TYPE_CHECKING:
    from alembic.config import Config

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")
"""Every version of the tables, oldest first."""
HEAD = REVISIONS[-1]
BASE = "base"
"""What Alembic calls no tables at all."""

_LOCK = 0x6461_6762  # an advisory lock of ours: "dagb"


def current(db: database.Database) -> str | None:
    """Return the version of the tables that the database has; None when it has none.

    Raises:
        StoreUnavailableError: The database cannot be asked.
    """
    if db.file is not None and not db.file.exists():
        return None  # and none is created by asking
    version = sa.table(db.tables.version_table, sa.column("version_num"), schema=db.tables.schema)

    def work(connection: sa.Connection) -> str | None:
        found: str | None = connection.execute(sa.select(version.c.version_num)).scalar()
        return found

    try:
        return db.read(work)
    except errors.SchemaError:
        return None


def check(db: database.Database) -> None:
    """Make sure that the tables are the ones this program was written for.

    Raises:
        SchemaError: They are missing, older or newer.
    """
    found = current(db)
    if found == HEAD:
        return
    if found is None:
        raise errors.SchemaError(f"{db.name} has no tables of dagbundle yet", hint="Run: dagbundle db upgrade")
    if found in REVISIONS:
        raise errors.SchemaError(
            f"{db.name} has tables of version {found}; this program needs {HEAD}", hint="Run: dagbundle db upgrade"
        )
    raise errors.SchemaError(
        f"{db.name} has tables of version {found}, which is newer than this program's {HEAD}",
        hint="Run the newer dagbundle, or restore the backup that its upgrade made",
    )


def upgrade(db: database.Database, revision: str = HEAD) -> pathlib.Path | None:
    """Create the tables or bring them to `revision`, in one transaction.

    Returns:
        The backup made of an existing SQLite file, None where none was needed. PostgreSQL is left to pg_dump.

    Raises:
        SchemaError: The tables are newer than this program, or `revision` is unknown or older than them.
        StoreUnavailableError: The database cannot be reached or written.
    """
    found = current(db)
    if found is not None and found not in REVISIONS:
        check(db)
    if revision not in REVISIONS or (found is not None and REVISIONS.index(found) > REVISIONS.index(revision)):
        raise errors.SchemaError(f"Tables of version {found} cannot be upgraded to {revision}")
    if found == revision:
        return None
    if found is None and revision == HEAD:
        _create(db)
        return None
    return _migrate(db, found, revision, up=True)


def downgrade(db: database.Database, revision: str) -> pathlib.Path | None:
    """Bring the tables back to `revision`, or to none at all with `base`: then all that they hold is gone.

    Returns:
        The backup made of a SQLite file; None on PostgreSQL.

    Raises:
        SchemaError: There are no tables, they are newer than this program, or `revision` is not older than them.
    """
    return _migrate(db, check_downgrade(db, revision), revision, up=False)


def check_downgrade(db: database.Database, revision: str) -> str:
    """Make sure that a downgrade could begin, and return the version of the tables. Raises as `downgrade`."""
    known = (BASE, *REVISIONS)
    found = current(db)
    if found not in REVISIONS:
        check(db)
    if found is None or revision not in known or known.index(revision) > known.index(found):
        older = ", ".join(known[: known.index(found) + 1]) if found in known else BASE
        raise errors.SchemaError(
            f"Tables of version {found} cannot be downgraded to {revision}", hint=f"choose one of {older}"
        )
    return found


class Held(NamedTuple):
    """How much the tables hold."""

    bundles: int
    dags: int
    """Live ones."""
    revisions: int
    """All that are kept."""


def held(db: database.Database) -> Held:
    """Count what a downgrade to `base` takes away, whatever version the tables have."""
    counted = (db.tables.bundle, db.tables.dag, db.tables.publication)  # these are as old as the first tables
    return db.read(
        lambda connection: Held(
            *(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() for table in counted)
        )
    )


def _create(db: database.Database) -> None:
    """Make the newest tables where there are none, without Alembic: a test holds them to what the migrations make.

    A laptop's first apply does this; loading Alembic and walking its migrations would take a quarter of a second of it.
    """
    if db.file is not None:
        database.private_file(db.file)
    name, place = db.tables.version_table, db.tables.schema
    versions = sa.Table(
        name,
        sa.MetaData(schema=place),
        sa.Column("version_num", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("version_num", name=f"{name}_pkc"),
    )

    def work(connection: sa.Connection) -> None:
        _take_turn(db, connection)
        versions.create(connection, checkfirst=True)
        if connection.execute(sa.select(versions.c.version_num)).first() is None:
            db.tables.metadata.create_all(connection, checkfirst=False)
            connection.execute(sa.insert(versions).values(version_num=HEAD))

    db.write(work)


def _take_turn(db: database.Database, connection: sa.Connection) -> None:
    """Let two programs that move the tables at once take turns; SQLite's write lock does so by itself."""
    if db.is_postgresql:
        connection.exec_driver_sql("SET LOCAL statement_timeout TO 0")
        connection.exec_driver_sql("SET LOCAL lock_timeout TO 0")
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {tables.SCHEMA}")


def _migrate(db: database.Database, found: str | None, revision: str, *, up: bool) -> pathlib.Path | None:
    from alembic import command  # noqa: PLC0415 - costs 0.1 s that only a migration may take

    saved = None
    if db.file is not None:
        database.private_file(db.file)
        if found is not None:
            now = dt.datetime.now(dt.UTC)
            saved = db.file.with_name(f"{db.file.name}.{found}.{now:%Y%m%dT%H%M%S%f}Z.backup")
            backup.backup_sqlite(db, saved)
    config = alembic_config()

    def work(connection: sa.Connection) -> None:
        _take_turn(db, connection)
        config.attributes["connection"] = connection
        move = command.upgrade if up else command.downgrade
        move(config, revision)

    db.write(work)
    return saved


def alembic_config() -> Config:
    """Return Alembic's configuration for our migrations; the connection travels in its attributes."""
    from alembic.config import Config  # noqa: PLC0415 - likewise

    config = Config()
    config.set_main_option("script_location", str(pathlib.Path(__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    return config
