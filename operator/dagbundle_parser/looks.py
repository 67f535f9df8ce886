"""Sees what no audit hook tells: metadata of paths that are looked up, and variables of the environment that are read.

`os.stat` and its like are replaced by functions that ask the originals, and the mapping behind `os.environ` by one that
tells what is read of it. Nothing changes in what they answer. It is done once, before children are forked; what is seen
goes to the recorder (closure.py) while that records.

Who asks decides what an answer is worth. `os.path.exists` tells no more than whether something is there. What a library
learns of a file, such as its time, decides whether the library reads it again, and its content is what counts; what a
bundle's own code learns counts as it is.
"""

from __future__ import annotations

import functools
import importlib
import os
import pathlib
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any, Protocol

KIND, LINK, STATUS, OWN_STATUS, MODE = "kind", "link", "status", "own-status", "mode"
"""What was learned of a path: what it leads to; what it is itself; all of either; who may use it."""
CONTENT = "content"

_HELPERS = frozenset(
    {"os", "posixpath", "genericpath", "pathlib", "pathlib._local", "pathlib._abc", "pathlib._os", "pathlib.types",
     "glob", "fnmatch", "importlib._bootstrap", "importlib._bootstrap_external", "contextlib", "collections.abc",
     "_collections_abc", "functools", __name__, "dagbundle_parser.closure"}
)  # fmt: skip
"""Modules that look up what somebody else wants to know."""
_ASK_FOR_KIND = frozenset(
    {"exists", "lexists", "isfile", "isdir", "islink", "ismount", "isjunction", "is_file", "is_dir", "is_symlink",
     "is_mount", "is_socket", "is_fifo", "is_block_device", "is_char_device", "is_junction", "realpath",
     "_joinrealpath", "resolve", "walk", "_walk", "fwalk", "glob", "rglob", "iglob", "_iglob", "_lexists", "_isdir"}
)  # fmt: skip
"""Their functions whose answer depends on no more than what is there."""
_LOOK_UP = {"stat": STATUS, "lstat": OWN_STATUS, "access": MODE, "readlink": LINK}
_CONFIGURATION = b"AIRFLOW__"
"""Airflow looks for each of its settings among the variables, many times for each file; the fingerprint has them."""
_OF_THE_PROCESS = ("getuid", "geteuid", "getgid", "getegid", "getgroups", "getlogin", "uname", "fstat", "statvfs")


class Recorder(Protocol):
    """What is told of what is seen."""

    def look(self, what: str, path: Any) -> None:
        """Something was learned of a path."""

    def variable(self, name: bytes | None) -> None:
        """A variable was read; None is all of them."""

    def identity(self, function: str) -> None:
        """The process asked who or where it is."""

    def is_library(self, filename: str) -> bool:
        """Whether a source belongs to Python or to something installed."""


_recorder: list[Recorder] = []


def attach(recorder: Recorder) -> None:
    """Tell this recorder what is seen from now on, and nobody else."""
    _recorder[:] = [recorder]
    _install()


def asker() -> tuple[FrameType | None, FrameType | None, bool]:
    """Who wants to know: the calling frame, the one that is no helper, and whether a helper asks only what is there."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - there is no other way to a frame
    while frame is not None and frame.f_globals.get("__name__") in {__name__, "dagbundle_parser.closure"}:
        frame = frame.f_back
    first, only_kind = frame, False
    while frame is not None and frame.f_globals.get("__name__") in _HELPERS:
        only_kind = only_kind or frame.f_code.co_name in _ASK_FOR_KIND
        frame = frame.f_back
    return first, frame, only_kind


def is_kind_asked() -> bool:
    """Whether the function that called the original, two calls above the caller of this, asks only what is there."""
    frame = sys._getframe(3)  # noqa: SLF001 - there is no other way to a frame
    return frame.f_code.co_name in _ASK_FOR_KIND and frame.f_globals.get("__name__") in _HELPERS


def _install(done: list[bool] = []) -> None:  # noqa: B006 - remembers that it was done
    if done:
        return
    done.append(True)
    watching: dict[str, Any] = {}
    for name, what in _LOOK_UP.items():
        original = getattr(os, name)
        watched = _watched(original, what)
        for supported in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks, os.supports_effective_ids):
            if original in supported:
                supported.add(watched)
        setattr(os, name, watched)
        watching[name] = watched
        accessor: Any = getattr(pathlib, "_NormalAccessor", None)  # Python 3.10, which took them before this could
        if accessor is not None and getattr(accessor, name, None) is original:
            setattr(accessor, name, staticmethod(watched))
    for name in _OF_THE_PROCESS:
        watching[name] = _identifying(getattr(os, name), name)
        setattr(os, name, watching[name])
    environ: Any = os.environ
    if type(getattr(environ, "_data", None)) is dict:
        environ._data = os.environb._data = _Variables(environ._data)  # type: ignore[attr-defined]  # noqa: SLF001 - there is no other way to see them read
    _cover_originals(watching)


def _cover_originals(watching: Mapping[str, Any]) -> None:
    """Watch the module below `os`, too, for code that imports it. Imports themselves use the fast originals."""
    below = importlib.import_module(os.name)
    module = types.ModuleType(os.name, below.__doc__)
    vars(module).update({**vars(below), **watching, "environ": _Variables(below.environ)})
    sys.modules[os.name] = module


def _watched(original: Callable[..., Any], what: str) -> Callable[..., Any]:
    @functools.wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:
        if _recorder:
            if kwargs.get("dir_fd") is not None:
                _recorder[0].identity("a path beside a descriptor")
            else:
                learned = OWN_STATUS if what == STATUS and kwargs.get("follow_symlinks") is False else what
                _recorder[0].look(learned, args[0] if args else kwargs.get("path"))
        return original(*args, **kwargs)

    return watched


def _identifying(original: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:
        if _recorder:
            _recorder[0].identity(name)
        return original(*args, **kwargs)

    return watched


def variables() -> tuple[tuple[bytes, bytes], ...]:
    """The environment as it is now; nobody is told that it was read."""
    return tuple(_ITEMS(os.environ._data))  # type: ignore[attr-defined]  # noqa: SLF001 - there is no other way


_ITEM: Callable[[dict[bytes, bytes], bytes], bytes] = dict.__getitem__
_ITEMS: Callable[[dict[bytes, bytes]], Iterable[tuple[bytes, bytes]]] = dict.items
"""Copying a mapping that overrides how it is read asks it for each of its items."""


class _Variables(dict[bytes, bytes]):
    """The environment, which tells what is read of it."""

    def __getitem__(self, name: bytes) -> bytes:
        if name[:9] != _CONFIGURATION:
            self._tell(name)
        return _ITEM(self, name)

    def __contains__(self, name: object) -> bool:
        self._tell(name if isinstance(name, bytes) else None)
        return super().__contains__(name)

    def __iter__(self) -> Iterator[bytes]:
        self._tell(None)
        return super().__iter__()

    def __len__(self) -> int:
        self._tell(None)
        return super().__len__()

    def get(self, name: bytes, default: Any = None) -> Any:
        self._tell(name)
        return super().get(name, default)

    def keys(self) -> Any:
        self._tell(None)
        return super().keys()

    def values(self) -> Any:
        self._tell(None)
        return super().values()

    def items(self) -> Any:
        self._tell(None)
        return super().items()

    def copy(self) -> dict[bytes, bytes]:
        self._tell(None)
        return super().copy()

    @staticmethod
    def _tell(name: bytes | None) -> None:
        if _recorder and not (name is not None and name.startswith(_CONFIGURATION)):
            _recorder[0].variable(name)
