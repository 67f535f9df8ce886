"""The application: routes, and around them what every request gets: a bound on its time, one line of log, metrics.

Made by a factory from its parts, so that a test runs the real one with a store of its own and an answer of its own for
tokens. It keeps nothing that a second replica would have to know.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import fastapi
import pydantic
from fastapi import Depends, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse

from dagbundle import errors
from dagbundle.resources import protocol
from dagbundle.rollout.model import LookupKind
from dagbundle.server import problems, requests
from dagbundle.server.access import Admitted, Gate
from dagbundle.server.ledger import Ledger, entry_of
from dagbundle.server.metrics import Metrics
from dagbundle.server.reports import Body, Disconnected, Reports
from dagbundle.server.settings import Settings
from dagbundle.server.tokens import TokenReviewer
from dagbundle.server.values import MOST_KEY, Values
from dagbundle.server.workers import Workers
from dagbundle.store.dagstore import DagStore
from dagbundle.store.records import RunState

_KEY_HEADER = "Dagbundle-Key"


class Problem(pydantic.BaseModel):
    """Why a request was refused (RFC 9457)."""

    type: str
    title: str
    status: int
    reason: Annotated[str, pydantic.Field(description="A word that a program can match; docs/server.md lists them.")]
    detail: str


class Variable(pydantic.BaseModel):
    """A Variable."""

    value: str


class ConnectionFields(pydantic.BaseModel):
    """What a Connection holds, as Airflow's own API for tasks names it."""

    conn_type: str
    host: str | None
    schema_: Annotated[str | None, pydantic.Field(alias="schema")]
    login: str | None
    password: str | None
    port: int | None
    extra: str | None


class Connection(pydantic.BaseModel):
    """A Connection."""

    value: ConnectionFields


class Taken(pydantic.BaseModel):
    """What became of a run."""

    state: Annotated[RunState, pydantic.Field(description="`Closed`, or `Failed` when the report says so itself.")]


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Say for the schema which reasons an answer may have."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        words = sorted(
            word
            for word, reason in problems.REASONS.items()
            if reason.status == status and word not in {"OtherNamespace", "OtherCluster"}
        )
        found[status] = {"description": ", ".join(words), "model": Problem, "content": {problems.MEDIA_TYPE: {}}}
    return found


_BEARER = HTTPBearer(auto_error=False, description="The pod's token, bound to it, for this server's audience.")
_REPORT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A report as docs/architecture.md describes it: lines of JSON, usually compressed.",
        "content": {"application/x-ndjson": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Parts:
    """What the routes work with."""

    store: DagStore
    settings: Settings
    workers: Workers
    gate: Gate
    reports: Reports
    values: Values
    metrics: Metrics


def create(
    store: DagStore, tokens: TokenReviewer, settings: Settings, metrics: Metrics | None = None
) -> fastapi.FastAPI:
    """Make the application.

    Args:
        store: Where runs are looked up and staged.
        tokens: Whom tokens are asked of.
        settings: Bounds.
        metrics: Where it counts; its own by default.
    """
    metrics = metrics or Metrics()
    workers = Workers(settings.workers, "work")
    gate = Gate(store, tokens, settings, workers, metrics)
    reports = Reports(store, settings, workers, metrics)
    values = Values(store, settings, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(_app: fastapi.FastAPI) -> AsyncIterator[None]:
        yield
        gate.close()
        workers.close()
        values.close()

    app = fastapi.FastAPI(
        title="dagbundle store API",
        summary="What parsers on a cluster ask for work and report to.",
        version=str(protocol.VERSION),
        openapi_url="/openapi.json",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    described = app.openapi
    app.openapi = lambda: _without_validation(described())  # type: ignore[method-assign] # as FastAPI documents it
    app.state.parts = _Parts(store, settings, workers, gate, reports, values, metrics)
    app.include_router(_ROUTES)
    _handle_errors(app)
    app.add_middleware(Ledger, settings=settings, metrics=metrics)
    return app


async def _admit(
    run: str,
    request: Request,
    _credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
) -> Admitted:
    """Let a caller in: what every route but the probe begins with."""
    return await _let_in(run, request)


async def _admit_first(
    run: str,
    request: Request,
    _credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
) -> Admitted:
    """Let in who asks for a run; whose key comes first is who speaks for it from then on."""
    return await _let_in(run, request, claims=True)


async def _admit_lookup(
    run: str,
    request: Request,
    _credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
) -> Admitted:
    """Let in who asks for a value, while the run goes on."""
    admitted = await _let_in(run, request, looks_up=True)
    _refuse_over(admitted)
    return admitted


async def _let_in(run: str, request: Request, *, looks_up: bool = False, claims: bool = False) -> Admitted:
    gate: Gate = request.app.state.parts.gate
    entry = entry_of(request.scope)
    entry["run"] = run[:200]
    address = request.client.host if request.client else ""
    caller = await gate.who(request.headers.get("Authorization"), address, looks_up=looks_up)
    entry |= {"namespace": caller.namespace, "account": caller.account, "pod": caller.pod}
    return await gate.admit(caller, run, request.headers.get(_KEY_HEADER, ""), claims=claims)


def _refuse_over(admitted: Admitted) -> None:
    if admitted.state is RunState.CLOSED:
        raise errors.CallerError("RunClosed", "the run is closed: there is nothing left to do")
    if not admitted.rollout_open:
        raise errors.CallerError("RunOver", "the run's rollout is over")


_ROUTES = fastapi.APIRouter()


@_ROUTES.get(
    "/v1/runs/{run}",
    operation_id="getRun",
    response_model=protocol.RunRequest,
    responses=_problems(401, 403, 404, 409, 429, 503),
)
async def get_run(admitted: Annotated[Admitted, Depends(_admit_first)], request: Request) -> Response:
    """Return the run request: what this pod is asked to do.

    `run`, `attempt` and `shard` in it are who the server takes the pod for; its report must repeat the first two. A
    header `Dagbundle-Key`, 64 hexadecimal digits, holds all later requests of the pod to the same one.
    """
    parts: _Parts = request.app.state.parts
    _refuse_over(admitted)
    zipped = "gzip" in request.headers.get("Accept-Encoding", "")
    return await requests.answer(parts.store, admitted, parts.settings, parts.workers, zipped=zipped)


@_ROUTES.get(
    "/v1/runs/{run}/variables/{key:path}",
    operation_id="getVariable",
    response_model=Variable,
    responses=_problems(401, 403, 404, 409, 413, 429, 503),
)
async def get_variable(key: str, admitted: Annotated[Admitted, Depends(_admit_lookup)], request: Request) -> Response:
    """Return a Variable that a DAG file reads while it is parsed, where the bundle may read it."""
    return await _value(admitted, request, "variable", key)


@_ROUTES.get(
    "/v1/runs/{run}/connections/{key:path}",
    operation_id="getConnection",
    response_model=Connection,
    responses=_problems(401, 403, 404, 409, 413, 429, 503),
)
async def get_connection(key: str, admitted: Annotated[Admitted, Depends(_admit_lookup)], request: Request) -> Response:
    """Return a Connection, likewise."""
    return await _value(admitted, request, "connection", key)


async def _value(admitted: Admitted, request: Request, kind: LookupKind, key: str) -> Response:
    parts: _Parts = request.app.state.parts
    entry_of(request.scope)["key"] = key[:MOST_KEY]
    body = await parts.values.answer(admitted, kind, key)
    return Response(body, headers={"Cache-Control": "no-store"}, media_type="application/json")


@_ROUTES.post(
    "/v1/runs/{run}/report",
    operation_id="sendReport",
    response_model=Taken,
    responses=_problems(400, 401, 403, 404, 408, 409, 413, 415, 429, 503),
    openapi_extra=_REPORT_BODY,
)
async def send_report(admitted: Annotated[Admitted, Depends(_admit)], request: Request) -> Response:
    """Take a report, whole or not at all: what was cut, or cannot be trusted, counts for nothing.

    The same report can be sent again, by the same pod, as often as its answer is lost.
    """
    parts: _Parts = request.app.state.parts
    entry = entry_of(request.scope)
    body = Body(request.receive)
    result = "InternalError"
    try:
        state = await _taken(admitted, request, body, parts.reports)
        result = state.value
        return Response(json.dumps({"state": state}), media_type="application/json")
    except Disconnected:
        result = entry["reason"] = "CutReport"
        return Response(status_code=400)  # for the log: nobody hears it
    except errors.DagBundleError as error:
        refusal = problems.refusal(error)
        result = entry["reason"] = refusal.reason
        entry["detail"] = refusal.message
        told = problems.response(refusal.told, problems.detail_of(refusal))
        return problems.Lingering(told, request.receive if body.begun else None)
    finally:
        entry["bytes"] = body.received
        entry["result"] = result
        parts.metrics.reports.labels(result).inc()


@_ROUTES.get("/healthz", operation_id="isAlive", response_class=PlainTextResponse)
async def is_alive() -> str:
    """Answer, as long as the server does."""
    return "ok\n"


async def _taken(admitted: Admitted, request: Request, body: Body, reports: Reports) -> RunState:
    """Decide by the run's state whether its report is wanted, and take it."""
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if encoding not in {"gzip", "identity"}:
        raise errors.CallerError("UnknownEncoding", f"reports in {encoding[:40]!r} are not taken")
    if admitted.state is RunState.CLOSED and not admitted.own:
        raise errors.CallerError("RunClosed", "another attempt has closed the run")
    if admitted.state is RunState.FAILED and admitted.own:
        return RunState.FAILED  # told again, because the answer was lost
    if not admitted.rollout_open and admitted.state is not RunState.CLOSED:
        raise errors.CallerError("RunOver", "the run's rollout is over")
    return await reports.take(admitted, body)


def _without_validation(schema: dict[str, Any]) -> dict[str, Any]:
    """Leave out FastAPI's own 422: any text is a run's name, and reports are checked by the protocol."""
    for path in schema["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
    return schema


def _handle_errors(app: fastapi.FastAPI) -> None:
    """Answer every error as a problem, and let the log know the real reason."""

    def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, errors.DagBundleError)  # noqa: S101 - registered for no other; tells the type checker
        refusal = problems.refusal(error)
        entry_of(request.scope).update(reason=refusal.reason, detail=refusal.message)
        return problems.response(refusal.told, problems.detail_of(refusal))

    def misroute(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - likewise
        reason = "MethodNotAllowed" if error.status_code == 405 else "NotFound"  # noqa: PLR2004 - HTTP
        entry_of(request.scope)["reason"] = reason
        return problems.response(reason, "")

    def fail(_request: Request, _error: Exception) -> Response:
        return problems.response("InternalError", "")

    app.add_exception_handler(Exception, fail)
    app.add_exception_handler(errors.DagBundleError, refuse)
    app.add_exception_handler(HTTPException, misroute)
