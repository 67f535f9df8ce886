"""The messages between `examining` and its child `examiner`: a header, then JSON with Airflow's times as text.

Never pickle: the child has read what a tenant wrote.
"""

from __future__ import annotations

import datetime as dt
import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

from dagbundle.rollout.content import MAX_DEPTH
from dagbundle.targets.airflow import installed
from dagbundle.targets.airflow.vetting import Allowed

HEADER = struct.Struct("!IQ")
"""The length of a message, in bytes, and its number: an answer has that of its request, and other messages have 0."""
_TIMES = ("run_after", "partition_date")


def encode(message: object, number: int = 0) -> bytes:
    """Return a message as it is written."""
    data = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return HEADER.pack(len(data), number) + data


def examination(document: Mapping[str, Any], last: Any, *, vet: bool, number: int) -> bytes:
    """Return the message that asks the child to examine a document."""
    try:
        return encode({"document": document, "last": last, "vet": vet}, number)
    except RecursionError:  # one that was stored before intake bounded it
        return encode({"refused": f"it is nested more than {MAX_DEPTH} levels deep"}, number)


def decode(data: bytes | bytearray) -> Any:
    """Return a message of its bytes, without the header."""
    return json.loads(data.decode("utf-8", "surrogatepass"))


def write(stream: BinaryIO, message: object, number: int = 0) -> None:
    """Write a message.

    Raises:
        BrokenPipeError: The other side is gone.
    """
    stream.write(encode(message, number))
    stream.flush()


def read_header(stream: BinaryIO) -> tuple[int, int] | None:
    """Read the length and the number of the next message; None at the end of the stream."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    length, number = HEADER.unpack(header)
    return length, number


def read(stream: BinaryIO, length: int) -> Any:
    """Read a message after its header; None at the end of the stream."""
    data = stream.read(length)
    return decode(data) if len(data) == length else None


def interval_to_json(interval: Any) -> list[str] | None:
    """Write Airflow's DataInterval."""
    return None if interval is None else [interval.start.isoformat(), interval.end.isoformat()]


def info_to_json(info: Any) -> dict[str, Any] | None:
    """Write Airflow's DagRunInfo, of any minor."""
    if info is None:
        return None
    found: dict[str, Any] = {"data_interval": interval_to_json(info.data_interval)}
    for name in _TIMES:
        moment = getattr(info, name, None)
        found[name] = None if moment is None else moment.isoformat()
    found["partition_key"] = getattr(info, "partition_key", None)
    return found


def moment(text: str | None) -> dt.datetime | None:
    """Read a time."""
    return None if text is None else dt.datetime.fromisoformat(text)


def allowed_to_json(allowed: Allowed) -> dict[str, Any]:
    """Write what documents may name. Notifiers of the installed providers are left to be found on the other side."""
    callbacks = allowed.callbacks
    if callbacks is None and allowed.notifiers is not installed.notifiers:
        callbacks = allowed.notifiers()
    sets = {
        "classes": allowed.classes,
        "triggers": allowed.triggers,
        "callbacks": callbacks,
        "callback_executors": allowed.callback_executors,
        "executors": allowed.executors,
        "pools": allowed.pools,
        "queues": allowed.queues,
    }
    return {name: None if found is None else sorted(found) for name, found in sets.items()}


def allowed_of(found: Mapping[str, Any]) -> Allowed:
    """Return what `allowed_to_json` wrote."""
    sets = {name: None if listed is None else frozenset(listed) for name, listed in found.items()}
    return Allowed(**sets, notifiers=installed.notifiers)  # type: ignore[arg-type] # None where it may be
