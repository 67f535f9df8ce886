"""What a plain file must leave as it found it: looked at before and after each file of a shared child.

The second line behind the gate in plain.py, which should have kept away all that shows here. Only identities and sizes
are compared, which costs a tenth of a millisecond.
"""

# ruff: noqa: PTH109, PTH112, PTH208 - a hot path: pathlib's objects cost more than what they ask for

from __future__ import annotations

import builtins
import json
import locale
import logging
import operator
import os
import random
import signal
import sys
import threading
import time
import warnings
from typing import Any

from dagbundle_parser import looks

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)


class _Identities(tuple[object, ...]):
    """Equal to another only if it holds the very same objects, in the same order."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identities) and len(self) == len(other) and all(map(operator.is_, self, other))

    def __ne__(self, other: object) -> bool:
        return not self == other


class Tracer:
    """Takes snapshots of this process.

    Args:
        classes: whose attributes must stay the same objects.
        contexts: deques that must be as long as before.
    """

    def __init__(self, classes: tuple[Any, ...], contexts: tuple[Any, ...]) -> None:
        self._namespaces = [vars(owner) for owner in (*classes, builtins, json, json.encoder, json.decoder)]
        self._contexts = contexts
        self._tops = frozenset(name.partition(".")[0] for name in sys.modules) | sys.stdlib_module_names

    def snapshot(self) -> tuple[object, ...]:
        """What is compared, by equality."""
        return (
            tuple(_Identities(namespace.values()) for namespace in self._namespaces),
            tuple(len(context) for context in self._contexts),
            looks.variables(),
            tuple(sys.path),
            tuple(map(id, sys.meta_path)),
            tuple(map(id, sys.path_hooks)),
            os.getcwd(),
            threading.active_count(),
            tuple(map(id, warnings.filters)),
            id(warnings.showwarning),
            locale.setlocale(locale.LC_ALL),
            hash(random.getstate()),
            tuple(id(signal.getsignal(number)) for number in _SIGNALS),
            len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0,
            (sys.getrecursionlimit(), sys.gettrace(), sys.getprofile(), sys.excepthook, sys.displayhook),
            (id(sys.stdout), id(sys.stderr), id(sys.stdin)),
            (time.tzname, logging.root.level, logging.root.manager.disable, tuple(map(id, logging.root.handlers))),
            self._strangers(),
        )

    def _strangers(self) -> tuple[str, ...]:
        """Modules of distributions of which nothing had been imported before the fork; new ones come last."""
        found = []
        for name in reversed(sys.modules):
            if name == self._last:
                break
            if name.partition(".")[0] not in self._tops and not name.startswith("unusual_prefix_"):
                found.append(name)
        return tuple(found)

    def begin(self) -> None:
        """Say that the modules which are there now are those that were imported before the fork."""
        self._last = next(reversed(sys.modules))

    _last = ""
