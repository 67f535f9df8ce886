"""Puts the commands together.

Modules that cost time to import (SQLAlchemy, the engine) are imported by the commands that need them, so that help,
completion and usage errors answer at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from dagbundle.cli import airflow, apply, controller, crd, dags, database, delete, get, history, parse, prune, serve

app = typer.Typer(
    name="dagbundle",
    help="Publish Apache Airflow DAG bundles: parsed in isolation, judged, published whole or not at all.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(apply.apply)
app.command()(apply.diff)
app.command()(parse.parse)
app.command()(history.history)
app.command()(history.rollback)
app.command()(history.resume)
app.command()(delete.delete)
app.command()(crd.crd)
app.command()(controller.controller)
app.command()(prune.prune)
app.command()(serve.server)
app.add_typer(get.app, name="get")
app.add_typer(dags.app, name="dags")
app.add_typer(database.app, name="db")
app.add_typer(airflow.app, name="airflow")


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Publish Apache Airflow DAG bundles: parsed in isolation, judged, published whole or not at all."""
    if version:
        from importlib import metadata  # noqa: PLC0415 - keeps every other start fast

        typer.echo(metadata.version("dagbundle-operator"))
        raise typer.Exit


def run() -> None:
    """Run the command that the arguments name; it ends with what `endings` makes an exit code of."""
    app()
