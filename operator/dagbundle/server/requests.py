"""Tells a pod what it is asked to do: the recorded run request, with what is remembered of the subdir's files.

That may be many MiB, so it is read in pages and sent as it is read: an answer holds one page, and no connection of the
database while its client reads. A page that cannot be read ends the answer in the middle, and the parser asks again.
"""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import AsyncIterator, Sequence

from starlette.responses import Response, StreamingResponse

from dagbundle.engine import collecting
from dagbundle.resources import protocol
from dagbundle.rollout import budgets
from dagbundle.rollout.model import KnownFile
from dagbundle.server.access import Admitted
from dagbundle.server.settings import Settings
from dagbundle.server.workers import Workers
from dagbundle.store.dagstore import DagStore

_COMPRESS_FROM = 1024
_HEADERS = {"Vary": "Accept-Encoding"}
_ZIPPED = {**_HEADERS, "Content-Encoding": "gzip"}
_JSON = "application/json"


async def answer(
    store: DagStore, admitted: Admitted, settings: Settings, workers: Workers, *, zipped: bool
) -> Response:
    """Return the answer with a pod's run request.

    Args:
        store: Knows the files.
        admitted: Who asks.
        settings: Bounds that the parser is told.
        workers: Read the pages.
        zipped: The client takes gzip.

    Raises:
        StoreUnavailableError: The database is away.
    """
    pages = _Pages(store, admitted, workers)
    first = await pages.read()
    begin = _beginning(store, admitted, settings)
    if pages.over:
        body = begin + _entries(first) + b"}}"
        small = len(body) < _COMPRESS_FROM or not zipped
        if not small:
            body = await workers.run(lambda: _zip_whole(body), admitted.job.namespace)
        return Response(body, headers=_HEADERS if small else _ZIPPED, media_type=_JSON)
    chunks = _chunks(begin, first, pages)
    if zipped:
        return StreamingResponse(_zip(chunks, workers, admitted.job.namespace), headers=_ZIPPED, media_type=_JSON)
    return StreamingResponse(chunks, headers=_HEADERS, media_type=_JSON)


class _Pages:
    """Reads what is remembered, page by page."""

    def __init__(self, store: DagStore, admitted: Admitted, workers: Workers) -> None:
        self._store = store
        self._job = admitted.job
        self._workers = workers
        self._after = ""
        self._counted = budgets.Known()
        self.over = bool(admitted.job.request.get("force"))

    async def read(self) -> Sequence[KnownFile]:
        """Return the next page."""
        if self.over:
            return ()
        page = await self._workers.run(
            lambda: self._store.known_page(
                self._job.bundle, self._job.subdir, after=self._after, counted=self._counted
            ),
            self._job.namespace,
        )
        self.over = not page.more
        self._after, self._counted = page.last, page.counted
        return page.files


def _beginning(store: DagStore, admitted: Admitted, settings: Settings) -> bytes:
    """Complete a recorded run request with what is only known now, up to the first remembered file."""
    job = admitted.job
    document = {
        "runAsUser": None,  # the pod runs as it already
        **job.request,
        "values": store.target is not None,
        "run": job.run_id,
        "attempt": admitted.attempt,
        "shard": admitted.shard,
        "shards": job.shards,
        "known": {},
    }
    request = protocol.RunRequest.model_validate(document)
    limits = {**request.limits, "reportBytes": min(request.limits.get("reportBytes", 1 << 40), settings.record_bytes)}
    text = request.model_copy(update={"limits": limits}).model_dump_json(by_alias=True, exclude={"known"})
    return f'{text[:-1]},"known":{{'.encode()


def _entries(files: Sequence[KnownFile]) -> bytes:
    """Write some remembered files as members of a JSON object, without its braces."""
    known = collecting.known_document({file.path: file for file in files})
    return json.dumps(known, separators=(",", ":")).encode("ascii")[1:-1]


async def _chunks(begin: bytes, first: Sequence[KnownFile], pages: _Pages) -> AsyncIterator[bytes]:
    yield begin
    page, comma = first, b""
    while True:
        if text := _entries(page):
            yield comma + text
            comma = b","
        if pages.over:
            break
        page = await pages.read()
    yield b"}}"


async def _zip(chunks: AsyncIterator[bytes], workers: Workers, namespace: str) -> AsyncIterator[bytes]:
    packer = zlib.compressobj(1, wbits=31)
    async for chunk in chunks:
        packed = await workers.run(functools.partial(packer.compress, chunk), namespace)
        if packed:
            yield packed
    yield packer.flush()


def _zip_whole(body: bytes) -> bytes:
    packer = zlib.compressobj(1, wbits=31)
    return packer.compress(body) + packer.flush()
