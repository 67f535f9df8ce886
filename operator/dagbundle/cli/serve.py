"""`server`: the store's API for parsers on a cluster. Stateless: any number of replicas, behind one Service."""

from __future__ import annotations

import os
import pathlib
from typing import Annotated

import typer

from dagbundle import errors, logs
from dagbundle.cli import options


def server(
    host: Annotated[
        str | None,
        typer.Option(
            "--host",
            envvar="DAGBUNDLE_HOST",
            help="Where to listen. Default: everywhere with TLS, else 127.0.0.1.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[int, typer.Option("--port", envvar="DAGBUNDLE_PORT", min=0, max=65535, help="0 takes any.")] = 8443,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port",
            envvar="DAGBUNDLE_METRICS_PORT",
            min=0,
            max=65535,
            help="Where /healthz, /readyz and /metrics answer, in plain HTTP. Default: nowhere.",
            show_default=False,
        ),
    ] = None,
    tls_cert: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--tls-cert",
            envvar="DAGBUNDLE_TLS_CERT_FILE",
            help="Certificate chain, PEM. Read again when it changes.",
            show_default=False,
        ),
    ] = None,
    tls_key: Annotated[
        pathlib.Path | None,
        typer.Option("--tls-key", envvar="DAGBUNDLE_TLS_KEY_FILE", help="Its key, PEM.", show_default=False),
    ] = None,
    allow_sqlite: Annotated[
        bool,
        typer.Option("--allow-sqlite", help="Serve from one SQLite file: no second replica, nor controller elsewhere."),
    ] = False,
    log_format: options.LogFormat = "text",
    log_level: options.LogLevel = "info",
) -> None:
    """Serve the store's API to parsers on a cluster. The chart starts it; docs/server.md has its other settings."""
    from dagbundle import targets  # noqa: PLC0415 - usage errors answer before this is loaded
    from dagbundle.server import serving, settings, tokens  # noqa: PLC0415 - usage errors answer before this is loaded
    from dagbundle.store.dagstore import DagStore  # noqa: PLC0415 - likewise
    from dagbundle.store.database import Database  # noqa: PLC0415 - likewise

    logs.configure(log_format, log_level)
    read = settings.read()
    if (tls_cert is None) != (tls_key is None):
        raise errors.UsageError("--tls-cert and --tls-key belong together")
    certificate = serving.Certificate(tls_cert, tls_key) if tls_cert and tls_key else None
    url = os.environ.get("DAGBUNDLE_DATABASE_URL", "")
    if not url:
        raise errors.UsageError("No database was named", hint="Set DAGBUNDLE_DATABASE_URL")
    database = Database(url)  # a database that is away, or not upgraded yet, keeps the server unready and not down
    if not database.is_postgresql and not allow_sqlite:
        raise errors.UsageError(
            "DAGBUNDLE_DATABASE_URL must name PostgreSQL: SQLite is for one machine",
            hint="Give --allow-sqlite if this is the only program that uses the file's machine",
        )
    everywhere = "" if certificate else "127.0.0.1"
    with DagStore(database) as store:
        store.target = targets.named(os.environ.get("DAGBUNDLE_TARGET", ""))
        serving.run(
            store,
            tokens.KubernetesTokens(read.audience, connections=read.reviews),
            read,
            api=serving.Address(everywhere if host is None else host, port),
            monitoring=None if metrics_port is None else serving.Address("", metrics_port),
            certificate=certificate,
        )
