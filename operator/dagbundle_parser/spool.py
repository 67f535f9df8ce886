"""Keeps a report on disk while it is sent, so that it can be sent again from its beginning when a connection breaks.

One thread writes what the parser says, another reads it as often as it must. The file has no name, so nothing else in
the pod finds it; what is in it is compressed.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator

STILL_THERE = b"\x00\x00\x00\xff\xff"
"""An empty block of deflate: adds nothing to what is sent, and tells the server that somebody is."""
STILL_THERE_SECONDS = 10.0
_READ = 256 * 1024


class Abandoned(Exception):  # noqa: N818 - what was asked for, not an error
    """The report will not be finished: whoever sends it must break off."""


class Spool:
    """A gzip stream that is written once and read from its start as often as wanted.

    Args:
        folder: where the file is, unseen.

    Raises:
        OSError: the folder cannot be written, or is full.
    """

    def __init__(self, folder: str) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - as long as this object
        self._gzip = zlib.compressobj(level=6, wbits=31)
        self._changed = threading.Condition()
        self._size = 0
        self._flushed = True
        self._finished = False
        self._abandoned = False
        self.finished_at: float | None = None
        """By the monotonic clock."""

    @property
    def empty(self) -> bool:
        """Whether nothing was written yet."""
        return self._size == 0 and self._flushed

    def write(self, data: bytes) -> None:
        """Take the next part of the report."""
        self._append(self._gzip.compress(data), flushed=False)

    def flush(self) -> None:
        """Let a reader have all that was written."""
        if not self._flushed:
            self._append(self._gzip.flush(zlib.Z_SYNC_FLUSH), flushed=True)

    def finish(self) -> None:
        """Say that the report is whole."""
        self._append(self._gzip.flush(), flushed=True)
        with self._changed:
            self._finished = True
            self.finished_at = time.monotonic()
            self._changed.notify_all()

    def abandon(self) -> None:
        """Say that the report stays cut: readers break off."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()

    def wait_for_more_than(self, size: int, seconds: float) -> bool:
        """Wait for more than `size` bytes, or for the end; False when the time was up.

        Raises:
            Abandoned: the report stays cut.
        """
        with self._changed:
            found = self._changed.wait_for(lambda: self._size > size or self._finished or self._abandoned, seconds)
            if self._abandoned:
                raise Abandoned
            return found

    def chunks(self) -> Iterator[bytes]:
        """Yield the stream from its start to its end, waiting for what is not written yet.

        Raises:
            Abandoned: the report stays cut.
        """
        sent = 0
        while True:
            more = self.wait_for_more_than(sent, STILL_THERE_SECONDS)
            with self._changed:
                size, finished = self._size, self._finished
                between_blocks = self._flushed and size == sent and sent > 0
            if not more and between_blocks:
                yield STILL_THERE
            while sent < size:
                chunk = os.pread(self._file.fileno(), min(_READ, size - sent), sent)
                sent += len(chunk)
                yield chunk
            if finished:
                return

    def close(self) -> None:
        """Free the disk."""
        self._file.close()

    def _append(self, data: bytes, *, flushed: bool) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        with self._changed:
            self._size += len(data)
            self._flushed = flushed
            if data:
                self._changed.notify_all()
