"""Where a changeset is published besides our own tables, in the same transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagbundle import errors

if TYPE_CHECKING:
    from dagbundle.targets.airflow.target import AirflowTarget

NAMES = ("airflow",)


def named(name: str) -> AirflowTarget | None:
    """Return the target of a name; None for an empty one.

    Raises:
        UsageError: There is no such target, or what it needs is not installed.
    """
    if not name:
        return None
    if name not in NAMES:
        raise errors.UsageError(f"DAGBUNDLE_TARGET={name!r:.80} is no target", hint=f"It is one of: {', '.join(NAMES)}")
    from dagbundle.targets.airflow.target import AirflowTarget  # noqa: PLC0415 - Airflow takes two seconds to import

    return AirflowTarget()
