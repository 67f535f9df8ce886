"""Walks a serialized document, and says where in it something is refused. Shared by the modules of this package."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NoReturn

from dagbundle import errors
from dagbundle.rollout.content import MAX_DEPTH

INT32 = 2**31 - 1
"""The largest value of an Integer column."""
_SHOWN = 200


def refuse(path: str, value: object, why: str, *, setting: str = "") -> NoReturn:
    """Raise that a value may not stand where it does.

    Args:
        path: Of the value in the document, `dag.tasks[0].pool`.
        value: It; the message quotes its beginning.
        why: What is wrong with it, as a clause.
        setting: The environment variable by which the platform team would allow it.

    Raises:
        TargetError: Always, with the reason `NotAllowed`.
    """
    shown = repr(value[:_SHOWN]) if isinstance(value, str) else repr(value)[:_SHOWN]
    raise errors.TargetError(
        f"{path} is {shown}, and {why}",
        hint=f"the platform team allows it by {setting}" if setting else "",
        reason="NotAllowed",
    )


def mapping(path: str, value: object, why: str = "an object is expected") -> Mapping[str, Any]:
    """Return a value that must be an object."""
    if not isinstance(value, Mapping):
        refuse(path, value, why)
    return value


def items(path: str, value: object, most: int) -> list[Any]:
    """Return a value that must be a list of at most so many items."""
    if not isinstance(value, list):
        refuse(path, value, "a list is expected")
    if len(value) > most:
        refuse(f"the length of {path}", len(value), f"at most {most:,} are allowed")
    return value


def text(path: str, value: object, most: int) -> str:
    """Return a value that must be a text of at most so many characters."""
    if not isinstance(value, str):
        refuse(path, value, "a text is expected")
    if len(value) > most:
        refuse(path, value, f"it has {len(value):,} characters; at most {most:,} are allowed")
    return value


def integer(path: str, value: object, *, least: int = -INT32 - 1, most: int = INT32) -> int:
    """Return a value that must be a whole number within bounds. True and false are none."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= INT32:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        refuse(path, value, "a whole number is expected")
    if not least <= value <= most:
        refuse(path, value, f"it must be from {least:,} to {most:,}")
    return value


def number(path: str, value: object, *, least: float, most: float) -> float:
    """Return a value that must be a number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        refuse(path, value, "a number is expected")
    if not least <= value <= most:
        refuse(path, value, f"it must be from {least:,} to {most:,}")
    return value


def is_one_of(value: object, texts: Collection[str]) -> bool:
    """Tell whether a value of any type is one of these texts: a list or an object has no hash, and `in` would raise."""
    return isinstance(value, str) and value in texts


def only(path: str, value: Mapping[str, Any], allowed: frozenset[str]) -> None:
    """Refuse an object that has other keys than these."""
    for name in value:
        if name not in allowed:
            refuse(f"{path}.{name:.60}", value[name], "there is no such field")


def objects(value: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Walk a document and return every object in it, with its path, in order.

    Raises:
        TargetError: It is nested too deeply.
    """
    yield "", value
    pending = [_inside("", value)]  # no recursion: each level of generators would be passed once for each object
    while pending:
        path, item = next(pending[-1], ("", None))
        if item is None:
            pending.pop()
            continue
        if len(pending) > MAX_DEPTH:
            refuse(path, "…", f"it is nested more than {MAX_DEPTH} levels deep")
        if isinstance(item, dict):
            yield path, item
        pending.append(_inside(path, item))


def _inside(path: str, value: Mapping[str, Any] | list[Any]) -> Iterator[tuple[str, dict[str, Any] | list[Any]]]:
    """Return the objects and lists in one, with their paths."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, dict | list):
                yield f"{path}[{index}]", item
    else:
        for name, item in value.items():
            if isinstance(item, dict | list):
                yield f"{path}.{name:.60}" if path else name, item
