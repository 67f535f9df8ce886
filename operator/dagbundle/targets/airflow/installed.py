"""Finds the notifiers of the providers that are installed beside this program, by the names that they register."""

from __future__ import annotations

import functools
import importlib.metadata
import logging

_GROUP = "apache_airflow_provider"
_log = logging.getLogger(__name__)


@functools.cache
def notifiers() -> frozenset[str]:
    """Return the import paths of notifiers, as providers register them.

    A provider that cannot be read has none, and is logged.
    """
    found: set[str] = set()
    for entry in importlib.metadata.entry_points(group=_GROUP):
        try:
            registered = entry.load()().get("notifications") or ()
        except Exception:  # noqa: BLE001 - a provider's own code, which the platform installed, may raise anything
            _log.exception("provider %s cannot be read: none of its notifiers is allowed", entry.value)
        else:
            found.update(name for name in registered if isinstance(name, str))
    return frozenset(found)
