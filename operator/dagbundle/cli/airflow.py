"""`airflow`: looks after the target airflow: what is wrong with a deployment, and telling it again what is live."""

from __future__ import annotations

from typing import Annotated

import typer

from dagbundle import errors
from dagbundle.cli import naming, options, output
from dagbundle.cli.exits import Exit

app = typer.Typer(help="Look after the Airflow that is published into (docs/airflow.md).", no_args_is_help=True)
_COLOURS = {"error": typer.colors.RED, "warning": typer.colors.YELLOW, "info": None}


@app.command()
def check(out: options.Output = output.Format.TEXT, database_url: options.DatabaseUrl = None) -> None:
    """Say what would go wrong with publishing into this Airflow; ends with 5 where something would."""
    from dagbundle.cli import opening  # noqa: PLC0415 - usage errors answer before the store is loaded

    with opening.opened_store(database_url, target="airflow") as store:
        found = store.examine()
    ended = Exit.FAILED if any(item.level == "error" for item in found) else Exit.OK
    if out is output.Format.TEXT:
        for item in found:
            typer.secho(f"{item.level}: {item.text}", fg=_COLOURS[item.level])
            if item.hint:
                typer.echo(f"  next: {item.hint}")
    else:
        output.document({"findings": [{"level": i.level, "text": i.text, "hint": i.hint} for i in found]}, out, ended)
    raise typer.Exit(ended)


@app.command()
def sync(
    bundle: Annotated[
        str | None, typer.Argument(help="NAMESPACE/NAME; default: every bundle.", show_default=False)
    ] = None,
    database_url: options.DatabaseUrl = None,
    out: options.Output = output.Format.TEXT,
) -> None:
    """Tell Airflow again all that is live: after the target was turned on, or somebody changed Airflow's rows."""
    from dagbundle.cli import opening  # noqa: PLC0415 - likewise

    with opening.opened_store(database_url, target="airflow") as store:
        keys = [naming.bundle(store, bundle)] if bundle is not None else list(store.bundles_known())
        told: list[dict[str, str | None]] = []
        ended = Exit.OK
        for key in keys:
            refusal = None
            try:
                store.follow(key)
            except (errors.TargetError, errors.OwnershipError) as error:
                refusal, ended = error.message, Exit.FAILED
                typer.secho(f"{key.namespace}/{key.name}: {output.printable(refusal)}", fg=typer.colors.RED, err=True)
            told.append({"namespace": key.namespace, "name": key.name, "error": refusal})
            if out is output.Format.TEXT and refusal is None:
                typer.echo(f"{key.namespace}/{key.name}: told")
    if out is not output.Format.TEXT:
        output.document(told, out, ended)
    raise typer.Exit(ended)
