"""What the pool knows of a child that is running, and what becomes of a file."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Sequence

from dagbundle_parser.child import GIVEN_BACK, Assignment

_MAX_DUMP_BYTES = 1 << 16


def pipe_of_dump() -> tuple[int, int]:
    """A pipe for what faulthandler writes when a child ends: both ends, of which neither waits."""
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends


def close_all(*descriptors: int) -> None:
    """Close those that there are; -1 stands for none."""
    for descriptor in descriptors:
        if descriptor >= 0:
            os.close(descriptor)


@dataclasses.dataclass(frozen=True)
class FileRecord:
    """A file's record, ready to be written.

    Attributes:
        path: relative to the root.
        body: a JSON object without `type` and `seq`, encoded.
    """

    path: str
    body: bytes
    dags: int
    errors: int


@dataclasses.dataclass
class Running:
    """A child that runs, and what has come from it so far."""

    pid: int
    slot: int
    batch: Sequence[Assignment]
    shared: bool
    token: bytes
    results: int
    output: int
    dump: int
    deadline: float
    buffer: bytearray = dataclasses.field(default_factory=bytearray)
    frames: list[tuple[bytes, bytes]] = dataclasses.field(default_factory=list)
    done: int = 0
    """How many of its frames have become records."""
    damage: str = ""
    tail: bytearray = dataclasses.field(default_factory=bytearray)
    printed: int = 0
    late: bool = False
    status: int | None = None
    dumped: bytes = b""
    """What faulthandler wrote, or the files of the child in its name."""

    def take_dump(self) -> None:
        """Read what faulthandler wrote, after the child's end."""
        if self.dump >= 0:
            with contextlib.suppress(BlockingIOError):
                self.dumped = os.read(self.dump, _MAX_DUMP_BYTES)
            os.close(self.dump)
            self.dump = -1

    @property
    def complete(self) -> bool:
        """Whether nothing more is to come from it."""
        return len(self.frames) == len(self.batch) or any(kind == GIVEN_BACK for kind, _ in self.frames)
