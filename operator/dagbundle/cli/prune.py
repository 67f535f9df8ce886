"""`prune`: deactivates what is left of bundles whose DagBundle is gone, after showing what it would do."""

from __future__ import annotations

from typing import Annotated

import typer

from dagbundle import errors
from dagbundle.cli import options, output


def prune(
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without it only what would be done is shown.")] = False,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Only bundles of this namespace.", show_default=False)
    ] = None,
    cluster: Annotated[
        str,
        typer.Option(
            "--cluster", envvar="DAGBUNDLE_CLUSTER_NAME", help="The cluster's name, where the chart has a clusterName."
        ),
    ] = "",
    database_url: options.DatabaseUrl = None,
    out: options.Output = output.Format.TEXT,
) -> None:
    """Deactivate the DAGs of bundles that no DagBundle of the cluster stands for (a finalizer removed, a restore)."""
    from dagbundle.cli import opening  # noqa: PLC0415 - usage errors answer before the store is loaded
    from dagbundle.engine import engine, orphans  # noqa: PLC0415 - likewise
    from dagbundle.runtime.kubernetes import client  # noqa: PLC0415 - likewise

    api = client.Cluster()  # without a cluster this fails before the database is read
    with opening.opened_store(database_url) as store:
        known = store.bundles_known(of_clusters=True)
        there = api.bundle_versions().keys()
        found = [
            bundle
            for bundle in orphans.orphans(known, there, cluster=cluster)
            if namespace is None or bundle.namespace == namespace
        ]
        rows = [(bundle.namespace, bundle.name, len(store.live(bundle).dags)) for bundle in found]
        if out is output.Format.TEXT:
            output.table(("namespace", "name", "dags"), rows, empty="Nothing is left over.")
        if yes:
            for bundle in found:
                try:
                    engine.Engine(store).deactivate(bundle)
                except errors.NotFoundError:
                    continue  # somebody else was faster
            typer.echo(f"Deactivated {output.counted(len(found), 'bundle')}.", err=True)
        elif found:
            typer.echo("Nothing was changed: add --yes to deactivate these.", err=True)
        if out is not output.Format.TEXT:
            items = [{"namespace": row[0], "name": row[1], "dags": row[2], "deactivated": yes} for row in rows]
            output.document(items, out)
