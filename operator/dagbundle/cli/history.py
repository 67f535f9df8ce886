"""`history`, `rollback` and `resume`: what was live when, and the way back."""

from __future__ import annotations

from typing import Annotated

import typer

from dagbundle.cli import naming, options, output
from dagbundle.rollout.model import short_version


def history(
    bundle: options.BundleName,
    limit: options.Limit = 20,
    cursor: options.Cursor = None,
    database_url: options.DatabaseUrl = None,
    out: options.Output = output.Format.TEXT,
) -> None:
    """List a bundle's revisions, the newest first."""
    from dagbundle.cli import opening  # noqa: PLC0415 - usage errors answer before the store is loaded

    with opening.opened_store(database_url) as store:
        page = store.history(naming.bundle(store, bundle), limit=limit, cursor=cursor)
    if out is not output.Format.TEXT:
        output.document(page, out)
        return
    output.table(
        ("revision", "kind", "version", "when (UTC)", "added", "changed", "moved", "removed", "kept", "errors"),
        (
            (
                row.revision,
                row.kind.value + (f" of {row.restored}" if row.restored else ""),
                short_version(row.version),
                f"{row.created_at:%Y-%m-%d %H:%M:%S}",
                *(row.counts.get(name, 0) for name in ("added", "changed", "moved", "removed", "kept", "importErrors")),
            )
            for row in page.items
        ),
        empty="Never published.",
    )
    if page.next_cursor:
        typer.echo(f"More: --cursor {page.next_cursor}")


def rollback(
    bundle: options.BundleName,
    to_revision: Annotated[
        int | None,
        typer.Option(
            "--to-revision",
            help="Revision to go back to. Default: the newest of another version or spec that is not held.",
        ),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; the hold shows it.")] = "rolled back by hand",
    database_url: options.DatabaseUrl = None,
    out: options.Output = output.Format.TEXT,
) -> None:
    """Publish an earlier revision's result again, without parsing, and hold the refused version."""
    from dagbundle.cli import opening, report  # noqa: PLC0415 - usage errors answer before the store is loaded
    from dagbundle.engine import engine  # noqa: PLC0415 - likewise

    with opening.opened_store(database_url) as store:
        applied = engine.Engine(store).rollback(naming.bundle(store, bundle), to_revision=to_revision, reason=reason)
        report.applied(applied, store, out)
    raise typer.Exit(report.exit_of(applied))


def resume(
    bundle: options.BundleName,
    database_url: options.DatabaseUrl = None,
    out: options.Output = output.Format.TEXT,
) -> None:
    """Lift the holds that a rollback left, so that the refused version may be published again."""
    from dagbundle.cli import opening  # noqa: PLC0415 - usage errors answer before the store is loaded
    from dagbundle.engine import engine  # noqa: PLC0415 - likewise
    from dagbundle.rollout import wording  # noqa: PLC0415 - likewise

    with opening.opened_store(database_url) as store:
        holds = engine.Engine(store).resume(naming.bundle(store, bundle))
    if out is not output.Format.TEXT:
        output.document(holds, out)
        return
    for hold in holds:
        typer.echo(f"{wording.refused(hold)} is no longer held ({output.printable(hold.reason)})")
    if not holds:
        typer.echo("Nothing was held.")
