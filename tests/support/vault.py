"""The part of HashiCorp Vault's HTTP API that Airflow's secrets backend calls: reads of KV secrets, versions 1 and 2.

It answers for each path that some server or proxy would make of the one that was asked for: percent signs are decoded
until none is left, backslashes are slashes, what follows a `;` is dropped, and `.`, `..` and empty parts are resolved.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import posixpath
import re
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

TOKEN = "root-of-the-tests"


class Vault:
    """What the server knows and was asked.

    Attributes:
        url: Its address.
        secrets: By path below `/v1/`, without the `data/` of version 2.
        asked: The paths of all reads, in order, as Vault would resolve them.
    """

    def __init__(self, url: str, secrets: Mapping[str, Mapping[str, Any]]) -> None:
        self.url = url
        self.secrets = secrets
        self.asked: list[str] = []

    def answer(self, target: str) -> tuple[int, Mapping[str, Any]]:
        """Return the status and the document for a request's target, which begins with `/v1/`."""
        path = resolved(target)
        if path == "/v1/auth/token/lookup-self":
            return 200, {"data": {"id": TOKEN}}
        self.asked.append(path)
        newer = path.startswith("/v1/secret/data/")
        found = self.secrets.get(path.removeprefix("/v1/").replace("secret/data/", "secret/", 1))
        if found is None:
            return 404, {"errors": []}
        return 200, {"data": {"data": found, "metadata": {"version": 1}} if newer else found}


def resolved(target: str) -> str:
    """Return the path that a request's target leads to."""
    path = target.partition("?")[0]
    while path != (path := urllib.parse.unquote(path)):
        pass
    path = re.sub(r";[^/]*", "", path.replace("\\", "/"))
    return posixpath.normpath(re.sub(r"[?#].*", "", path))


@contextlib.contextmanager
def running_vault(secrets: Mapping[str, Mapping[str, Any]]) -> Iterator[Vault]:
    """Serve these secrets, by path below `/v1/`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            permitted = self.headers.get("X-Vault-Token") == TOKEN
            status, document = vault.answer(self.path) if permitted else (403, {"errors": ["permission denied"]})
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        vault = Vault(f"http://127.0.0.1:{server.server_port}", secrets)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield vault
        finally:
            server.shutdown()
            thread.join()
