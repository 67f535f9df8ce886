"""A server of the store's API that says what a test wants: for what a real one cannot be made to do on demand."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any


@dataclasses.dataclass
class Exchange:
    """One request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""
    """As sent, without the chunks' frames."""
    whole: bool = True
    """False when the connection ended before the last chunk."""

    @property
    def text(self) -> bytes:
        """The body, inflated as far as it came."""
        return zlib.decompressobj(wbits=31).decompress(self.body)

    @property
    def token(self) -> str:
        return self.headers["Authorization"].removeprefix("Bearer ")


@dataclasses.dataclass
class Answer:
    """What a scripted server says to one request."""

    status: int = 200
    document: Any = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    before_body: bool = False
    """Say it without reading the body."""
    cut_after: int | None = None
    """Reset the connection after so many bytes of the body, and say nothing."""


Script = Callable[[Exchange], Answer]


@dataclasses.dataclass
class ScriptedServer:
    """Where it is, and what it heard. Guarded by its own lock where it matters: tests look after the client ended."""

    url: str
    heard: list[Exchange]
    arrived: threading.Condition

    def wait_for(self, count: int, seconds: float = 20.0) -> None:
        """Wait until so many requests were heard to their end."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.heard) >= count, seconds), self.heard


def problem(status: int, reason: str, detail: str = "because", **headers: str) -> Answer:
    document = {"title": "x", "status": status, "reason": reason, "detail": detail}
    return Answer(status, document, {name.replace("_", "-"): value for name, value in headers.items()})


@contextlib.contextmanager
def scripted_server(script: Script) -> Iterator[ScriptedServer]:  # noqa: C901 - one small server
    """Serve on a free port of this machine, one thread per connection, until the block is left."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(Exchange("GET", self.path, dict(self.headers)))

        def handle_expect_100(self) -> bool:
            return True  # said when the script has decided to listen

        def do_POST(self) -> None:
            self._answer(Exchange("POST", self.path, dict(self.headers)))

        def _answer(self, exchange: Exchange) -> None:
            self.close_connection = True
            answer = script(exchange)
            if exchange.method == "POST" and not answer.before_body:
                self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                exchange.whole = self._read_body(exchange, answer.cut_after)
            with server.arrived:
                server.heard.append(exchange)
                server.arrived.notify_all()
            if answer.cut_after is not None:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            with contextlib.suppress(OSError):
                body = json.dumps(answer.document or {}).encode()
                self.send_response(answer.status)
                for name, value in {**answer.headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        def _read_body(self, exchange: Exchange, limit: int | None) -> bool:
            while size := int(self.rfile.readline() or b"0", 16):
                exchange.body += self.rfile.read(size)
                if self.rfile.readline() != b"\r\n" or (limit is not None and len(exchange.body) >= limit):
                    return False
            return self.rfile.readline() == b"\r\n"

        def log_message(self, *_: object) -> None:
            """Tests look at what was heard instead."""

    class Quiet(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that went away is what some tests are about."""

    with Quiet(("127.0.0.1", 0), Handler) as listener:
        server = ScriptedServer(f"http://127.0.0.1:{listener.server_address[1]}", [], threading.Condition())
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown()
            thread.join()
