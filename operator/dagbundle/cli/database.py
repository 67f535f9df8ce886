"""`db`: the database's tables, forwards, backwards, and a copy before either."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from dagbundle.cli import inputs, options, output

if TYPE_CHECKING:
    from dagbundle.store.database import Database

app = typer.Typer(help="Create, upgrade, downgrade or back up the database's tables.", no_args_is_help=True)


@app.command()
def upgrade(database_url: options.DatabaseUrl = None, out: options.Output = output.Format.TEXT) -> None:
    """Bring the tables to this program's version; creates them where there are none (SQLite is backed up first)."""
    from dagbundle.store import schema  # noqa: PLC0415 - usage errors answer before the store is loaded

    with _opened(database_url) as database:
        saved = schema.upgrade(database)
        _tell_version(database.name, schema.current(database), saved, out)


@app.command()
def downgrade(
    revision: Annotated[str, typer.Argument(help="Version to go back to; `base` drops all tables.")],
    database_url: options.DatabaseUrl = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask. `base` asks for the database's name.")] = False,
    out: options.Output = output.Format.TEXT,
) -> None:
    """Take the tables back to an older version (SQLite is backed up first)."""
    from dagbundle.store import schema  # noqa: PLC0415 - usage errors answer before the store is loaded

    with _opened(database_url) as database:
        schema.check_downgrade(database, revision)  # before somebody is asked
        if not yes:
            _ask(database, revision, drops_all=revision == schema.BASE)
        saved = schema.downgrade(database, revision)
        if database.file is not None and revision != schema.BASE:
            typer.echo(
                "Use the older dagbundle now: any other command of this one upgrades a SQLite file again.", err=True
            )
        _tell_version(database.name, schema.current(database) or schema.BASE, saved, out)


def _ask(database: Database, revision: str, *, drops_all: bool) -> None:
    """Ask whether to go on. What drops everything is not confirmed by one key, but by the database's name."""
    if not drops_all:
        question = f"Going back to {revision} drops what older tables cannot hold (docs/store.md). Continue?"
        typer.confirm(question, abort=True, err=True)
        return
    from dagbundle.store import schema  # noqa: PLC0415 - usage errors answer before the store is loaded

    held = schema.held(database)
    typer.echo(
        f"This drops all tables of dagbundle in {database.name}, with all that they hold: "
        f"{output.counted(held.bundles, 'bundle')}, {output.counted(held.dags, 'live DAG')} and "
        f"{output.counted(held.revisions, 'revision')}. Sources, import errors, holds and the way back "
        "(rollback, diff) go with them.",
        err=True,
    )
    typer.echo(
        "The SQLite file is copied first."
        if database.file is not None
        else "PostgreSQL is not backed up here: pg_dump --schema=dagbundle does that (docs/store.md).",
        err=True,
    )
    if typer.prompt(f"Type {database.label} to drop them", err=True) != database.label:
        typer.echo(f"That is not {database.label}: nothing was changed.", err=True)
        raise typer.Abort


@app.command()
def backup(
    target: Annotated[
        pathlib.Path, typer.Argument(help="File to write; must not exist.", parser=options.path, metavar="TARGET")
    ],
    database_url: options.DatabaseUrl = None,
    out: options.Output = output.Format.TEXT,
) -> None:
    """Copy a SQLite database while it may be in use. PostgreSQL has pg_dump (docs/store.md)."""
    from dagbundle.store import backup as backups  # noqa: PLC0415 - usage errors answer before the store is loaded

    with _opened(database_url) as database:
        backups.backup_sqlite(database, target)
    if out is output.Format.TEXT:
        typer.echo(f"Backed up to {target}.")
    else:
        output.document({"backup": str(target)}, out)


@app.command()
def gc(
    keep: Annotated[
        int, typer.Option("--keep", min=1, help="How many revisions of each bundle stay, for a rollback.")
    ] = 20,
    database_url: options.DatabaseUrl = None,
    out: options.Output = output.Format.TEXT,
) -> None:
    """Delete old revisions, finished rollouts and content that nothing points at any more."""
    from dagbundle.cli import opening  # noqa: PLC0415 - usage errors answer before the store is loaded

    with opening.opened_store(database_url) as store:
        found = store.collect_garbage(keep_revisions=keep)
    if out is not output.Format.TEXT:
        output.document(found, out)
        return
    counts = ((found.versions, "version"), (found.rollouts, "rollout"), (found.contents, "content"))
    typer.echo("Deleted " + ", ".join(output.counted(number, noun) for number, noun in counts) + ".")


@contextlib.contextmanager
def _opened(url: str | None) -> Iterator[Database]:
    """Open the database without looking at its tables, which these commands are there to mend."""
    from dagbundle.store.database import Database  # noqa: PLC0415 - usage errors answer before the store is loaded

    database = Database(inputs.database_url(url))
    try:
        yield database
    finally:
        database.close()


def _tell_version(name: str, version: str | None, saved: pathlib.Path | None, out: output.Format) -> None:
    if out is not output.Format.TEXT:
        output.document({"database": name, "version": version, "backup": str(saved) if saved else None}, out)
        return
    if saved is not None:
        typer.echo(f"Backed up to {saved} first.")
    typer.echo(f"{name} is at version {version}.")
