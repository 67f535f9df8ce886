"""The run request: what the trusted side asks for, parsed and checked once, so that nothing below guesses."""

from __future__ import annotations

import dataclasses
import json
import os
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from dagbundle_parser import PROTOCOL
from dagbundle_parser.errors import RequestError


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one file may use.

    Attributes:
        file_seconds: wall-clock seconds for one file.
        file_memory_bytes: address space a file may add to the warmed parser's own, in bytes.
        output_bytes: how much of the tail of a file's stdout and stderr is kept, in bytes.
        report_bytes: the longest record of one file, in bytes.
        processes_per_file: processes and threads a file may have at once.
    """

    file_seconds: float = 30.0
    file_memory_bytes: int = 1 << 30
    output_bytes: int = 65_536
    report_bytes: int = 64 << 20
    processes_per_file: int = 64


@dataclasses.dataclass(frozen=True)
class KnownFile:
    """What the store remembers of a file, to skip it while nothing it depends on has changed.

    Attributes:
        fingerprint: the environment's fingerprint when the file was parsed.
        closure: what the file read then; empty means that it must be parsed.
        age: seconds since it was parsed.
    """

    fingerprint: str
    closure: Mapping[str, Any]
    age: float


@dataclasses.dataclass(frozen=True)
class RunRequest:
    """One run over one subdir of a bundle; the fields are those of docs/architecture.md.

    Attributes:
        root: the bundle's root, an absolute path.
        subdir: the part to parse, relative to the root; `.` is all of it.
        exclude: folders that belong to other subdirs, relative to the root.
        known: what the store remembers, by path relative to the root.
        files: parse only these, by path relative to the root; empty parses all.
        shard: which part of the subdir's files to parse, from 0 (`discovery.shard_of`).
        shards: into how many parts they are divided.
        max_unchanged_age: seconds after which a file is parsed again even if nothing has changed.
        values: whether the server may be asked for Variables and Connections.
        defaults: of `parser` and `processes`, those that the spec leaves open, so that the bundle's manifest decides;
            None where an older version made the request, which decided all.
    """

    run: str
    attempt: str
    bundle: str
    root: str
    subdir: str = "."
    exclude: tuple[str, ...] = ()
    parser_type: str = "SinglePass"
    parser_config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    processes: int = 1
    limits: Limits = dataclasses.field(default_factory=Limits)
    run_as_user: int | None = None
    force: bool = False
    max_unchanged_age: float = 3600.0
    known: Mapping[str, KnownFile] = dataclasses.field(default_factory=dict)
    files: frozenset[str] = frozenset()
    shard: int = 0
    shards: int = 1
    values: bool = False
    defaults: frozenset[str] | None = None

    @classmethod
    def read(cls, path: str) -> RunRequest:
        """Read a run request from a JSON file.

        Raises:
            RequestError: the file cannot be read, is no JSON, or says something that cannot be.
        """
        try:
            with Path(path).open("rb") as stream:
                return cls.load(stream, path)
        except OSError as error:
            raise RequestError(f"the run request {path} cannot be read: {error.strerror}") from error

    @classmethod
    def load(cls, stream: BinaryIO, name: str) -> RunRequest:
        """Read a run request from a stream, to its end.

        Raises:
            OSError: it cannot be read.
            RequestError: it is no JSON, or says something that cannot be.
        """
        try:
            data = json.loads(stream.read())
        except ValueError as error:
            raise RequestError(f"the run request {name} is not JSON: {error}") from error
        return cls.from_json(data)

    @classmethod
    def from_json(cls, data: object) -> RunRequest:
        """Check decoded JSON and make a request of it.

        Raises:
            RequestError: naming the field that is wrong.
        """
        fields = _Fields(data, "the run request")
        protocol = fields.integer("protocol", minimum=0)
        if protocol != PROTOCOL:
            raise RequestError(
                f"the run request uses protocol {protocol}, this parser uses {PROTOCOL}: update the older"
            )
        parser = _Fields(fields.mapping("parser", {"type": "SinglePass"}), "parser")
        root = fields.text("root")
        if not root.startswith("/"):
            raise RequestError(f"root must be an absolute path, not {root!r}")
        shard, shards = fields.integer("shard", 0, minimum=0), fields.integer("shards", 1, minimum=1)
        if shard >= shards:
            raise RequestError(f"shard {shard} is none of {shards}: they count from 0")
        return cls(
            run=fields.text("run"),
            attempt=fields.text("attempt"),
            bundle=fields.text("bundle"),
            root=os.path.normpath(root),
            subdir=_relative(fields.text("subdir", "."), "subdir"),
            exclude=tuple(_relative(item, "exclude") for item in fields.texts("exclude")),
            parser_type=parser.text("type", "SinglePass"),
            parser_config=parser.mapping("config", {}),
            processes=fields.integer("processes", 1, minimum=1),
            limits=_limits(fields.mapping("limits", {})),
            run_as_user=fields.integer("runAsUser", minimum=0) if fields.has("runAsUser") else None,
            force=fields.boolean("force", default=False),
            max_unchanged_age=fields.number("maxUnchangedAge", 3600.0),
            known=_known(fields.mapping("known", {})),
            files=frozenset(_relative(item, "files") for item in fields.texts("files")),
            shard=shard,
            shards=shards,
            values=fields.boolean("values", default=False),
            defaults=frozenset(fields.texts("defaults")) if fields.has("defaults") else None,
        )

    def require_shard(self, shard: int | None) -> None:
        """Make sure that the request is for this process's shard; None is a process that knows of none.

        Raises:
            RequestError: it is for another one.
        """
        if shard is not None and shard != self.shard:
            raise RequestError(f"the run request is for shard {self.shard} of {self.shards}, this pod is {shard}")


def _limits(data: Mapping[str, Any]) -> Limits:
    fields, default = _Fields(data, "limits"), Limits()
    seconds = fields.number("fileSeconds", default.file_seconds)
    if seconds <= 0:
        raise RequestError("limits.fileSeconds must be more than 0")
    return Limits(
        file_seconds=seconds,
        file_memory_bytes=fields.integer("fileMemoryBytes", default.file_memory_bytes, minimum=1),
        output_bytes=fields.integer("outputBytes", default.output_bytes, minimum=0),
        report_bytes=fields.integer("reportBytes", default.report_bytes, minimum=1024),
        processes_per_file=fields.integer("processesPerFile", default.processes_per_file, minimum=1),
    )


def _known(data: Mapping[str, Any]) -> dict[str, KnownFile]:
    known = {}
    for path, value in data.items():
        fields = _Fields(value, f"known[{path!r}]")
        known[path] = KnownFile(
            fingerprint=fields.text("fingerprint"), closure=fields.mapping("closure", {}), age=fields.number("age", 0.0)
        )
    return known


def _relative(value: str, name: str) -> str:
    path = posixpath.normpath(value or ".")
    if path.startswith(("/", "../")) or path == ".." or "\0" in path:
        raise RequestError(f"{name} must be a path inside the bundle, relative to its root, not {value!r}")
    return path


class _Fields:
    """Typed access to a decoded JSON object, with errors that name the field."""

    def __init__(self, data: object, name: str) -> None:
        if not isinstance(data, dict):
            raise RequestError(f"{name} must be a JSON object, not {type(data).__name__}")
        self._data, self._name = data, name

    def _get(self, key: str, default: object) -> object:
        value = self._data.get(key, default)
        if value is None:
            value = default
        if value is None:
            raise RequestError(f"{self._name} lacks {key!r}")
        return value

    def _wrong(self, key: str, expected: str, value: object) -> RequestError:
        return RequestError(f"{key!r} of {self._name} must be {expected}, not {value!r}")

    def has(self, key: str) -> bool:
        return self._data.get(key) is not None

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, "a string", value)
        return value

    def texts(self, key: str) -> list[str]:
        value = self._get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(key, "a list of strings", value)
        return value

    def integer(self, key: str, default: int | None = None, *, minimum: int) -> int:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self._wrong(key, f"a whole number, at least {minimum}", value)
        return value

    def number(self, key: str, default: float) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or value < 0:  # noqa: PLR0124 - NaN
            raise self._wrong(key, "a number, at least 0", value)
        return float(value)

    def boolean(self, key: str, *, default: bool) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false", value)
        return value

    def mapping(self, key: str, default: Mapping[str, Any]) -> Mapping[str, Any]:
        value = self._get(key, default)
        if not isinstance(value, dict):
            raise self._wrong(key, "an object", value)
        return value
