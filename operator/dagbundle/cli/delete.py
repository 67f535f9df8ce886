"""`delete`: deactivates a bundle that was applied without a cluster, after asking."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dagbundle import errors
from dagbundle.cli import inputs, naming, options, output

if TYPE_CHECKING:
    from collections.abc import Collection

    from dagbundle.engine.applied import Deactivated
    from dagbundle.rollout.model import BundleKey, Live
    from dagbundle.store.dagstore import DagStore


def delete(
    bundle: options.BundleName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    database_url: options.DatabaseUrl = None,
    out: options.Output = output.Format.TEXT,
) -> None:
    """Deactivate all DAGs of a bundle that was applied without a cluster. Its history stays."""
    from dagbundle.cli import opening  # noqa: PLC0415 - usage errors answer before the store is loaded
    from dagbundle.engine import applied, engine  # noqa: PLC0415 - likewise
    from dagbundle.rollout import wording  # noqa: PLC0415 - likewise

    with opening.opened_store(database_url) as store:
        key = _local(store, bundle)
        live = store.live(key)
        name = f"{key.namespace}/{key.name}"
        if not dry_run and not yes:
            dags = f" ({wording.names(live.dags)})" if live.dags else ""
            question = f"This deactivates {output.counted(len(live.dags), 'DAG')} of bundle {name}{dags}. Continue?"
            typer.confirm(output.printable(question), abort=True, err=True)
        done = applied.Deactivated(tuple(sorted(live.dags))) if dry_run else engine.Engine(store).deactivate(key)
        revision = live.revision if dry_run else store.live(key).revision
    if out is not output.Format.TEXT:
        output.document(_document(key, done, live, revision, dry_run=dry_run), out)
        return
    for dag_id in done.dag_ids:
        typer.secho(f"- {output.printable(dag_id)}", fg=typer.colors.RED)
    counted = output.counted(len(done.dag_ids), "DAG")
    if dry_run:
        typer.echo(f"Dry run, nothing was written. {counted} of bundle {name} would be deactivated.")
        return
    typer.echo(f"Deleted bundle {name}: {counted} deactivated.")
    if done.dag_ids:
        typer.echo(f"`dagbundle rollback {name} --to-revision {live.revision}` brings back what was live.")
    for other in done.rejudged:
        typer.echo(f"Also published {other.namespace}/{other.name}, which waited for a DAG that was let go of.")


def _local(store: DagStore, text: str) -> BundleKey:
    """Return the bundle of a name. Raises as `naming.bundle`, and `UsageError` where it is a cluster's."""
    key = inputs.bundle_key(text)
    of_clusters: Collection[BundleKey] = store.bundles_known(of_clusters=True)
    found = next((other for other in of_clusters if (other.namespace, other.name) == (key.namespace, key.name)), None)
    if found is None or (found.cluster and key in store.bundles_known()):
        return naming.bundle(store, text)
    where = f" {found.cluster!r}" if found.cluster else ""
    raise errors.UsageError(
        f"bundle {key.namespace}/{key.name} belongs to a DagBundle of the cluster{where}, and is deleted with it",
        hint=f"run: kubectl delete dagbundle {key.name} --namespace {key.namespace}; where its DagBundle is gone "
        "already, `dagbundle prune` deactivates its DAGs",
    )


def _document(key: BundleKey, done: Deactivated, live: Live, revision: int, *, dry_run: bool) -> dict[str, object]:
    return {
        "bundle": {"namespace": key.namespace, "name": key.name},
        "dags": list(done.dag_ids),
        "baseRevision": live.revision,
        "revision": revision,
        "dryRun": dry_run,
        "rejudged": [f"{other.namespace}/{other.name}" for other in done.rejudged],
    }
