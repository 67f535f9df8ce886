"""What goes around imports in the process that children are forked from, and around looking into sources."""

from __future__ import annotations

import ast
import contextlib
import functools
import gc
import os
import site
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

_MAX_PARSED_BYTES = 1 << 20
_SHOWN_NOISE_BYTES = 8192


def installed_directories() -> tuple[str, ...]:
    """Where the standard library and installed distributions lie, each with a trailing slash."""
    return _installed_directories(tuple(sys.path))


@functools.lru_cache(4)  # it is asked for each group of modules that are imported ahead
def _installed_directories(searched: tuple[str, ...]) -> tuple[str, ...]:
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths.update(site.getsitepackages())
    paths.update(path for path in searched if path.rstrip("/").endswith(("site-packages", "dist-packages")))
    real = {str(Path(path).resolve()) for path in paths}
    return tuple(sorted(f"{path.rstrip('/')}/" for path in paths | real))


def parse_source(source: bytes) -> ast.Module | None:
    """The syntax tree of a Python file; None where it does not parse, or is too large to look into ahead."""
    if len(source) > _MAX_PARSED_BYTES:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape is the file's own warning, told when it is loaded
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def bound_names(nodes: Iterable[ast.AST]) -> set[str]:
    """The names that these parts of a Python file import from modules, and those of their classes."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ClassDef):
            names.add(node.name)
    return names


@contextlib.contextmanager
def quiet_descriptors() -> Iterator[None]:
    """Keep what imports print, by whatever means, until it is known whether they fail; then the end of it is shown."""
    with tempfile.TemporaryFile() as noise:
        saved = os.dup(1), os.dup(2)
        try:
            os.dup2(noise.fileno(), 1)
            os.dup2(noise.fileno(), 2)
            yield
        except BaseException:
            noise.seek(max(0, noise.seek(0, os.SEEK_END) - _SHOWN_NOISE_BYTES))
            os.write(saved[1], noise.read())
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in enumerate(saved, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Imports make many objects and hardly any garbage; what is there afterwards is frozen, so that children share it.

    It is not collected first: that takes a fifth of a second with Airflow loaded, for some kilobytes.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
