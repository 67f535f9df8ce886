"""`dags`: AIP-85's port of `airflow dags …` to the store. What needs Airflow runs in the parser's interpreter."""

from __future__ import annotations

import json
import pathlib
from typing import Annotated, Any

import typer

from dagbundle import errors
from dagbundle.cli import apply, get, inputs, options, output

app = typer.Typer(help="Look at published DAGs, as `airflow dags` does.", no_args_is_help=True)
app.command("list")(get.dags)


@app.command()
def show(dag_id: get.DagId, database_url: options.DatabaseUrl = None, out: options.Output = output.Format.TEXT) -> None:
    """Print a DAG's graph: as Graphviz DOT, or as lists of tasks and edges with -o json."""
    from dagbundle.cli import opening  # noqa: PLC0415 - usage errors answer before the store is loaded

    with opening.opened_store(database_url) as store:
        content = store.content(store.get_dag(dag_id).sha256)
    if out is not output.Format.TEXT:
        nodes = [{"task_id": task.task_id, "group_id": task.group_id} for task in content.tasks]
        output.document({"dag_id": dag_id, "tasks": nodes, "edges": content.edges}, out)
        return
    typer.echo(f"digraph {_quoted(dag_id)} {{\n  rankdir=LR;\n  node [shape=box, style=rounded];")
    for task in content.tasks:
        typer.echo(f"  {_quoted(task.task_id)};")
    for edge in content.edges:
        typer.echo(f"  {_quoted(edge.upstream)} -> {_quoted(edge.downstream)};")
    typer.echo("}")


@app.command()
def details(
    dag_id: get.DagId, database_url: options.DatabaseUrl = None, out: options.Output = output.Format.TEXT
) -> None:
    """Show what is known of a published DAG: where it comes from, its version, its own settings."""
    from dagbundle.cli import opening  # noqa: PLC0415 - usage errors answer before the store is loaded

    with opening.opened_store(database_url) as store:
        found = store.get_dag(dag_id)
        header = store.content(found.sha256).header["dag"]
    facts: dict[str, Any] = {**output.plain(found), "settings": header}
    facts["bundle"] = f"{found.bundle.namespace}/{found.bundle.name}"
    if out is not output.Format.TEXT:
        output.document(facts, out)
        return
    settings = {f"settings.{name}": json.dumps(value, sort_keys=True) for name, value in sorted(header.items())}
    rows = [(name, value) for name, value in facts.items() if name != "settings"]
    output.table(("property", "value"), [*rows, *settings.items()], empty="")


@app.command("next-execution")
def next_execution(
    dag_id: get.DagId,
    count: Annotated[int, typer.Option("--num-executions", "-n", min=1, max=100, help="How many runs to show.")] = 1,
    python: options.Python = None,
    database_url: options.DatabaseUrl = None,
    out: options.Output = output.Format.TEXT,
) -> None:
    """Show when a DAG would run next, computed by Airflow in the parser's interpreter from the stored DAG.

    Its schedule alone is looked at, and vetted as for a publication into Airflow: another team may have written it.
    """
    from dagbundle.cli import opening  # noqa: PLC0415 - usage errors answer before the store is loaded
    from dagbundle.runtime.local import LocalRuntime  # noqa: PLC0415 - likewise
    from dagbundle.targets.airflow import vetting  # noqa: PLC0415 - likewise

    with opening.opened_store(database_url) as store:
        data = vetting.schedule.alone(store.get_serialized_dag(dag_id))
    try:
        vetting.check(data, vetting.read(notifiers=frozenset))
    except errors.TargetError as error:
        raise errors.RunError(
            f"The schedule of DAG {dag_id} is not given to Airflow: {error.message}", hint=error.hint
        ) from error
    runtime = LocalRuntime(pathlib.Path(), python=inputs.interpreter(python))
    try:
        answer = runtime.call("next-execution", json.dumps({"data": data, "count": count}))
    except errors.RunError as error:
        raise inputs.with_python_hint(error) from None
    try:
        runs = json.loads(answer)["runs"]
        rows = [[run.get(name) or "" for name in _RUN_COLUMNS] for run in runs]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise errors.RunError(f"next-execution of {dag_id} answered with something else than runs") from error
    if out is not output.Format.TEXT:
        output.document(runs, out)
    else:
        output.table([name.replace("_", " ") for name in _RUN_COLUMNS], rows, empty="It has no next run.")


app.command("reserialize", help="Parse every file of a bundle again, changed or not, and publish what differs.")(
    apply.reserialize
)

_RUN_COLUMNS = ("logical_date", "data_interval_start", "data_interval_end", "run_after")


def _quoted(text: str) -> str:
    escaped = output.printable(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
