"""The records of a report: what a parser may say, and how much of it.

Models only. `protocol` decodes them and holds them against the order, the run and the totals.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic


class Record(pydantic.BaseModel):
    """What all of them have in common: nothing unknown, nothing converted."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


_CLOSURE_ENTRIES = 20_000
_CLOSURE_PATH = 4097
_CLOSURE_WORD = 128

Text = Annotated[str, pydantic.Field(max_length=256 * 1024)]
Short = Annotated[str, pydantic.Field(max_length=1024)]
Word = Annotated[str, pydantic.Field(max_length=256, pattern=r"^[\x20-\x7e]*$")]
"""What is kept as it is: printable ASCII."""
FilePath = Annotated[str, pydantic.Field(min_length=1, max_length=4096)]


def _flat(value: object) -> dict[str, str]:
    """Take a closure if it is one. By hand: pydantic refuses text that only cannot be stored, which costs the skip."""
    if not isinstance(value, dict) or len(value) > _CLOSURE_ENTRIES:
        raise ValueError(f"a closure is an object of at most {_CLOSURE_ENTRIES:,} members")
    for path, word in value.items():
        if not isinstance(word, str) or len(word) > _CLOSURE_WORD or not 0 < len(path) <= _CLOSURE_PATH:
            raise ValueError(f"a closure maps paths to words of at most {_CLOSURE_WORD} characters")
    return value


Closure = Annotated[dict[str, str], pydantic.PlainValidator(_flat)]
"""What a file's result depends on: a path, or a folder's with `/` at its end, and a word. Flat: what is kept of it, and
read again at every run, takes memory as its bytes do."""


class ParserInfo(Record):
    """Who parsed."""

    name: Word
    version: Word


Origin = Literal["spec", "manifest", "default"]
"""What decided a setting."""


class Origins(Record):
    """What decided how the run was carried out."""

    parser: Origin
    processes: Origin


class Open(Record):
    """The first record."""

    type: Literal["open"]
    protocol: int
    run: Short
    attempt: Short
    parser: ParserInfo
    python: Word
    airflow: Word | None
    fingerprint: Short
    files: Annotated[int, pydantic.Field(ge=0)]
    processes: Annotated[int | None, pydantic.Field(ge=1, le=64)] = None
    """How many files are parsed at a time; older parsers do not report it, nor the origins."""
    origins: Origins | None = None


class Begin(Record):
    """A process begins some files."""

    type: Literal["begin"]
    paths: Annotated[list[FilePath], pydantic.Field(min_length=1, max_length=1_000)]


class Dag(Record):
    """One serialized DAG; `data` is judged by `rollout.content`."""

    dag_id: Short
    relative_fileloc: FilePath
    dag_hash: Short
    data: dict[str, Any]


class FileError(Record):
    """One error of a file."""

    kind: Short
    message: Text
    line: int | None = None


class FileWarning(Record):
    """One Python warning of a file."""

    category: Short
    message: Text
    line: int | None = None


class Output(Record):
    """What a file printed: how much, and the tail of it."""

    bytes: Annotated[int, pydantic.Field(ge=0)]
    text: Text


class File(Record):
    """One submission."""

    type: Literal["file"]
    seq: int
    path: FilePath
    status: Literal["parsed", "unchanged"]
    loader: Short = ""
    duration: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)] = 0.0
    memory: Annotated[int, pydantic.Field(ge=0, le=2**50)] = 0
    dags: Annotated[list[Dag], pydantic.Field(max_length=20_000)] = pydantic.Field(default_factory=list)
    errors: Annotated[list[FileError], pydantic.Field(max_length=1_000)] = pydantic.Field(default_factory=list)
    warnings: Annotated[list[FileWarning], pydantic.Field(max_length=1_000)] = pydantic.Field(default_factory=list)
    sources: Annotated[
        dict[FilePath, Annotated[str, pydantic.Field(max_length=16 * 2**20)]], pydantic.Field(max_length=1_000)
    ] = pydantic.Field(default_factory=dict)
    fingerprint: Short = ""
    closure: Closure = pydantic.Field(default_factory=dict)
    dynamic: Annotated[list[Short], pydantic.Field(max_length=100)] = pydantic.Field(default_factory=list)
    output: Output | None = None


class Counts(Record):
    """Totals as the parser counted them."""

    files: int
    dags: int
    errors: int


class Close(Record):
    """The last record of a run that went through."""

    type: Literal["close"]
    files: Annotated[list[FilePath], pydantic.Field(max_length=100_000)]
    counts: Counts
    digest: Short


class Fail(Record):
    """The last record of a run that could not be carried out as a whole."""

    type: Literal["fail"]
    kind: Short
    message: Text
