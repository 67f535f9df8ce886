"""What can go wrong, in one place, so that a caller knows what to catch.

ParserError                 anything that ends a run
├── RequestError            the run request cannot be used; nothing was reported (exit code 2)
└── RunError                the run cannot be carried out; becomes the report's `fail` record

FileProblem                 not an exception: one entry of a file record's `errors`
FileTimeout                 raised inside a child by its timer, so that the traceback shows where the file hangs
"""

from __future__ import annotations

import dataclasses

MAX_MESSAGE_BYTES = 65_536
"""The longest error message that is reported, in bytes of UTF-8; longer ones keep their ends."""


class ParserError(Exception):
    """Anything that ends a run."""


class RequestError(ParserError):
    """The run request cannot be used."""


class RunError(ParserError):
    """The run as a whole cannot be carried out.

    Args:
        kind: a CamelCase word that a program can match, such as `AirflowNotInstalled`.
        message: what happened and what to do.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class FileTimeout(BaseException):
    """A file used up its time; raised by the child's timer inside the file's own code."""


@dataclasses.dataclass(frozen=True)
class FileProblem:
    """One error of one file.

    Attributes:
        kind: a CamelCase word that a program can match: an exception's name or one of this package's own.
        message: what happened, to which file, and what to do; at most MAX_MESSAGE_BYTES.
        line: the line of the DAG file that is to blame, from 1; None where there is none.
    """

    kind: str
    message: str
    line: int | None = None

    def as_record(self) -> dict[str, object]:
        """The entry of a file record's `errors`."""
        return {"kind": self.kind[:200], "message": bounded(self.message), "line": self.line}


def bounded(text: str, limit: int = MAX_MESSAGE_BYTES) -> str:
    """Cut `text` to about `limit` bytes; both ends stay, since a traceback's last line matters most."""
    if len(text) * 4 <= limit:
        return text
    raw = text.encode("utf-8", "surrogatepass")
    if len(raw) <= limit:
        return text
    half = max(0, limit - 64) // 2
    head = raw[:half].decode("utf-8", "ignore")
    tail = raw[len(raw) - half :].decode("utf-8", "ignore")
    return f"{head}\n… {len(raw) - 2 * half} bytes left out …\n{tail}"
