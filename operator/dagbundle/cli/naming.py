"""Finds what somebody names, and says which names are near where there is none of that name.

Commands call it, so that a mistyped name is an error and never an empty answer.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import TYPE_CHECKING

from dagbundle import errors
from dagbundle.cli import inputs

if TYPE_CHECKING:
    from dagbundle.rollout.model import BundleKey
    from dagbundle.store.dagstore import DagStore

_PAGE, _PAGES = 1000, 10
"""How many bundles are looked through for near names."""
_NEAR, _LEAST = 3, 0.7


def bundle(store: DagStore, text: str) -> BundleKey:
    """Return the bundle of a name.

    Args:
        store: Which must know it.
        text: As it was typed.

    Raises:
        UsageError: It is no name.
        NotFoundError: There is no such bundle; the hint names near ones.
    """
    key = inputs.bundle_key(text)
    try:
        store.history(key, limit=1)
    except errors.NotFoundError:
        wanted = f"{key.namespace}/{key.name}"
        known = _known(store, key.cluster)
        advice = "`dagbundle get bundles` lists those that there are" if known else "apply its DagBundle first"
        raise errors.NotFoundError(f"There is no bundle {wanted}", hint=near(wanted, known) or advice) from None
    return key


def near(wanted: str, known: Collection[str]) -> str:
    """Return a hint with the names that are near one that there is not; empty where none is."""
    found = [name for name in known if _alike(wanted.rpartition("/")[2], name.rpartition("/")[2]) >= _LEAST]
    found.sort(key=lambda name: (-_alike(wanted, name), name))  # the namespace decides among names that are alike
    return f"did you mean {' or '.join(found[:_NEAR])}?" if found else ""


def _alike(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _known(store: DagStore, cluster: str) -> list[str]:
    found: list[str] = []
    cursor = None
    for _ in range(_PAGES):
        page = store.list_bundles(limit=_PAGE, cursor=cursor)
        found += [f"{row.bundle.namespace}/{row.bundle.name}" for row in page.items if row.bundle.cluster == cluster]
        cursor = page.next_cursor
        if cursor is None:
            break
    return found
