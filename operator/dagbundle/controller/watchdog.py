"""Finds out whether the watches still bring what happens, which silence alone does not tell from peace.

Now and then the API server's list of bundles is compared with what was seen. What differs, and still differs in the
same way at the next look, was missed.
"""

from __future__ import annotations

from collections.abc import Mapping

from dagbundle.controller.seen import Key


class Watchdog:
    """Compares what is there with what was seen."""

    def __init__(self) -> None:
        self._behind: dict[Key, tuple[str, str]] = {}
        self.problem = ""
        """What is wrong; empty when nothing is. It stays: only a restart mends it."""

    def look(self, there: Mapping[Key, str], seen: Mapping[Key, str]) -> None:
        """Compare the versions of all bundles.

        Args:
            there: resourceVersion of each bundle, by the API server; asked for before `seen`.
            seen: The same, by the watches.
        """
        behind = {
            key: (there.get(key, ""), seen.get(key, ""))
            for key in there.keys() | seen.keys()
            if there.get(key, "") != seen.get(key, "")
        }
        missed = [key for key, versions in behind.items() if self._behind.get(key) == versions]
        self._behind = behind
        if missed:
            namespace, name = min(missed)
            self.problem = f"the watch missed what happened to {len(missed)} DagBundles, such as {namespace}/{name}"
