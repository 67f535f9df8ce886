"""`get`: lists of what the store holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dagbundle.cli import naming, options, output
from dagbundle.rollout.model import short_version

if TYPE_CHECKING:
    from dagbundle.store.dagstore import DagStore
    from dagbundle.store.records import Page

app = typer.Typer(help="List bundles, DAGs, versions, errors or tasks.", no_args_is_help=True)

InBundle = Annotated[
    str | None, typer.Option("--bundle", "-b", help="Only of this bundle, as NAMESPACE/NAME.", show_default=False)
]
DagId = Annotated[str, typer.Argument(help="The DAG's id.", metavar="DAG_ID", show_default=False)]


@app.command()
def bundles(
    limit: options.Limit = 100,
    cursor: options.Cursor = None,
    database_url: options.DatabaseUrl = None,
    out: options.Output = output.Format.TEXT,
) -> None:
    """List bundles."""
    _list(
        lambda store: store.list_bundles(limit=limit, cursor=cursor),
        ("namespace", "name", "revision", "version", "dags", "errors", "held"),
        lambda row: (
            row.bundle.namespace,
            row.bundle.name,
            row.revision,
            short_version(row.version),
            row.dags,
            row.import_errors,
            "yes" if row.holds else "",
        ),
        database_url,
        out,
    )


@app.command()
def dags(
    bundle: InBundle = None,
    limit: options.Limit = 100,
    cursor: options.Cursor = None,
    database_url: options.DatabaseUrl = None,
    out: options.Output = output.Format.TEXT,
) -> None:
    """List live DAGs."""
    _list(
        lambda store: store.list_dags(
            naming.bundle(store, bundle) if bundle is not None else None, limit=limit, cursor=cursor
        ),
        ("dag_id", "bundle", "file", "version", "kept"),
        lambda row: (
            row.dag_id,
            f"{row.bundle.namespace}/{row.bundle.name}",
            row.path,
            row.number,
            "yes" if row.kept else "",
        ),
        database_url,
        out,
    )


@app.command()
def versions(
    dag_id: DagId,
    limit: options.Limit = 100,
    cursor: options.Cursor = None,
    database_url: options.DatabaseUrl = None,
    out: options.Output = output.Format.TEXT,
) -> None:
    """List the definitions that a DAG has had, the newest first."""
    _list(
        lambda store: store.list_versions(dag_id, limit=limit, cursor=cursor),
        ("version", "sha256", "file", "from revision", "to revision", "when (UTC)"),
        lambda row: (
            row.number,
            row.sha256[:12],
            row.path,
            row.from_revision,
            "(live)" if row.to_revision is None else row.to_revision,
            f"{row.created_at:%Y-%m-%d %H:%M:%S}",
        ),
        database_url,
        out,
    )


@app.command()
def errors(
    bundle: InBundle = None,
    limit: options.Limit = 100,
    cursor: options.Cursor = None,
    database_url: options.DatabaseUrl = None,
    out: options.Output = output.Format.TEXT,
) -> None:
    """List the import errors that are visible now."""
    _list(
        lambda store: store.list_errors(
            naming.bundle(store, bundle) if bundle is not None else None, limit=limit, cursor=cursor
        ),
        ("bundle", "file", "line", "error", "message"),
        lambda row: (
            f"{row.bundle.namespace}/{row.bundle.name}",
            row.path,
            row.problem.line or "",
            row.problem.kind,
            (row.problem.message.strip().splitlines() or [""])[0],
        ),
        database_url,
        out,
    )


@app.command()
def tasks(
    dag_id: DagId,
    limit: options.Limit = 100,
    cursor: options.Cursor = None,
    database_url: options.DatabaseUrl = None,
    out: options.Output = output.Format.TEXT,
) -> None:
    """List a DAG's tasks."""
    _list(
        lambda store: store.list_tasks(dag_id, limit=limit, cursor=cursor),
        ("task_id", "group", "sha256"),
        lambda row: (row.task_id, row.group_id, row.sha256[:12]),
        database_url,
        out,
    )


def _list(
    query: Callable[[DagStore], Page[Any]],
    columns: Sequence[str],
    cells: Callable[[Any], Sequence[object]],
    database_url: str | None,
    out: output.Format,
) -> None:
    from dagbundle.cli import opening  # noqa: PLC0415 - usage errors answer before the store is loaded

    with opening.opened_store(database_url) as store:
        page = query(store)
    if out is not output.Format.TEXT:
        output.document(page, out)
        return
    rows: Iterable[Sequence[object]] = (cells(row) for row in page.items)
    output.table(columns, rows, empty="Nothing found.")
    if page.next_cursor:
        typer.echo(f"More: --cursor {page.next_cursor}")
