"""Logs of the long-running processes: one JSON object per line for machines, or plain text for people.

What is passed as `extra` becomes fields. Nothing that came from a tenant can break a line: JSON escapes it, and text is
escaped likewise.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys

from dagbundle import errors

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}


class JsonFormatter(logging.Formatter):
    """One line of JSON per record: time (UTC), level, logger, message, fields, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
        line = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """Time, level, message and fields on one line, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
        fields = "".join(f" {name}={value!r}" for name, value in _fields(record).items())
        message = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in record.getMessage())
        line = f"{moment:%H:%M:%S} {record.levelname.lower():7} {message}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD and not name.startswith("_")}


def configure(form: str, level: str) -> None:
    """Send all logs to standard error.

    Args:
        form: `json` or `text`.
        level: `debug`, `info` or `warning`; of other people's libraries only warnings are shown.

    Raises:
        UsageError: Either is something else.
    """
    if form not in {"json", "text"}:
        raise errors.UsageError(f"log format {form!r} is neither json nor text")
    if level not in LEVELS:
        raise errors.UsageError(f"log level {level!r} is none of {', '.join(LEVELS)}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("dagbundle").setLevel(LEVELS[level])
