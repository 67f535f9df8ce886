"""Speaks to the store's server as a parser's pod would, or as somebody who pretends to be one.

Tokens are real: the API server makes them, bound to a pod, as the kubelet asks for them.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import gzip
import hashlib
import http
import http.client
import json
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

from e2e.cluster import Cluster, Kubectl
from e2e.installation import RELEASE, Installation

AUDIENCE = "dagbundle"
_PORT = 8443
_SECONDS = 30
_FLOOD = """\
import collections, concurrent.futures, http.client, ssl
def ask(number):
    connection = http.client.HTTPSConnection("{host}", {port}, context=ssl._create_unverified_context())
    for _ in range(number):
        connection.request("GET", "/v1/runs/x", headers={{"Authorization": "Bearer flood"}})
        answer = connection.getresponse()
        answer.read()
        yield answer.status
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    answers = pool.map(lambda number: list(ask(number)), [{count} // 8] * 8)
    counts = collections.Counter(status for found in answers for status in found)
print(*counts)
"""
_CONFINED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What the server said."""

    status: int
    reason: str
    text: str
    date: str
    """When it was said, by the server's clock."""

    @property
    def believes_token(self) -> bool:
        """Whether the token was that of a pod of the run; its own parser alone has the key that is asked for then."""
        return self.status == http.HTTPStatus.OK or self.reason == "KeyRefused"


class Server:
    """The server, from outside of the cluster but by its own name and certificate."""

    def __init__(self, port: int, name: str, authority: str) -> None:
        self._port = port
        self._name = name
        self._context = ssl.create_default_context(cadata=authority)

    def ask(self, method: str, path: str, token: str = "", body: bytes | None = None) -> Answer:
        """Send one request."""
        connection = _Connection(self._port, self._name, self._context)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if body is not None:
            headers |= {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text, date = answer.read().decode(errors="replace"), answer.headers["Date"]
        try:
            reason = str(json.loads(text).get("reason", ""))
        except (ValueError, AttributeError):
            reason = ""
        return Answer(answer.status, reason, text, date)

    def run(self, run: str, token: str = "") -> Answer:
        """Ask for a run."""
        return self.ask("GET", f"/v1/runs/{run}", token)

    def report(self, run: str, token: str, records: Sequence[Any]) -> Answer:
        """Send a report: records without the last, which is added."""
        return self.ask("POST", f"/v1/runs/{run}/report", token, report(records))


class _Connection(http.client.HTTPSConnection):
    """A connection to this machine that expects another name's certificate."""

    def __init__(self, port: int, name: str, context: ssl.SSLContext) -> None:
        super().__init__("127.0.0.1", port, timeout=_SECONDS, context=context)
        self._name = name
        self._wrap = context.wrap_socket

    def connect(self) -> None:
        """Connect, and hold the certificate against the name."""
        http.client.HTTPConnection.connect(self)
        self.sock = self._wrap(self.sock, server_hostname=self._name)


def report(records: Sequence[Any]) -> bytes:
    """Return a whole report of these records, closed as the protocol wants it, compressed."""
    lines = [json.dumps(record).encode() + b"\n" for record in records]
    files = [record for record in records if record["type"] == "file"]
    close = {
        "type": "close",
        "files": sorted(str(record["path"]) for record in files),
        "counts": {
            "files": len(files),
            "dags": sum(len(record["dags"]) for record in files),
            "errors": sum(len(record["errors"]) for record in files),
        },
        "digest": hashlib.sha256(b"".join(lines)).hexdigest(),
    }
    return gzip.compress(b"".join(lines) + json.dumps(close).encode() + b"\n")


@contextlib.contextmanager
def reached(operator: Installation, pod: str = "") -> Iterator[Server]:
    """Reach one of the server's pods, whichever or this one."""
    secret = operator.kubectl("get", "secret", f"{RELEASE}-tls")["data"]
    name = f"{RELEASE}-server.{operator.kubectl.namespace}.svc"
    what = f"pod/{pod}" if pod else f"deployment/{RELEASE}-server"
    with operator.kubectl.forwarded(what, _PORT) as port:
        yield Server(port, name, base64.b64decode(secret["ca.crt"]).decode())


def token_of(kubectl: Kubectl, pod: Any, *, audience: str = AUDIENCE, bound: bool = True) -> str:
    """Return a token as the kubelet gives one to a pod; without `bound` one that names no pod."""
    names = ("--bound-object-kind=Pod", f"--bound-object-name={pod['metadata']['name']}")
    to = (*names, f"--bound-object-uid={pod['metadata']['uid']}") if bound else ()
    return kubectl.text("create", "token", pod["spec"]["serviceAccountName"], f"--audience={audience}", *to).strip()


def idle_pod(kubectl: Kubectl, name: str, image: str, account: str) -> Any:
    """Return a running pod of an account that does nothing."""
    container = {"name": "idle", "image": image, "command": ["sleep", "infinity"], "securityContext": _CONFINED}
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {
                "serviceAccountName": account,
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 0,
                "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [container],
            },
        }
    )
    kubectl.wait(f"pod/{name}", "condition=Ready")
    return kubectl("get", "pod", name)


def flood(operator: Installation, kubectl: Kubectl, pod: str, count: int) -> set[int]:
    """Let a pod ask the server as fast as it can, and return how it was answered."""
    script = _FLOOD.format(host=f"{RELEASE}-server.{operator.kubectl.namespace}.svc", port=_PORT, count=count)
    return {int(status) for status in kubectl.text("exec", pod, "--", "python3", "-c", script).split()}


def run_of(pod: Any) -> str:
    """Return the run that a parser's pod was started for."""
    (container,) = pod["spec"]["containers"]
    return next(str(entry["value"]) for entry in container["env"] if entry["name"] == "DAGBUNDLE_RUN")


def ending(cluster: Cluster, token: str, seconds: int) -> str:
    """Return the same token as if it ended in so many seconds, or had ended, signed with the cluster's own key."""
    head, claims, _ = token.split(".")
    content = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    now = int(time.time())
    content |= {"iat": now - 7200, "nbf": now - 7200, "exp": now + seconds}
    text = f"{head}.{_encoded(json.dumps(content).encode())}"
    key = cluster.server.authority.file("sa.key")
    sign = ["openssl", "dgst", "-sha256", "-sign", str(key)]
    signed = subprocess.run(sign, input=text.encode(), capture_output=True, check=True).stdout
    return f"{text}.{_encoded(_two_numbers(signed))}"


def _two_numbers(signature: bytes) -> bytes:
    """Return an elliptic signature as tokens have it: two numbers of 32 bytes, where openssl writes them in DER."""
    first = signature[4 : 4 + signature[3]]
    second = signature[6 + len(first) :]
    return b"".join(number.lstrip(b"\0").rjust(32, b"\0") for number in (first, second))


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
