"""The trusted end of the wire protocol: turns a hostile byte stream into bounded, ordered, checked records.

The decoder is fed bytes as they arrive, from a pipe locally and from HTTP on a cluster, and does no I/O itself. It
believes nothing: lines, totals, counts and nesting are bounded before anything is built from them, records must
come in the only possible order, and a report counts as closed only when its listing, counts and digest are right.
The format is described in docs/architecture.md; golden files in tests/golden hold both ends to it.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import re
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import pydantic
from pydantic.alias_generators import to_camel

from dagbundle import errors
from dagbundle.resources.flight import Flight
from dagbundle.resources.records import Begin, Close, Fail, File, Open

__all__ = [
    "ACCEPTED_VERSIONS", "VERSION", "Begin", "Close", "Fail", "File", "Limits", "Open", "Record", "ReportDecoder",
    "RunRequest", "is_inside",
]  # fmt: skip

VERSION = 1
ACCEPTED_VERSIONS = frozenset({1})
"""This version and the one before it, once there is one."""

_GZIP_MAGIC = b"\x1f\x8b"
_VALUE_BYTES, _QUOTE_BYTES = 48, 40
"""Bytes of memory that a value of a list or an object takes, and half of what a text takes besides its characters."""
_ESCAPED_PAIR = re.compile(rb"\\u[dD][89abAB]")
_ESCAPED_WIDE = re.compile(rb"\\u(?!00)[0-9a-fA-F]{4}")
_ESCAPE_BYTES = 6
_DIGEST_BYTES = 16
_DIGEST_SIZE = 64
"""Bytes of memory that a digest takes: 49, as the allocator rounds them."""
MAX_PATH_BYTES = 1024
"""Bytes of a file's path: Airflow's column for import errors holds it, and an index of PostgreSQL's beside a subdir."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one report. They are generous: their work is to stop a flood, not a large bundle."""

    line_bytes: int = 96 * 2**20
    total_bytes: int = 2**30
    """Decompressed bytes in all."""
    files: int = 100_000
    line_values: int = 8_000_000
    """Commas and brackets of one record: what decides how much memory its values take, far more than its bytes."""
    inflate_ratio: int = 200
    """Decompressed bytes per compressed byte, above which a gzip stream counts as a bomb (text has about 20)."""


Record = Open | Begin | File | Close | Fail
_ADAPTERS: dict[str, type[Record]] = {"open": Open, "begin": Begin, "file": File, "close": Close, "fail": Fail}
_BEGUN_OF_A_FILE = 64
"""How often, on average, a file may be begun: again whenever one before it in the same process gives the rest back."""
_MOST_IN_FLIGHT = 10_000


class _State(enum.Enum):
    NEW = "before its first record"
    OPEN = "between its records"
    CLOSED = "after its close"
    FAILED = "after its fail"


class ReportDecoder:
    """Decodes one run's report.

    Args:
        run: The run that the trusted side started; records of another are refused.
        attempt: Likewise.
        limits: Bounds.

    Feed it bytes and take the records; call `finish` when the stream has ended. Every violation raises
    `ProtocolError`, after which nothing more must be fed: the run did not close.
    """

    def __init__(self, *, run: str, attempt: str, limits: Limits | None = None) -> None:
        self._run = run
        self._attempt = attempt
        self._limits = limits or Limits()
        self._state = _State.NEW
        self._buffer = bytearray()
        self._searched = 0
        self._inflater: zlib._Decompress | None = None
        self._first = b""
        self._compressed = 0
        self._total = 0
        self._overhead = 0
        """Of what is in the buffer."""
        self._width = 1
        """Of the line that begins the buffer, as far as it has come."""
        self._digest = hashlib.sha256()
        self._paths: set[bytes] = set()
        """A digest of each path that arrived: the texts would take up to 4 KiB each."""
        self._dags = 0
        self._errors = 0
        self._announced = 0
        self._begun = 0
        self._decoded = 0
        self._flight = Flight()

    @property
    def in_flight(self) -> list[str]:
        """The files that processes were at, as far as the parser said so."""
        return self._flight.names

    @property
    def closed(self) -> bool:
        """True once a close record arrived whose listing, counts and digest were right."""
        return self._state is _State.CLOSED

    @property
    def received(self) -> int:
        """How many bytes have come, inflated."""
        return self._total

    @property
    def weight(self) -> int:
        """How many bytes of memory what has come takes as values, roughly: a list of nothing takes 64 for its two.

        One emoji makes Python keep four bytes of each character of its text. Which text of a record has it is not
        looked at: all of the record counts as wide. Records of files that were begun count nothing: what is kept of
        them is in `kept`.
        """
        return self._decoded + len(self._buffer) * self._width + self._overhead

    @property
    def decoded(self) -> int:
        """The part of `weight` that records take which have been yielded."""
        return self._decoded

    @property
    def kept(self) -> int:
        """How many bytes of memory the decoder itself keeps until the report ends: of paths, and of files in flight."""
        return sys.getsizeof(self._paths) + len(self._paths) * _DIGEST_SIZE + self._flight.size

    def feed(self, data: bytes) -> Iterator[Record]:
        """Take the next bytes and yield the records that they complete, in order."""
        for chunk in self._plain(data):
            self._total += len(chunk)
            if self._total > self._limits.total_bytes:
                raise errors.ProtocolError(f"the report is longer than {self._limits.total_bytes:,} bytes")
            self._overhead += _overhead_of(chunk)
            self._width = max(self._width, width_of(bytes(self._buffer[1 - _ESCAPE_BYTES :]) + chunk))
            self._buffer += chunk
            yield from self._lines()

    def finish(self) -> None:
        """Say that the stream has ended. Raises `ProtocolError` unless it ended with a close or a fail."""
        if self._state not in {_State.CLOSED, _State.FAILED} or self._buffer:
            raise errors.ProtocolError(
                f"the report was cut {self._state.value} ({len(self._paths):,} of {self._announced:,} files arrived)",
                hint="the parser process ended early; look at its output, and at memory limits and kills",
            )

    def _plain(self, data: bytes) -> Iterator[bytes]:
        """Inflate if the stream is gzip, in bounded steps."""
        if self._total == 0 and self._inflater is None:
            self._first += data
            if len(self._first) < len(_GZIP_MAGIC) and _GZIP_MAGIC.startswith(self._first):
                return
            data, self._first = self._first, b""
            if data.startswith(_GZIP_MAGIC):
                self._inflater = zlib.decompressobj(wbits=31)
        if self._inflater is None:
            yield data
            return
        self._compressed += len(data)
        produced = self._total
        while data:
            try:
                chunk = self._inflater.decompress(data, 2**20)
            except zlib.error as error:
                raise errors.ProtocolError(f"the report's gzip stream is damaged: {error}") from error
            data = self._inflater.unconsumed_tail
            produced += len(chunk)
            if produced > 2**24 and produced > self._compressed * self._limits.inflate_ratio:
                raise errors.ProtocolError(
                    f"the report inflates to more than {self._limits.inflate_ratio} times its size: a gzip bomb"
                )
            if self._inflater.unused_data:
                raise errors.ProtocolError("bytes follow the end of the report's gzip stream")
            yield chunk

    def _lines(self) -> Iterator[Record]:
        length = len(self._buffer)
        while (end := self._buffer.find(b"\n", self._searched)) >= 0:
            with memoryview(self._buffer) as whole:
                line = bytes(whole[: end + 1])
            del self._buffer[: end + 1]
            self._searched = 0
            if len(line) > self._limits.line_bytes:
                self._refuse_line()
            yield self._record(line)
        if len(self._buffer) < length:
            self._width = width_of(bytes(self._buffer))
        self._searched = len(self._buffer)
        if len(self._buffer) > self._limits.line_bytes:
            self._refuse_line()

    def _refuse_line(self) -> None:
        raise errors.ProtocolError(f"a record is longer than {self._limits.line_bytes:,} bytes")

    def _record(self, line: bytes) -> Record:
        if self._state in {_State.CLOSED, _State.FAILED}:
            raise errors.ProtocolError(f"a record came {self._state.value}")
        values = _values_in(line)
        if values > self._limits.line_values:
            raise errors.ProtocolError(f"a record has more than {self._limits.line_values:,} values")
        try:
            document = json.loads(line)
        except (ValueError, RecursionError) as error:
            # ValueError covers bad JSON, bad UTF-8 and integers beyond Python's own bound
            raise errors.ProtocolError(f"a record is no JSON that can be read: {error!s:.200}") from error
        kind = document.get("type") if isinstance(document, dict) else None
        model = _ADAPTERS.get(kind) if isinstance(kind, str) else None
        if model is None:
            raise errors.ProtocolError(f"a record has the unknown type {kind!r:.60}")
        try:
            record = model.model_validate(document)
        except pydantic.ValidationError as error:
            raise errors.ProtocolError(f"a {kind} record is not valid: {_first_error(error)}") from error
        except RecursionError as error:
            raise errors.ProtocolError(f"a {kind} record is nested too deeply") from error
        self._check(record)
        self._overhead -= _overhead_of(line)
        if not isinstance(record, Begin):
            self._decoded += len(line) * width_of(line) + _overhead_of(line)
        self._digest.update(line)
        return record

    def _check(self, record: Record) -> None:
        """Hold a record against the order, the run and the totals."""
        match record:
            case Open():
                if self._state is not _State.NEW:
                    raise errors.ProtocolError("a second open record came: two reports were mixed")
                if record.protocol not in ACCEPTED_VERSIONS:
                    raise errors.ProtocolError(
                        f"the parser uses protocol {record.protocol}; this side accepts {sorted(ACCEPTED_VERSIONS)}",
                        hint="use the parser that was released with this version, or the one before it",
                    )
                if (record.run, record.attempt) != (self._run, self._attempt):
                    raise errors.ProtocolError("the report belongs to another run or attempt")
                if record.files > self._limits.files:
                    raise errors.ProtocolError(f"{record.files:,} files are more than {self._limits.files:,}")
                self._announced = record.files
                self._state = _State.OPEN
            case Fail() if self._state is _State.NEW or self._state is _State.OPEN:
                self._state = _State.FAILED
            case Begin() if self._state is _State.OPEN:
                self._check_begin(record)
            case File() if self._state is _State.OPEN:
                self._check_file(record)
            case Close() if self._state is _State.OPEN:
                self._check_close(record)
                self._state = _State.CLOSED
            case _:
                raise errors.ProtocolError(f"a {record.type} record came {self._state.value}")

    def _check_begin(self, record: Begin) -> None:
        self._begun += len(record.paths)
        if self._begun > _BEGUN_OF_A_FILE * self._announced:
            raise errors.ProtocolError(f"more files were begun than {self._announced:,} files can be")
        for path in record.paths:
            if len(path.encode("utf-8", "replace")) > MAX_PATH_BYTES or not is_inside(path):
                raise errors.ProtocolError(f"{path!r:.200} is no path inside the bundle")
        self._flight.begin([path for path in record.paths if _digest(path) not in self._paths])
        if len(self._flight) > min(_MOST_IN_FLIGHT, self._announced - len(self._paths)):
            raise errors.ProtocolError(f"{len(self._flight):,} files are begun at once, more than can be")

    def _check_file(self, record: File) -> None:
        if record.seq != len(self._paths) + 1:
            raise errors.ProtocolError(
                f"file record {record.seq} came where {len(self._paths) + 1} was due: "
                "the report is interleaved, repeated or incomplete"
            )
        digest = _digest(record.path)
        if digest in self._paths:
            raise errors.ProtocolError(f"two records speak of {record.path}")
        if len(self._paths) >= self._announced:
            raise errors.ProtocolError(f"more files arrived than the {self._announced:,} that were announced")
        if len(record.path.encode()) > MAX_PATH_BYTES:
            raise errors.ProtocolError(
                f"the path {record.path[:100]!r}… is longer than {MAX_PATH_BYTES:,} bytes",
                hint="shorten the names of its folders, or let .airflowignore name it",
            )
        if not is_inside(record.path):
            raise errors.ProtocolError(f"{record.path!r:.200} is no path inside the bundle")
        self._paths.add(digest)
        self._flight.end(record.path)
        self._dags += len(record.dags)
        self._errors += len(record.errors)

    def _check_close(self, record: Close) -> None:
        if record.digest != self._digest.hexdigest():
            raise errors.ProtocolError("the close record's digest does not fit what arrived")
        if len(record.files) != len(self._paths) or set(map(_digest, record.files)) != self._paths:
            raise errors.ProtocolError("the close record's listing does not fit the files that arrived")
        counts = (record.counts.files, record.counts.dags, record.counts.errors)
        if counts != (len(self._paths), self._dags, self._errors) or len(self._paths) != self._announced:
            raise errors.ProtocolError("the close record's counts do not fit what arrived")


def _digest(path: str) -> bytes:
    """Return what is kept of a path. Two that have one digest would be refused as one that came twice."""
    return hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()


def _values_in(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _overhead_of(text: bytes) -> int:
    """Return how many bytes some JSON takes in Python besides the characters of its texts, roughly."""
    return _values_in(text) * _VALUE_BYTES + text.count(b'"') * _QUOTE_BYTES


def width_of(text: bytes) -> int:
    """Return how many bytes a character of the widest text in some JSON takes in Python, at most: 1, 2 or 4."""
    if not text.isascii():
        return 4  # the project's parser sends ASCII only: which characters these are is not looked at
    if b"\\u" not in text:
        return 1
    return 4 if _ESCAPED_PAIR.search(text) else 2 if _ESCAPED_WIDE.search(text) else 1


def is_inside(path: str) -> bool:
    """Tell whether a path is relative, normal and free of control characters."""
    parts = path.split("/")
    return not (any(part in {"", ".", ".."} for part in parts) or any(ord(char) < 32 for char in path))  # noqa: PLR2004 - control characters


def _first_error(error: pydantic.ValidationError) -> str:
    item = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"


class RunRequest(pydantic.BaseModel):
    """What the trusted side hands the parser (docs/architecture.md, "The wire protocol")."""

    model_config = pydantic.ConfigDict(alias_generator=to_camel, populate_by_name=True)

    protocol: int = VERSION
    run: str
    attempt: str
    bundle: str
    root: str
    subdir: str
    exclude: list[str]
    parser: dict[str, Any]
    processes: int
    limits: dict[str, int]
    run_as_user: int | None
    force: bool
    max_unchanged_age: int
    known: dict[str, dict[str, Any]]
    files: list[str] = pydantic.Field(default_factory=list)
    """Parse only these; empty parses every file of the subdir."""
    shard: int = 0
    """Which part of the subdir's files to parse; see `dagbundle_parser.discovery.shard_of`."""
    shards: int = 1
    values: bool = False
    """Whether the server answers for Variables and Connections."""
    defaults: list[str] | None = None
    """Those that the spec leaves open: the bundle's manifest decides, and what stands here holds where it does not.
    Older parsers take what stands here. None in requests of older controllers: nothing is open."""
