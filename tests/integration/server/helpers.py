"""What several of these tests do: raw connections, waiting for a server's metric, a publish without an engine."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading

from integration.server.conftest import Caller, World
from integration.store.builder import changeset, judged
from support import reports
from support.store_process import Process


def raw(pod: Caller, server: Process) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", server.port), 30)
    return pod.authority.context.wrap_socket(plain, server_hostname="127.0.0.1")


def head(pod: Caller, *headers: str) -> bytes:
    lines = [
        f"POST /v1/runs/{pod.run}/report HTTP/1.1", "Host: x", f"Authorization: Bearer {pod.token}", *headers, "", "",
    ]  # fmt: skip
    return "\r\n".join(lines).encode()


def opened(pod: Caller, server: Process) -> ssl.SSLSocket:
    """Begin a report, and leave it there."""
    connection = raw(pod, server)
    first = reports.lines(pod.request, [reports.parsed("a.py", "a")])[0]
    connection.sendall(head(pod, "Transfer-Encoding: chunked") + b"%x\r\n%b\r\n" % (len(first), first))
    return connection


def metric(server: Process, name: str) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", server.metrics_port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    found = re.search(rf"(?m)^{re.escape(name)} (\S+)$", text)
    return float(found[1]) if found else 0.0


def wait_for_reports(server: Process, count: int) -> None:
    wait_for(server, "dagbundle_server_reports_open", count)


def wait_for(server: Process, name: str, value: float) -> None:
    event = threading.Event()
    for _ in range(400):
        if metric(server, name) == value:
            return
        event.wait(0.02)
    raise AssertionError(f"{name} was never {value}")


def wait_for_more(server: Process, name: str, value: float) -> None:
    event = threading.Event()
    for _ in range(400):
        if metric(server, name) > value:
            return
        event.wait(0.05)
    raise AssertionError(f"{name} was never more than {value}")


def wait_until_cut(world: World, rollout_id: str) -> None:
    """Wait until the server has noted what a report was at when it was cut."""
    event = threading.Event()
    for _ in range(600):
        if any(state.failure for state in world.store.run_states(rollout_id)):
            return
        event.wait(0.05)
    raise AssertionError("nothing was noted")


def wait_until_open(world: World, rollout_id: str) -> None:
    event = threading.Event()
    for _ in range(600):
        if world.store.run_states(rollout_id):
            return
        event.wait(0.05)
    raise AssertionError("the run was never opened")


def publish(world: World, rollout_id: str) -> None:
    rollout = world.store.rollout(rollout_id)
    result = changeset(world.store, rollout)
    world.store.publish(rollout_id, result, judged(world.store.live(rollout.bundle), result.runs))
