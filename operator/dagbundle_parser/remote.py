"""One HTTP exchange with the store's server: what the standard library has no client for.

A report is streamed while it is still being made, and may be refused before or while it is sent. So the server is asked
first (`Expect: 100-continue`), and what it says in between is heard.
Redirects and proxies are not followed: the token is for this server alone.
"""

from __future__ import annotations

import dataclasses
import gzip
import http.client
import io
import json
import select
import socket
import ssl
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any, BinaryIO

from dagbundle_parser import __version__
from dagbundle_parser.environment import read_token

CONNECT_SECONDS = 10.0
STALLED_SECONDS = 120.0
"""How long the server may neither read nor answer."""
_CONTINUE_SECONDS = 10.0
_MOST_ERROR_BYTES = 64 * 1024


class RemoteError(Exception):
    """The server could not be reached, or broke off: the same request can be sent again."""


class RefusedError(Exception):
    """The server will not take this, however often it is sent.

    Args:
        status: HTTP's.
        reason: the server's word for it, `RunOver` for one; empty where it has none.
        message: for people.
        detail: of the message, what the server said of it.
    """

    def __init__(self, status: int, reason: str, message: str, detail: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.detail = detail


class BusyError(RemoteError):
    """The server asks to come back later.

    Args:
        after: in seconds, as far as it said; 0 where it did not.
    """

    def __init__(self, message: str, after: float) -> None:
        super().__init__(message)
        self.after = after


@dataclasses.dataclass(frozen=True)
class Server:
    """Where the store is and how to be let in.

    Attributes:
        url: `https://host:port`, perhaps with a path; plain HTTP only on this machine.
        token_file: read for every request, because it is renewed while a run goes on.
        authority: certificates to trust, as PEM text; None trusts those of the system.
        key: 64 hexadecimal digits that only this process knows. The server holds the pod to the first that comes, so
            that who reads the token's file cannot speak in its place.
    """

    url: str
    token_file: str
    authority: str | None = None
    key: str = dataclasses.field(default="", repr=False)

    def get(self, path: str) -> bytes:
        """Get a document.

        Raises:
            RemoteError: try again.
            RefusedError: do not.
        """
        response = self._exchange("GET", path, None)
        try:
            body = response.read()
            return gzip.decompress(body) if response.headers.get("Content-Encoding") == "gzip" else body
        except (OSError, EOFError, http.client.HTTPException) as error:
            raise RemoteError(f"its answer was cut: {_text_of(error)}") from error
        finally:
            response.close()

    def post(self, path: str, body: Iterator[bytes]) -> None:
        """Send a gzip stream of unknown length.

        Args:
            path: below the server's address.
            body: not empty chunks; what it raises ends the connection, so that the server sees a cut stream.

        Raises:
            RemoteError: try again.
            RefusedError: do not.
        """
        self._exchange("POST", path, body).close()

    def _exchange(self, method: str, path: str, body: Iterator[bytes] | None) -> http.client.HTTPResponse:
        try:
            connection = self._connect()
        except (OSError, ValueError) as error:
            raise RemoteError(f"{self.url} cannot be reached: {_text_of(error)}") from error
        with connection:
            stream = connection.makefile("rb")
            try:
                connection.sendall(self._head(method, path, sends=body is not None))
                if body is not None and _may_send(connection, stream):
                    _send(connection, stream, body)
                response = http.client.HTTPResponse(_Made(stream), method=method)  # type: ignore[arg-type] # all it uses
                response.begin()
                _check(response)
            except (OSError, http.client.HTTPException) as error:
                stream.close()
                raise RemoteError(f"{self.url} broke off: {_text_of(error)}") from error
            except BaseException:
                stream.close()
                raise
            return response

    def _connect(self) -> socket.socket:
        parts = urllib.parse.urlsplit(self.url)
        host = parts.hostname or ""
        secure = parts.scheme == "https"
        connection = socket.create_connection((host, parts.port or (443 if secure else 80)), CONNECT_SECONDS)
        connection.settimeout(STALLED_SECONDS)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if not secure:
            return connection
        try:
            return ssl.create_default_context(cadata=self.authority).wrap_socket(connection, server_hostname=host)
        except BaseException:
            connection.close()
            raise

    def _head(self, method: str, path: str, *, sends: bool) -> bytes:
        parts = urllib.parse.urlsplit(self.url)
        lines = [
            f"{method} {parts.path.rstrip('/')}{path} HTTP/1.1",
            f"Host: {parts.netloc}",
            f"Authorization: Bearer {read_token(self.token_file)}",
            *([f"Dagbundle-Key: {self.key}"] if self.key else []),
            f"User-Agent: dagbundle-parser/{__version__}",
            "Accept: application/json",
            "Accept-Encoding: gzip",
            "Connection: close",
        ]
        if sends:
            lines += [
                "Content-Type: application/x-ndjson",
                "Content-Encoding: gzip",
                "Transfer-Encoding: chunked",
                "Expect: 100-continue",
            ]
        return "\r\n".join([*lines, "", ""]).encode("ascii")


class _Made:
    """Gives HTTPResponse the stream that is being read already."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def makefile(self, _mode: str) -> BinaryIO:
        return self._stream


def _may_send(connection: socket.socket, stream: io.BufferedReader) -> bool:
    """Wait for the server's leave to send; False where it has answered already."""
    deadline = time.monotonic() + _CONTINUE_SECONDS
    while not _answered(connection, stream, max(0.0, deadline - time.monotonic())):
        if time.monotonic() >= deadline:
            return True  # it does not know the question: then HTTP has it sent unasked
    if not stream.peek(12).startswith((b"HTTP/1.1 100", b"HTTP/1.0 100")):
        return False
    while stream.readline(_MOST_ERROR_BYTES) not in {b"\r\n", b"\n", b""}:
        pass
    return True


def _send(connection: socket.socket, stream: io.BufferedReader, body: Iterator[bytes]) -> None:
    """Send chunks until they end, or until the server answers before that."""
    try:
        for chunk in body:
            if _answered(connection, stream, 0):
                return
            connection.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        connection.sendall(b"0\r\n\r\n")
    except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
        if not _answered(connection, stream, 0):
            raise
        # it has said why, and does not listen any more


def _answered(connection: socket.socket, stream: io.BufferedReader, seconds: float) -> bool:
    """Whether there is something to read, or the connection has ended; messages of TLS's own are neither."""
    pending = isinstance(connection, ssl.SSLSocket) and connection.pending()
    if not pending and not select.select([connection], [], [], seconds)[0]:
        return False
    connection.settimeout(0)
    try:
        stream.peek(1)
    except ssl.SSLWantReadError:
        return False
    finally:
        connection.settimeout(STALLED_SECONDS)
    return True


def _check(response: http.client.HTTPResponse) -> None:
    """Raise unless the server agreed."""
    if 200 <= response.status < 300:  # noqa: PLR2004 - HTTP's range
        return
    with response:
        problem = _problem(response.read(_MOST_ERROR_BYTES))
    reason, detail = str(problem.get("reason") or ""), str(problem.get("detail") or problem.get("title") or "")
    message = " ".join(filter(None, [f"the server answered {response.status}", reason])) + (
        f": {detail}" * bool(detail)
    )
    if response.status in {408, 425, 429} or response.status >= 500:  # noqa: PLR2004 - HTTP's
        raise BusyError(message, _seconds(response.headers.get("Retry-After")))
    raise RefusedError(response.status, reason, message, detail or message)


def _problem(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"detail": body.decode("utf-8", "replace").strip()[:500]}


def _seconds(value: str | None) -> float:
    """Read `Retry-After`; a date, which our server never sends, counts as nothing."""
    return float(value) if value and value.isdigit() and len(value) < 6 else 0.0  # noqa: PLR2004 - more than a day


def _text_of(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ssl.SSLError):
        return error.strerror
    return str(error) or type(error).__name__
