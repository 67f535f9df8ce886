"""`controller`: the operator on a cluster. Its settings come from its environment, which the chart fills."""

from __future__ import annotations

from typing import Annotated

import typer

from dagbundle import logs


def controller(
    log_format: Annotated[
        str, typer.Option("--log-format", envvar="DAGBUNDLE_LOG_FORMAT", help="`json` or `text`.")
    ] = "text",
    log_level: Annotated[
        str, typer.Option("--log-level", envvar="DAGBUNDLE_LOG_LEVEL", help="`debug`, `info` or `warning`.")
    ] = "info",
) -> None:
    """Run the operator: watch DagBundles and carry them out. The chart starts it and sets its environment."""
    from dagbundle.controller import operator, settings  # noqa: PLC0415 - usage errors answer before this is loaded
    from dagbundle.store.dagstore import DagStore  # noqa: PLC0415 - likewise

    logs.configure(log_format, log_level)
    read = settings.read()
    with DagStore.open(read.database_url) as store:
        operator.run(read, store)
