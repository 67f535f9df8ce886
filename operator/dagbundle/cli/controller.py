"""`controller`: the operator on a cluster. Its settings come from its environment, which the chart fills."""

from __future__ import annotations

from dagbundle import logs
from dagbundle.cli import options


def controller(
    log_format: options.LogFormat = "text",
    log_level: options.LogLevel = "info",
) -> None:
    """Run the operator: watch DagBundles and carry them out. The chart starts it and sets its environment."""
    from dagbundle import targets  # noqa: PLC0415 - usage errors answer before this is loaded
    from dagbundle.controller import operator, settings  # noqa: PLC0415 - likewise
    from dagbundle.store.dagstore import DagStore  # noqa: PLC0415 - likewise

    logs.configure(log_format, log_level)
    read = settings.read()
    with DagStore.open(read.database_url) as store:
        store.target = targets.named(read.target)
        operator.run(read, store)
