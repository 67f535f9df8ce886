"""Whose token is it, and is its pod still there: the one place of the server that asks Kubernetes.

A token counts when the API server vouches for it, for our audience, and when it was made for a pod. What a pod says of
itself (labels, owners) is its tenant's to write, so it only ever narrows what the token proves.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from dagbundle import errors

_POD_NAME = "authentication.kubernetes.io/pod-name"
_POD_UID = "authentication.kubernetes.io/pod-uid"
_INDEX = "batch.kubernetes.io/job-completion-index"
_SECONDS = 10.0
"""How long one question may take."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who shows a token: what Kubernetes says, and nothing else."""

    namespace: str
    account: str
    pod: str
    pod_uid: str


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as it is now."""

    uid: str
    phase: str
    terminating: bool
    owners: frozenset[str]
    """UIDs of the Jobs that it names as its owners."""
    index: int | None
    """Which shard it is; None in a Job without an index."""


class TokenReviewer(Protocol):
    """Answers for tokens and pods. Called from several threads."""

    def review(self, token: str) -> Caller:
        """Tell whose a token is.

        Raises:
            CallerError: `TokenRefused`; `NoPod` where it was made for no pod; `ClusterUnavailable`.
        """

    def pod(self, caller: Caller) -> Pod | None:
        """Return the pod of that name, as it is now; None when there is none. Raises `CallerError`."""


class KubernetesTokens:
    """Asks the API server of the cluster that this runs in, or of the current kubeconfig.

    Args:
        audience: Whom tokens must be meant for.
        connections: How many questions may be asked at once.
        api: A client; made when it is first needed.
    """

    def __init__(self, audience: str, *, connections: int = 8, api: client.ApiClient | None = None) -> None:
        self._audience = audience
        self._connections = connections
        self._api = api
        self._lock = threading.Lock()

    def review(self, token: str) -> Caller:
        """See `TokenReviewer`."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self._audience]},
        }
        try:
            answer = self._call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body)
        except ApiException as error:
            raise _unavailable("tokens cannot be reviewed", error) from error
        return caller_of(answer.get("status") or {}, self._audience)

    def pod(self, caller: Caller) -> Pod | None:
        """See `TokenReviewer`."""
        try:
            return pod_of(self._call("GET", f"/api/v1/namespaces/{caller.namespace}/pods/{caller.pod}"))
        except ApiException as error:
            if error.status == 404:  # noqa: PLR2004 - HTTP
                return None
            if error.status == 403:  # noqa: PLR2004 - likewise
                raise errors.CallerError(
                    "NamespaceNotEnabled", f"the server may not look at pods of namespace {caller.namespace}"
                ) from error
            raise _unavailable(f"pod {caller.namespace}/{caller.pod} cannot be looked at", error) from error

    def _client(self) -> client.ApiClient:
        with self._lock:
            if self._api is None:
                settings = client.Configuration()
                try:
                    config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call] # untyped in the client
                except config.ConfigException:
                    config.load_kube_config(client_configuration=settings)  # type: ignore[no-untyped-call] # likewise
                settings.connection_pool_maxsize = self._connections
                self._api = client.ApiClient(settings)
            return self._api

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        try:
            api = self._client()
            request = api.param_serialize(method, path, header_params=headers, body=body, auth_settings=["BearerToken"])
            answer = api.call_api(*request, _request_timeout=_SECONDS)
            data = answer.read()  # type: ignore[no-untyped-call] # likewise
            if not 200 <= answer.status <= 299:  # noqa: PLR2004 - HTTP
                raise ApiException(status=answer.status, reason=answer.reason, body=data.decode("utf-8", "replace"))
            found: dict[str, Any] = json.loads(data)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, config.ConfigException) as error:
            raise errors.CallerError("ClusterUnavailable", f"{method} {path}: {error}") from error
        return found


def caller_of(status: Mapping[str, Any], audience: str) -> Caller:
    """Read a TokenReview's status.

    Raises:
        CallerError: `TokenRefused` or `NoPod`.
    """
    if not status.get("authenticated"):
        raise errors.CallerError("TokenRefused", f"the token is not valid: {status.get('error') or 'no reason given'}")
    if audience not in (status.get("audiences") or ()):
        raise errors.CallerError("TokenRefused", f"the token is not meant for {audience!r}")
    user = status.get("user") or {}
    parts = str(user.get("username") or "").split(":")
    if len(parts) != 4 or parts[:2] != ["system", "serviceaccount"]:  # noqa: PLR2004 - system:serviceaccount:NS:NAME
        raise errors.CallerError("TokenRefused", "the token is of no ServiceAccount")
    extra: Mapping[str, Sequence[str]] = user.get("extra") or {}
    names, uids = extra.get(_POD_NAME, ()), extra.get(_POD_UID, ())
    if len(names) != 1 or len(uids) != 1 or not names[0] or not uids[0]:
        raise errors.CallerError("NoPod", "the token was made for no pod")
    return Caller(namespace=parts[2], account=parts[3], pod=str(names[0]), pod_uid=str(uids[0]))


def pod_of(found: Mapping[str, Any]) -> Pod:
    """Read what the API server says of a pod."""
    metadata = found.get("metadata") or {}
    index = str((metadata.get("annotations") or {}).get(_INDEX, ""))
    return Pod(
        uid=str(metadata.get("uid") or ""),
        phase=str((found.get("status") or {}).get("phase") or ""),
        terminating=metadata.get("deletionTimestamp") is not None,
        owners=frozenset(
            str(owner.get("uid")) for owner in metadata.get("ownerReferences") or () if owner.get("kind") == "Job"
        ),
        index=int(index) if index.isascii() and index.isdigit() else None,
    )


def _unavailable(what: str, error: ApiException) -> errors.CallerError:
    return errors.CallerError("ClusterUnavailable", f"{what}: {error.status} {error.reason}")
