"""Finds keys that a YAML mapping has twice, from a YAML parser's events.

YAML forbids them, and PyYAML takes the last one: a guard or a grant that stands above it would be gone without a word.
kubectl refuses them too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_ENDS = frozenset({"MappingEndEvent", "SequenceEndEvent"})
_VALUES = frozenset({"ScalarEvent", "AliasEvent", "MappingStartEvent", "SequenceStartEvent"})


@dataclass(slots=True)
class _Mapping:
    keys: set[tuple[str, bool]] = field(default_factory=set)
    is_at_key: bool = True


class Repeats:
    """Follows the events of one stream of documents."""

    def __init__(self) -> None:
        self._open: list[_Mapping | None] = []

    def look(self, event: Any) -> str | None:
        """Return the key that an event repeats in its mapping; None for every other event.

        Args:
            event: Of PyYAML's, each in its turn.
        """
        name, found = type(event).__name__, None
        if name in _ENDS:
            self._open.pop()
            return None
        mapping = self._open[-1] if self._open else None
        if mapping is not None and name in _VALUES:
            if mapping.is_at_key and name == "ScalarEvent":
                key = (event.value, bool(event.style))  # `1` and `"1"` are two keys
                found = event.value if key in mapping.keys else None
                mapping.keys.add(key)
            mapping.is_at_key = not mapping.is_at_key
        if name == "MappingStartEvent":
            self._open.append(_Mapping())
        elif name == "SequenceStartEvent":
            self._open.append(None)
        return found
