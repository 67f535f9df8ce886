"""What a file's result depends on: recorded while it is parsed, checked before the next time it would be.

An audit hook sees every open, listing, socket and subprocess; `looks` sees metadata of paths and variables of the
environment. What neither sees (a C library that reads by itself, the clock) is why a result is never trusted for longer
than `maxUnchangedAge`.

A closure maps a key to a word. Under the bundle's root paths are relative, elsewhere absolute; what lies in
AIRFLOW_HOME is `//home/…`, in the n-th importable folder that no distribution owns `//path/n/…`, so that another
machine's are the same. `path: <sha256>` is a file's content, `path: absent` an open that failed, `path/: <sha256>` the
names in a folder that was listed; `path//kind`, `//link`, `//mode`, `//status`, `//own-status`, `//statuses` are what
was asked of a path without reading it. `//env/A B` are variables, `//env` all of them, `//place` where the bundle lies,
`//whole` all that is known of the environment. prober.py says what each is now.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Mapping
from types import CodeType
from typing import Any

from dagbundle_parser import looks
from dagbundle_parser.placing import tells_place
from dagbundle_parser.prober import ALL_VARIABLES, PLACE, STATUSES, VARIABLE, WHOLE, Prober, is_lasting

MAX_ENTRIES = 2000

_DYNAMIC = {
    "socket": "socket",
    "ctypes": "ctypes",
    "subprocess": "subprocess",
    "urllib": "socket",
    "http": "socket",
    "ftplib": "socket",
    "smtplib": "socket",
    "sqlite3": "database",
    "os.system": "subprocess",
    "os.exec": "subprocess",
    "os.posix_spawn": "subprocess",
    "os.spawn": "subprocess",
    "os.startfile": "subprocess",
    "os.fork": "subprocess",
    "os.forkpty": "subprocess",
    "pty.spawn": "subprocess",
    "mmap.__new__": "mmap",
    "os.rename": "writing",
    "os.remove": "writing",
    "os.mkdir": "writing",
    "os.rmdir": "writing",
    "os.link": "writing",
    "os.symlink": "writing",
    "os.truncate": "writing",
    "shutil": "writing",
    "tempfile": "writing",
}
_FREQUENT = frozenset(
    {"builtins.id", "object.__getattr__", "object.__setattr__", "object.__delattr__", "sys._getframe", "compile",
     "exec", "import", "marshal.loads", "code.__new__"}
)  # fmt: skip
"""Events that nothing depends on; imports make tens of thousands of them."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_UNSEEN = ("/dev/null", "/dev/urandom", "/dev/random")
_NOT_SHARED = ("/dev/", "/proc/", "/sys/")
_COUNTED_VARIABLES = ("AIRFLOW", "_AIRFLOW", "PYTHON", "LC_")
"""Prefixes of variables that the fingerprint covers, where Airflow or Python read them."""
_OF_THE_MACHINE = frozenset(
    {"HOME", "PATH", "TMPDIR", "TEMP", "TMP", "USER", "LOGNAME", "LNAME", "USERNAME", "PWD", "HOSTNAME"}
)
"""Variables that libraries look at while they are loaded, and no DAG depends on that."""


def loaded_after(last: str) -> list[str]:
    """The names of modules that came after one. No others are touched: in a child that would copy their memory."""
    return list(itertools.takewhile(lambda name: name != last, reversed(sys.modules)))


class Recorder:
    """Records what the current process opens, lists, looks up and does from `start` to `finish`.

    An audit hook cannot be removed, so there is one recorder for a process and its children: `RECORDER`. In the process
    that they are forked from it records what was loaded before the fork: that counts for every file.
    """

    def __init__(self) -> None:
        self._prober = Prober("")
        self._root = ""
        self._above: frozenset[str] = frozenset()
        self._ignored: tuple[str, ...] = ()
        self._active = self._attached = False
        self._opened: set[str] = set()
        self._listed: set[tuple[str, str]] = set()
        self._looks: set[tuple[str, str]] = set()
        self._variables: set[str | None] = set()
        self._samplers: set[CodeType] = set()
        self._dynamic: set[str] = set()
        self._last_module = ""
        self._before: tuple[object, ...] = ()
        self._telling: dict[str, bool] = {}
        self._shared: dict[str, str] = {}
        self._has_shared = self._is_placed = False
        self._getcwd, self._fspath, self._fsdecode = os.getcwd, os.fspath, os.fsdecode

    def attach(self, ignored: Iterable[str]) -> None:
        """Begin to see what this process does; the first call counts.

        Args:
            ignored: prefixes of paths that the fingerprint covers: the standard library and installed distributions.
        """
        self._ignored = tuple(ignored)
        self.bind(self._prober)
        if not self._attached:
            self._attached = True
            looks.attach(self)
            frequent, see = _FREQUENT, self._see  # a method as the hook would take twice the time
            sys.addaudithook(lambda event, arguments: see(event, arguments) if event not in frequent else None)

    def bind(self, prober: Prober) -> None:
        """Say where the bundle lies, and who says what a path is."""
        self._prober, self._root = prober, prober.places.root
        folders = [self._root, *(path.rstrip("/") for path in self._ignored)]
        self._above = frozenset(part for folder in folders for part in _up(folder))

    def start(self) -> None:
        """Forget what was recorded and record."""
        if not self._before:  # a child that frees what its parent recorded copies the memory that it lies in
            self._before = (self._opened, self._listed, self._looks)
        self._opened, self._listed, self._looks = set(), set(), set()
        self._variables, self._dynamic, self._is_placed = set(), set(), False
        self._last_module = next(reversed(sys.modules))
        self._active = True

    def resume(self) -> None:
        """Record what is loaded before the fork, on top of what was recorded."""
        self._active, self._has_shared = True, False

    def pause(self) -> None:
        """Stop recording, and keep what was recorded."""
        self._active = False

    def share(self) -> None:
        """Stop, and let what was recorded count for every file: modules that no distribution owns, what they used."""
        self._active, self._has_shared = False, True
        for module in list(sys.modules.values()):
            origin = getattr(module, "__file__", None)
            if isinstance(origin, str) and origin.startswith("/"):
                self._opened.add(origin)
        self._opened = {path for path in self._opened if not path.startswith(_NOT_SHARED)}
        self._shared = {key: word for key, word in self._entries().items() if word is not None}

    def finish(self, *, is_broken: bool = False) -> tuple[dict[str, str], set[str]]:
        """Stop and return the closure, and the reasons why the result depends on more than files.

        With any reason, or with more than MAX_ENTRIES entries, the closure is empty.

        Args:
            is_broken: the file has an error, which may be due to what no entry says: all that is known has to stay.
        """
        self._active = False
        for name in loaded_after(self._last_module):
            origin = getattr(sys.modules[name], "__file__", None)
            if isinstance(origin, str):
                self._opened.add(origin)
        if len(self._opened) + len(self._listed) + len(self._looks) > 4 * MAX_ENTRIES:
            self._dynamic.add("too many files")
        if self._dynamic:
            return {}, self._dynamic
        found = self._entries()
        if len(found) > MAX_ENTRIES:
            return {}, {"too many files"}
        if is_broken:
            found[WHOLE] = self._prober.word(WHOLE)
        if self._tells_place(found):
            found[PLACE] = self._prober.word(PLACE)
        closure = {key: word for key, word in found.items() if word is not None}
        if len(closure) < len(found):
            return {}, {"device"}
        return dict(sorted((self._shared | closure).items())), set()

    def imported(self) -> list[str]:
        """The names of the installed modules that were imported since `start`, in the order of their import."""
        names = []
        for name in reversed(loaded_after(self._last_module)):
            origin = getattr(sys.modules.get(name), "__file__", None)
            if type(name) is str and isinstance(origin, str) and self.is_library(origin):
                names.append(name)
        return names

    def opened(self, watched: Mapping[str, str]) -> list[str]:
        """Which of the watched files were opened since `start`; `watched` has their paths by their real ones."""
        found = {os.path.realpath(path) for path in self._opened if not self._is_covered(path)} if watched else set()
        return sorted(watched[path] for path in found.intersection(watched))

    def note(self, reason: str) -> None:
        """Add a reason why the result depends on more than files."""
        self._dynamic.add(reason)

    def see_place(self) -> None:
        """The result holds where the bundle lies."""
        self._is_placed = True

    def _entries(self) -> dict[str, str | None]:
        keys = {self._key(path) for path in self._opened if not self._is_covered(path)}
        for path, what in self._listed:
            if not self._is_covered(path + "/"):
                keys.add(f"{self._key(path)}//{what}" if what else self._key(path) + "/")
        for path, what in self._looks:
            key = self._key(path)
            if self._is_covered(path) or (path in self._above and what in {looks.KIND, looks.LINK}):
                continue
            if what == looks.CONTENT:
                keys.add(key if self._prober.word(f"{key}//{looks.KIND}") == "file" else f"{key}//{looks.KIND}")
            elif what != looks.KIND or key not in keys:
                keys.add(f"{key}//{what}")
        keys.update(self._variable_keys())
        return {key: self._prober.word(key) for key in keys}

    def _variable_keys(self) -> set[str]:
        reads_all = any(name is None or " " in name for name in self._variables)
        names = {name for name in self._variables if name and " " not in name}
        if reads_all:
            names = {name for name in names if not is_lasting(name)}
        return ({ALL_VARIABLES} if reads_all else set()) | ({VARIABLE + " ".join(sorted(names))} if names else set())

    def _tells_place(self, found: Mapping[str, str | None]) -> bool:
        """Whether the result may depend on where the bundle lies: its code can learn that, or it was told."""
        if self._is_placed:
            return True
        for key, word in found.items():
            if word in {None, "absent"} or "//" in key.lstrip("/") or key.startswith(VARIABLE) or key.endswith("/"):
                continue
            if key.endswith(".zip"):
                return True
            if key.endswith(".py"):
                content = str(word)
                if content not in self._telling:
                    self._telling[content] = tells_place(self._prober.places.path(key))
                if self._telling[content]:
                    return True
        return False

    def _is_covered(self, path: str) -> bool:
        if not self._root:  # unknown yet, and perhaps among what is installed: only what imports open is certain
            return path.startswith(self._ignored) and path.endswith((".py", ".pyc", ".so"))
        return path.startswith(self._ignored) and not path.startswith(self._root + "/")

    def is_library(self, filename: str) -> bool:
        """Whether a source belongs to Python or to something installed."""
        return filename.startswith(("<frozen ", *self._ignored)) and not (
            self._root and filename.startswith(self._root + "/")
        )

    def _key(self, path: str) -> str:
        return self._prober.places.key(path)

    def look(self, what: str, path: Any) -> None:
        """Something was learned of a path without reading it."""
        if not self._active:
            return
        if isinstance(path, int) or path is None:
            self._dynamic.add("status of a descriptor")
            return
        if self._is_installed(path) or (type(path) is str and path in self._above and looks.is_kind_asked()):
            return
        _, who, only_kind = looks.asker()
        is_library = who is None or self.is_library(who.f_code.co_filename)
        if is_library and not self._has_shared:
            return
        if only_kind:
            what = looks.LINK if what in {looks.LINK, looks.OWN_STATUS} else looks.KIND
        elif is_library and what == looks.STATUS:
            what = looks.CONTENT
        try:
            self._looks.add((self._absolute(path), what))
        except (TypeError, ValueError):
            return  # what the original refuses

    def _is_installed(self, path: Any) -> bool:
        """Whether `_entries` would pass a path over, seen without looking for the asker, which is slow."""
        return type(path) is str and self._is_covered(path) and os.path.normpath(path) == path

    def variable(self, name: bytes | None) -> None:
        """A variable was read; None is all of them."""
        if not self._active:
            return
        _, who, _ = looks.asker()
        module = "" if who is None else str(who.f_globals.get("__name__"))
        is_library = who is None or self.is_library(who.f_code.co_filename)
        if name is None:
            if not is_library or (self._has_shared and not module.startswith("airflow.")):
                self._variables.add(None)
            elif who is not None:
                self._samplers.add(who.f_code)
            return
        if is_library and who is not None and who.f_code in self._samplers:
            return  # it goes through all of them, for those that are its own
        text = self._fsdecode(name)
        is_counted = text.startswith(_COUNTED_VARIABLES) or text in {"LANG", "LANGUAGE", "TZ"}
        is_usual = not self._has_shared and text in _OF_THE_MACHINE
        if not (is_library and (is_counted or is_usual)):
            self._variables.add(text)

    def identity(self, function: str) -> None:
        """The process asked who or where it is."""
        if self._active:
            _, who, _ = looks.asker()
            if who is not None and not self.is_library(who.f_code.co_filename):
                self._dynamic.add(function)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._active:
            return
        if event == "open":
            if not self._is_installed(arguments[0]) and self._counts():
                self._open(*arguments)
        elif event in {"os.listdir", "os.scandir"}:
            if self._counts():
                self._list(event, arguments[0])
        elif event == "os.chdir":
            self._change(arguments[0])
        else:
            reason = _DYNAMIC.get(event) or _DYNAMIC.get(event.partition(".")[0])
            if reason is not None:
                self._dynamic.add(reason)

    def _counts(self) -> bool:
        """Before the fork only what others than libraries use is to be known: those are as the fingerprint says."""
        if self._has_shared:
            return True
        _, who, _ = looks.asker()
        return who is not None and not self.is_library(who.f_code.co_filename)

    def _list(self, event: str, path: Any) -> None:
        if isinstance(path, int):
            self._dynamic.add("listing of a descriptor")
            return
        what = ""
        if event == "os.scandir":  # its entries tell sizes and times, and nobody sees who asks them
            first, who, _ = looks.asker()
            if first is not None and first is who and not self.is_library(first.f_code.co_filename):
                what = STATUSES
        self._listed.add((self._absolute("." if path is None else path), what))

    def _change(self, path: Any) -> None:
        if not isinstance(path, int) and self._fsdecode(self._fspath(path)).startswith("/"):
            self.look(looks.KIND, path)
        elif self._counts():
            self._dynamic.add("working directory")  # to say where that is takes seconds where folders nest deeply

    def _open(self, path: Any, mode: Any, flags: Any) -> None:
        if isinstance(path, int) or path is None:
            return
        name = self._absolute(path)
        if name in _UNSEEN:
            return
        if isinstance(flags, int) and flags & _WRITING:
            self._dynamic.add("writing")
        elif mode is None and not name.startswith("/"):
            self._dynamic.add("open beside a descriptor")
        self._opened.add(name)

    def _absolute(self, path: Any) -> str:
        name = path if type(path) is str else self._fsdecode(self._fspath(path))
        if not name.startswith("/"):
            try:
                name = f"{self._getcwd()}/{name}"
            except OSError:
                self._dynamic.add("no working directory")
        if "/../" in name or name.endswith("/..") or name.startswith("//"):
            return _collapsed(name)
        return os.path.normpath(name) if "/." in name or "//" in name or name.endswith("/") else name


def _collapsed(path: str) -> str:
    """An absolute path without `..`, as the kernel walks it: what is above a link is above its target.

    Looking for links is recorded too, so a link that leads elsewhere later is seen.
    """
    here = ""
    for part in path.split("/"):
        if part == "..":
            if os.path.islink(here):  # noqa: PTH114 - texts, as elsewhere here
                here = os.path.realpath(here)
            here = here.rpartition("/")[0]
        elif part not in {"", "."}:
            here = f"{here}/{part}"
    return here or "/"


def _up(folder: str) -> list[str]:
    """A folder and those that it lies in."""
    parts = folder.split("/")
    return ["/".join(parts[:count]) or "/" for count in range(1, len(parts) + 1)]


RECORDER = Recorder()
"""The one of this process and of the children that it forks."""
