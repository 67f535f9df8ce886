"""What a server is told: whose tokens it believes, and how much anybody may ask of it.

The bounds are per replica, and generous: their work is that no tenant keeps the others waiting, or fills the memory.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass

from dagbundle import errors

PREFIX = "DAGBUNDLE_SERVER_"


@dataclass(frozen=True, slots=True)
class Settings:
    """One server's settings; each has an environment variable, `DAGBUNDLE_SERVER_` and its name in capitals."""

    cluster: str = ""
    """Whose runs are this server's, where several clusters share a database; `DAGBUNDLE_CLUSTER_NAME` alone says so."""
    audience: str = "dagbundle"
    """Whom tokens must be meant for."""
    token_seconds: float = 5.0
    """How long the answer about one token is believed. The pod behind it is looked at for every request."""
    report_bytes: int = 1 << 30
    """The longest report, compressed, in bytes."""
    inflated_bytes: int = 1 << 30
    """The longest report, inflated, in bytes."""
    record_bytes: int = 32 << 20
    """The longest record of one file in bytes; parsers are told, and make an error of that file of a longer one."""
    record_values: int = 2_000_000
    """Commas and brackets of one record: with its quotes they decide how much memory it takes."""
    held_bytes: int = 256 << 20
    """How many bytes reports may take in memory at once, as values, in all, shared by namespace."""
    reports: int = 64
    """How many reports are taken at once. A report lasts as long as its run parses, and mostly waits."""
    reports_per_namespace: int = 16
    """How many of them may be one namespace's."""
    requests_per_second: float = 5.0
    """How often one pod may ask, on average; three times as many at once."""
    lookups_per_second: float = 20.0
    """How often one pod may ask for a Variable or a Connection, on average; three times as many at once."""
    lookups_per_run: int = 1000
    """How many different ones a run may ask for."""
    lookups: int = 4
    """How many threads look values up, whose backend may be slow."""
    value_bytes: int = 1 << 20
    """The longest answer with a value in bytes."""
    calls_per_second: float = 20.0
    """How often one address may ask, before it is known who it is; three times as many at once."""
    reviews: int = 8
    """How many questions the Kubernetes API is asked at once; who would wait for long is told to come back."""
    idle_seconds: float = 60.0
    """How long a report may be silent. Parsers say every 10 s that they live."""
    stream_seconds: float = 6 * 3600.0
    """How long one report may take."""
    request_seconds: float = 60.0
    """How long anything else may take, its answer included."""
    handshake_seconds: float = 5.0
    """How long a connection may take to its first byte, and its TLS handshake after that."""
    head_seconds: float = 15.0
    """How long a connection may take to say what it wants."""
    connections: int = 1000
    """How many connections are open at once."""
    connections_per_address: int = 64
    """How many of them may come from one address."""
    workers: int = 8
    """How many threads decode reports and ask the database; the database's connection pool is as large."""
    grace_seconds: float = 25.0
    """How long open reports may go on when the server is told to stop. The pod's grace period must be longer."""


def read(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from the environment; what is not there keeps its default.

    Raises:
        UsageError: One is not what it must be; the message names the variable.
    """
    default, found = Settings(), dict[str, str | int | float]()
    found["cluster"] = environ.get("DAGBUNDLE_CLUSTER_NAME", "")
    for field in dataclasses.fields(Settings)[1:]:
        name = PREFIX + field.name.upper()
        text = environ.get(name, "")
        if not text:
            continue
        kind: type[str | int | float] = type(getattr(default, field.name))
        try:
            value = kind(text)
        except ValueError as error:
            raise errors.UsageError(f"{name}={text!r} is no {'number' if kind is not str else 'text'}") from error
        if not isinstance(value, str) and not 0 < value < float("inf"):
            raise errors.UsageError(f"{name}={text!r} must be more than 0")
        found[field.name] = value
    return Settings(**found)  # type: ignore[arg-type] # each has the type of its default
