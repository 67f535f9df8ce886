"""The few requests that starting a cluster needs, by hand: a kubectl for each would cost more than the waiting."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from typing import Any

from e2e.cluster.certificates import Authority
from e2e.cluster.errors import ClusterError

_SECONDS = 5.0


class Api:
    """An administrator's connection to the API server on this machine."""

    def __init__(self, port: int, authority: Authority) -> None:
        self._port = port
        self._context = ssl.create_default_context(cafile=str(authority.certificate))
        self._context.load_cert_chain(authority.file("admin.crt"), authority.file("admin.key"))

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, bytes]:
        """Send one request and return the answer's status, 0 when there is none, and its body."""
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=_SECONDS, context=self._context)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError:  # not listening yet, or no longer: whoever waits for it looks again
            return 0, b""
        finally:
            connection.close()

    def ready(self) -> bool:
        """Say whether the API server takes requests."""
        return self.request("GET", "/readyz")[0] == http.HTTPStatus.OK

    def get(self, path: str) -> Any:
        """Return an object, or None when there is none or nobody answers."""
        status, body = self.request("GET", path)
        return json.loads(body) if status == http.HTTPStatus.OK else None

    def create(self, path: str, manifest: Mapping[str, Any]) -> None:
        """Create an object, or leave the one that is there.

        Raises:
            ClusterError: The API server refused it.
        """
        status, body = self.request("POST", path, manifest)
        if status not in {http.HTTPStatus.CREATED, http.HTTPStatus.CONFLICT}:
            raise ClusterError(f"The API server refused to create {path}: {status} {body.decode(errors='replace')}")
