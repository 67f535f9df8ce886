"""Which bundle some files belong to: the root that they are parsed under, and what of it is parsed.

The root decides what a file may import and what its path is, so one file must have the root that its bundle has.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dagbundle import errors
from dagbundle.cli import inputs

_LOOKED_AT = 4 << 20
"""Bytes of a YAML file that are looked at."""


class Selection(NamedTuple):
    """What to parse."""

    root: pathlib.Path
    subdir: str
    """Relative to the root; `.` for all of it."""
    files: tuple[str, ...]
    """Files of it, relative to the root; none: all."""
    why: str
    """Why that is the root, for people."""


def select(paths: Sequence[pathlib.Path], root: pathlib.Path | None) -> Selection:
    """Choose the root of some paths, and what of it is parsed.

    The root is the option; else the folder, where one is all that is given; else the nearest folder above that holds a
    manifest, or a DagBundle whose subdirs are there; else their common folder.

    Raises:
        UsageError: A path is not there, or lies outside of the root.
    """
    absolute = [_absolute(path) for path in paths]
    for path in absolute:
        if not path.exists():
            raise errors.UsageError(f"{path} is not there")
    common = pathlib.Path(os.path.commonpath([path if path.is_dir() else path.parent for path in absolute]))
    if root is not None:
        chosen, why = _absolute(root), "--root"
        if not chosen.is_dir():
            raise errors.UsageError(f"--root {chosen} is no folder")
    elif len(absolute) == 1 and absolute[0].is_dir():
        chosen, why = absolute[0], "the folder that was given"
    else:
        marked = ((folder, mark) for folder in _upwards(common) if (mark := _mark_of(folder)))
        chosen, why = next(marked, (common, "the common folder, as no folder above has a manifest or a DagBundle"))
    if not common.is_relative_to(chosen):
        raise errors.UsageError(f"{common} lies outside of --root {chosen}")
    if len(absolute) == 1 and absolute[0].is_dir():
        return Selection(chosen, absolute[0].relative_to(chosen).as_posix(), (), why)
    files = sorted({file.relative_to(chosen).as_posix() for path in absolute for file in _files(path)})
    return Selection(chosen, ".", tuple(files), why)


def needs_all_files(selected: Selection) -> bool:
    """Tell whether the selected files can only be parsed with all others: a Python file may load a YAML file of them.

    Which one does is known when all of them have run.
    """
    named = [selected.root / path for path in selected.files if path.endswith((".yaml", ".yml"))]
    return any(map(_may_hold_dags, named)) and any(path.suffix == ".py" for path in _files(selected.root))


def _may_hold_dags(path: pathlib.Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"tasks" in file.read(_LOOKED_AT)
    except OSError:
        return False


def _absolute(path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links


def _upwards(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a folder and those above it, as far as the repository goes."""
    for candidate in (folder, *folder.parents):
        yield candidate
        if (candidate / ".git").exists():
            return


def _mark_of(folder: pathlib.Path) -> str:
    """Say what makes a folder the root of a bundle; empty where nothing does."""
    from dagbundle.resources import manifest  # noqa: PLC0415 - loaded while the parser comes up

    if (folder / manifest.FILE_NAME).is_file():
        return f"it holds the manifest {manifest.FILE_NAME}"
    for path, subdirs in inputs.subdirs_of_bundles_in(folder):
        if all((folder / subdir).is_dir() for subdir in subdirs):
            return f"it holds the DagBundle {path.name}" + (", and its subdirs" if subdirs else "")
    return ""


def _files(path: pathlib.Path) -> Iterator[pathlib.Path]:
    if not path.is_dir():
        yield path
        return
    for folder, names, files in os.walk(path):
        names[:] = [name for name in names if name not in {"__pycache__", ".git"}]
        yield from (pathlib.Path(folder, file) for file in files)
