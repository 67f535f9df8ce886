"""Shares what one upkeep may do among namespaces, and in each among its bundles. `upkeep` alone uses this. Pure."""

from __future__ import annotations

import collections
import random
from collections.abc import Iterator, Mapping


def places(counts: Mapping[str, int], namespaces: Mapping[str, str], most: int) -> dict[str, int]:
    """Return how many places each bundle has, without those that have none.

    Namespaces have a place in turn, and so have the bundles of each. Chance decides who begins: in a fixed order the
    same ones would be left out each time where there are more than places.

    Args:
        counts: How many places each bundle needs.
        namespaces: The namespace of each.
        most: How many there are.
    """
    needs: dict[str, dict[str, int]] = {}
    for bundle, count in counts.items():
        needs.setdefault(namespaces[bundle], {})[bundle] = count
    given = _in_turn({namespace: sum(bundles.values()) for namespace, bundles in needs.items()}, most)
    found: dict[str, int] = {}
    for namespace, count in given.items():
        found |= _in_turn(needs[namespace], count)
    return found


def _in_turn(needs: Mapping[str, int], most: int) -> dict[str, int]:
    """Give places one after the other to each name that needs more, and return those that got any."""

    def turns() -> Iterator[str]:
        waiting = collections.deque(random.sample(sorted(needs), len(needs)))
        left = dict(needs)
        while waiting:
            name = waiting.popleft()
            left[name] -= 1
            if left[name]:
                waiting.append(name)
            yield name

    return dict(collections.Counter(name for name, _ in zip(turns(), range(most), strict=False)))
