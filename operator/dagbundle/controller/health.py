"""/healthz for the kubelet: a replica that waits for the Lease is healthy, a leader whose watches are dead is not."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable


def serve(port: int, problem: Callable[[], str]) -> http.server.ThreadingHTTPServer:
    """Answer /healthz on a port, in a thread.

    Args:
        port: Where; 0 takes a free one.
        problem: Says what is wrong; empty when nothing is.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = problem() if self.path == "/healthz" else "not found"
            body = (found or "ok").encode()
            self.send_response(200 if not found else 404 if found == "not found" else 503)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's signature
            """Probes are not worth a line each."""

    server = http.server.ThreadingHTTPServer(("", port), Handler)
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server
