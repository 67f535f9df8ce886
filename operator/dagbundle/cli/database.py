"""`db`: the database's tables, forwards, backwards, and a copy before either."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from dagbundle.cli import inputs, options

app = typer.Typer(help="Create, upgrade, downgrade or back up the database's tables.", no_args_is_help=True)


@app.command()
def upgrade(database_url: options.DatabaseUrl = None) -> None:
    """Bring the tables to this program's version; creates them where there are none."""
    from dagbundle.store import schema  # noqa: PLC0415 - usage errors answer before the store is loaded

    schema.upgrade(inputs.database_url(database_url))
    typer.echo("The database is up to date.")


@app.command()
def downgrade(
    revision: Annotated[str, typer.Argument(help="Schema revision to go back to; `base` drops all tables.")],
    database_url: options.DatabaseUrl = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Take the tables back to an older version (SQLite is backed up first)."""
    from dagbundle.store import schema  # noqa: PLC0415 - usage errors answer before the store is loaded

    if not yes:
        typer.confirm(f"Downgrading to {revision} may drop data. Continue?", abort=True)
    schema.downgrade(inputs.database_url(database_url), revision)
    typer.echo(f"The database is at {revision}.")


@app.command()
def backup(
    target: Annotated[pathlib.Path, typer.Argument(help="File to write; must not exist.")],
    database_url: options.DatabaseUrl = None,
) -> None:
    """Copy a SQLite database while it may be in use. PostgreSQL has pg_dump (docs/store.md)."""
    from dagbundle.cli import report  # noqa: PLC0415 - usage errors answer before the store is loaded

    with report.opened_store(database_url) as store:
        store.backup(target)
    typer.echo(f"Backed up to {target}.")
