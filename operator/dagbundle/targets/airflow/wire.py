"""The messages between `examining` and its child `examiner`: JSON after its length, and Airflow's times as text.

Never pickle: the child has read what a tenant wrote.
"""

from __future__ import annotations

import datetime as dt
import json
import struct
from typing import Any, BinaryIO

HEADER = struct.Struct("!I")
"""The length of a message, in bytes."""
_TIMES = ("run_after", "partition_date")


def encode(message: object) -> bytes:
    """Return a message as it is written."""
    data = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return HEADER.pack(len(data)) + data


def decode(data: bytes | bytearray) -> Any:
    """Return a message of its bytes, without the length."""
    return json.loads(data.decode("utf-8", "surrogatepass"))


def write(stream: BinaryIO, message: object) -> None:
    """Write a message.

    Raises:
        BrokenPipeError: The other side is gone.
    """
    stream.write(encode(message))
    stream.flush()


def read(stream: BinaryIO) -> Any:
    """Read a message; None at the end of the stream."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (length,) = HEADER.unpack(header)
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
