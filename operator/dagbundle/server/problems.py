"""Every way in which the server says no: one table of reasons, told as problem documents (RFC 9457).

A reason is a word that a program can match. The table is what the documentation lists, and a test compares the two.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import Mapping

from fastapi import Response
from starlette.types import Receive, Scope, Send

from dagbundle import errors

MEDIA_TYPE = "application/problem+json"


@dataclasses.dataclass(frozen=True, slots=True)
class Reason:
    """What a reason means."""

    status: int
    title: str
    retry_after: int | None = None
    """Seconds after which it may go better; None where trying again is of no use."""


REASONS: Mapping[str, Reason] = {
    "TokenMissing": Reason(401, "The request carries no bearer token"),
    "TokenRefused": Reason(401, "Kubernetes does not accept the token, or the token has another audience"),
    "NoPod": Reason(403, "The token is of no pod, or its pod is gone or ending"),
    "NamespaceNotEnabled": Reason(403, "The namespace is none of the operator's tenants"),
    "WrongPod": Reason(403, "The pod is none of the run's Job"),
    "WrongAccount": Reason(403, "The run belongs to another ServiceAccount"),
    "KeyRefused": Reason(403, "Another process of this pod asked first, with a key that this one does not have"),
    "UnknownRun": Reason(404, "There is no such run for this account"),
    "OtherNamespace": Reason(404, "The run belongs to another namespace; answered as UnknownRun"),
    "OtherCluster": Reason(404, "The run belongs to another cluster; answered as UnknownRun"),
    "NotGranted": Reason(403, "The bundle may not read this Variable or Connection"),
    "TooManyLookups": Reason(403, "The run has asked for more Variables and Connections than one may"),
    "NoSuchValue": Reason(404, "There is no such Variable or Connection"),
    "NoTarget": Reason(404, "The server has no Airflow with Variables and Connections"),
    "ValueTooLarge": Reason(413, "The Variable or Connection has more bytes than are given"),
    "RunOver": Reason(409, "The rollout is over: published, blocked, superseded or deactivated"),
    "RunClosed": Reason(409, "The run is closed: its result is kept, and nothing is left to do"),
    "Fenced": Reason(409, "A newer attempt took this one's place"),
    "BadReport": Reason(400, "The report breaks the protocol; nothing of it counts"),
    "CutReport": Reason(400, "The report ended before it closed; nothing of it counts"),
    "ReportTooLarge": Reason(413, "The report has more bytes than are taken"),
    "UnknownEncoding": Reason(415, "Reports come as they are, or as gzip"),
    "Idle": Reason(408, "Nothing came for too long", 1),
    "TooManyRequests": Reason(429, "This caller asks too often", 1),
    "TooManyReports": Reason(429, "Too many reports are being taken, of this namespace or in all", 3),
    "JobUnknown": Reason(503, "The run's Job is not recorded yet", 1),
    "ValueUnavailable": Reason(503, "The Variable or Connection cannot be looked up now", 2),
    "StoreUnavailable": Reason(503, "The database is away; nothing was changed", 3),
    "ClusterUnavailable": Reason(503, "The Kubernetes API is away, or too busy", 2),
    "NotFound": Reason(404, "There is nothing at this address"),
    "MethodNotAllowed": Reason(405, "The address does not support this method"),
    "InternalError": Reason(500, "The server failed; its log has the cause", 5),
}


def refusal(error: errors.DagBundleError) -> errors.CallerError:
    """Say as a refusal what any of our errors means to a caller."""
    if isinstance(error, errors.CallerError):
        return error
    for kind, reason in _MEANINGS:
        if isinstance(error, kind):
            return errors.CallerError(reason, error.message)
    return errors.CallerError("InternalError", error.message)


_MEANINGS: tuple[tuple[type[errors.DagBundleError], str], ...] = (
    (errors.StoreUnavailableError, "StoreUnavailable"),
    (errors.SchemaError, "StoreUnavailable"),
    (errors.TargetError, "ValueUnavailable"),
    (errors.RunClosedError, "RunClosed"),
    (errors.FencedError, "Fenced"),
    (errors.ConflictError, "RunOver"),
    (errors.NotFoundError, "RunOver"),
    (errors.ProtocolError, "BadReport"),
    (errors.ContentError, "BadReport"),
)
"""What our errors mean to a caller, the more particular ones first."""


def response(reason: str, detail: str) -> Response:
    """Make the answer that tells a reason."""
    known = REASONS[reason]
    document = {"type": "about:blank", "title": known.title, "status": known.status, "reason": reason, "detail": detail}
    headers = {} if known.retry_after is None else {"Retry-After": str(known.retry_after)}
    if known.status == 401:  # noqa: PLR2004 - HTTP wants it with this one
        headers["WWW-Authenticate"] = "Bearer"
    return Response(json.dumps(document), known.status, headers, MEDIA_TYPE)


_SILENT = frozenset({"UnknownRun", "InternalError"})
"""Reasons with nothing more to say: a run that is not there and one that is another tenant's are told alike."""


def detail_of(error: errors.CallerError) -> str:
    """What the caller hears besides the reason."""
    return "" if error.told in _SILENT else error.message


class Lingering(Response):
    """A refusal of a request whose body is still coming.

    Closing a connection with unread bytes makes the kernel reset it, and the client may never read why. So after the
    answer the rest is read, and thrown away, for a moment.

    Args:
        told: The answer.
        receive: The rest of the body; None where the client was not told to send any.
    """

    SECONDS = 2.0

    def __init__(self, told: Response, receive: Receive | None) -> None:
        super().__init__(told.body, told.status_code, media_type=told.media_type)
        self.raw_headers = told.raw_headers
        self._receive = receive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - Starlette's signature
        """Answer, then listen to nobody."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.SECONDS):
                while self._receive is not None:
                    message = await self._receive()
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        break
        await send({"type": "http.response.body", "body": b"", "more_body": False})
