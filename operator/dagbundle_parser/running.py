"""What the pool knows of a child that is running, and what becomes of a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from dagbundle_parser.child import GIVEN_BACK, Assignment


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

    @property
    def complete(self) -> bool:
        """Whether nothing more is to come from it."""
        return len(self.frames) == len(self.batch) or any(kind == GIVEN_BACK for kind, _ in self.frames)
