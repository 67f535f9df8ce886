from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kubernetes import client

from dagbundle import errors
from dagbundle.server.tokens import Caller, KubernetesTokens, Pod, caller_of, pod_of

USER = {
    "username": "system:serviceaccount:team-sales:parser",
    "extra": {
        "authentication.kubernetes.io/pod-name": ["pod-1"],
        "authentication.kubernetes.io/pod-uid": ["uid-1"],
    },
}
STATUS = {"authenticated": True, "audiences": ["dagbundle"], "user": USER}
CALLER = Caller("team-sales", "parser", "pod-1", "uid-1")
POD = {
    "metadata": {
        "uid": "uid-1",
        "ownerReferences": [{"kind": "Job", "uid": "job-1"}, {"kind": "ReplicaSet", "uid": "other"}],
        "annotations": {"batch.kubernetes.io/job-completion-index": "3"},
    },
    "status": {"phase": "Running"},
}


def test_a_reviewed_token_is_its_pods() -> None:
    assert caller_of(STATUS, "dagbundle") == CALLER


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"authenticated": False, "error": "token has expired"}, "TokenRefused"),
        ({"authenticated": None}, "TokenRefused"),
        ({"audiences": ["https://kubernetes.default.svc"]}, "TokenRefused"),
        ({"audiences": None}, "TokenRefused"),
        ({"user": {**USER, "username": "system:admin"}}, "TokenRefused"),
        ({"user": {**USER, "username": "system:serviceaccount:a:b:c"}}, "TokenRefused"),
        ({"user": {**USER, "username": None}}, "TokenRefused"),
        ({"user": {**USER, "extra": None}}, "NoPod"),
        ({"user": {**USER, "extra": {"authentication.kubernetes.io/pod-name": ["pod-1"]}}}, "NoPod"),
        ({"user": {**USER, "extra": {**USER["extra"], "authentication.kubernetes.io/pod-uid": ["a", "b"]}}}, "NoPod"),  # type: ignore[dict-item] # a mapping above
        ({"user": {**USER, "extra": {**USER["extra"], "authentication.kubernetes.io/pod-uid": [""]}}}, "NoPod"),  # type: ignore[dict-item] # likewise
    ],
)
def test_what_kubernetes_does_not_vouch_for_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(errors.CallerError) as caught:
        caller_of({**STATUS, **changes}, "dagbundle")
    assert caught.value.reason == reason


def test_a_pod_is_read_as_it_is() -> None:
    assert pod_of(POD) == Pod("uid-1", "Running", terminating=False, owners=frozenset({"job-1"}), index=3)
    gone = {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "annotations": None, "ownerReferences": None}}
    assert pod_of(gone) == Pod("", "", terminating=True, owners=frozenset(), index=None)
    odd = {"metadata": {"annotations": {"batch.kubernetes.io/job-completion-index": "-1"}}}
    assert pod_of(odd).index is None


# --- Over HTTP ------------------------------------------------------------------------------------------------------

Answer = Callable[[str, str, Any], tuple[int, Any]]


@contextlib.contextmanager
def api_server(answer: Answer) -> Iterator[KubernetesTokens]:
    """An API server that says what a test wants, and the tokens that ask it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            status, document = answer(self.command, self.path, body)
            text = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_GET  # noqa: N815 - as http.server calls it

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        settings = client.Configuration(host=f"http://127.0.0.1:{listener.server_address[1]}")
        try:
            with client.ApiClient(settings) as api:
                yield KubernetesTokens("dagbundle", api=api)
        finally:
            listener.shutdown()
            thread.join()


def test_a_token_is_reviewed_for_our_audience() -> None:
    asked: list[Any] = []

    def answer(method: str, path: str, body: Any) -> tuple[int, Any]:
        asked.append((method, path, body))
        return 201, {"status": STATUS}

    with api_server(answer) as tokens:
        assert tokens.review("secret") == CALLER
    ((method, path, body),) = asked
    assert (method, path) == ("POST", "/apis/authentication.k8s.io/v1/tokenreviews")
    assert body["spec"] == {"token": "secret", "audiences": ["dagbundle"]}


@pytest.mark.parametrize(
    ("status", "found"),
    [(200, Pod("uid-1", "Running", terminating=False, owners=frozenset({"job-1"}), index=3)), (404, None)],
)
def test_a_pod_is_looked_at_in_its_namespace(status: int, found: Pod | None) -> None:
    def answer(method: str, path: str, _body: Any) -> tuple[int, Any]:
        assert (method, path) == ("GET", "/api/v1/namespaces/team-sales/pods/pod-1")
        return status, POD

    with api_server(answer) as tokens:
        assert tokens.pod(CALLER) == found


@pytest.mark.parametrize(
    ("status", "reviewing", "looking"),
    [
        (403, "ClusterUnavailable", "NamespaceNotEnabled"),
        (429, "ClusterUnavailable", "ClusterUnavailable"),
        (500, "ClusterUnavailable", "ClusterUnavailable"),
    ],
)
def test_what_the_api_server_does_not_answer_is_no_refusal_of_the_token(
    status: int, reviewing: str, looking: str
) -> None:
    with api_server(lambda *_: (status, {})) as tokens:
        with pytest.raises(errors.CallerError) as caught:
            tokens.review("secret")
        assert caught.value.reason == reviewing
        assert "secret" not in caught.value.message
        with pytest.raises(errors.CallerError) as caught:
            tokens.pod(CALLER)
        assert caught.value.reason == looking


def test_an_api_server_that_cannot_be_reached_is_away() -> None:
    with client.ApiClient(client.Configuration(host="http://127.0.0.1:1")) as api:
        api.rest_client.pool_manager.connection_pool_kw["retries"] = False
        with pytest.raises(errors.CallerError) as caught:
            KubernetesTokens("dagbundle", api=api).pod(CALLER)
    assert caught.value.reason == "ClusterUnavailable"
