"""The entry point: puts the commands together and turns every error on purpose into a message and an exit code.

Modules that cost time to import (SQLAlchemy, the engine) are imported by the commands that need them, so that help,
completion and usage errors answer at once.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

from dagbundle import errors
from dagbundle.cli import airflow, apply, controller, crd, dags, database, get, history, parse, prune, serve
from dagbundle.cli.exits import Exit

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


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def exit_code_of(error: errors.DagBundleError) -> Exit:
    """Return the exit code that an error ends a command with."""
    match error:
        case errors.UsageError() | errors.ResourceError() | errors.NotFoundError():
            return Exit.USAGE
        case errors.StoreUnavailableError() | errors.ConflictError():
            return Exit.RETRY
        case _:
            return Exit.FAILED


def command() -> NoReturn:
    """Run `main` and end the process at once: taking all modules apart takes a tenth of a second."""
    try:
        main()
        code: int | str | None = 0
    except SystemExit as end:
        code = end.code
    if isinstance(code, str):
        sys.exit(code)  # a message, which Python prints
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (BrokenPipeError, ValueError):  # nobody reads it; or `main` saw that and closed it
        code = code or Exit.FAILED
    os._exit(code or 0)


def main() -> None:
    """Run the command line; see `exits.Exit` for how it ends."""
    # as Ctrl-C does: whatever was started is ended, and nothing that was begun is left half done
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except errors.DagBundleError as error:
        typer.secho(f"Error: {error.message}", err=True, fg=typer.colors.RED)
        if error.hint:
            typer.echo(f"Hint: {error.hint}", err=True)
        sys.exit(exit_code_of(error))
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output is gone, as in `dagbundle … | head`
        sys.exit(Exit.FAILED)


if __name__ == "__main__":
    command()
