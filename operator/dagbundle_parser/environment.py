"""What a pod's environment says to `work`: where the store's server is, which run this is, and where to write.

It is read once and then taken out of the environment, which the bundle's code sees.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
import tempfile
import urllib.parse
from collections.abc import Mapping, MutableMapping

from dagbundle_parser.errors import RequestError

_PREFIX = "DAGBUNDLE_"
_SHARD = "JOB_COMPLETION_INDEX"
_MOST_TOKEN_BYTES = 64 * 1024


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the environment says.

    Attributes:
        url: where the store's server is.
        token_file: holds the token that lets this pod in; read for every request, because it is renewed.
        authority: certificates to trust, as PEM text; None trusts those of the system.
        run: which run; names it to the server.
        scratch: a folder that can be written, for the spool.
        shard: which shard this pod is; None in a Job without an index.
        ahead: import Airflow before the request is there, because something will have to be parsed.
        send_seconds: how long a report that is whole, or a request, may wait for the server.
        last_words: the file that Kubernetes reads a termination message from; none is made where there is none.
    """

    url: str
    token_file: str
    authority: str | None
    run: str
    scratch: str
    shard: int | None
    ahead: bool
    send_seconds: float
    last_words: str

    @classmethod
    def take(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings.

        Raises:
            RequestError: one is missing or cannot be used; it is named.
        """
        url = _needed(environ, "DAGBUNDLE_SERVER_URL")
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise RequestError(f"DAGBUNDLE_SERVER_URL must be an https URL, not {url!r}")
        if parts.scheme == "http" and not _is_local(url):
            raise RequestError(f"DAGBUNDLE_SERVER_URL is {url!r}: a token travels over https, or on this machine only")
        run = _needed(environ, "DAGBUNDLE_RUN")
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,200}", run):
            raise RequestError(f"DAGBUNDLE_RUN is no run's name: {run!r}")
        token_file = _needed(environ, "DAGBUNDLE_TOKEN_FILE")
        try:
            read_token(token_file)
        except OSError as error:
            raise RequestError(f"DAGBUNDLE_TOKEN_FILE cannot be used: {error}") from error
        return cls(
            url=url,
            token_file=token_file,
            authority=environ.get("DAGBUNDLE_SERVER_CA") or None,
            run=run,
            scratch=environ.get("DAGBUNDLE_SCRATCH") or tempfile.gettempdir(),
            shard=_number(environ, _SHARD),
            ahead=environ.get("DAGBUNDLE_AHEAD") == "1",
            send_seconds=_number(environ, "DAGBUNDLE_SEND_TIMEOUT") or 300.0,
            last_words=last_words_of(environ),
        )


def hide(environ: MutableMapping[str, str] = os.environ) -> None:
    """Take out what is nobody's business but this process's, and what differs between shards of one subdir."""
    for name in [name for name in environ if name.startswith(_PREFIX) or name == _SHARD]:
        del environ[name]


def last_words_of(environ: Mapping[str, str]) -> str:
    """The file that Kubernetes reads a termination message from."""
    return environ.get("DAGBUNDLE_TERMINATION_LOG") or "/dev/termination-log"


def read_token(path: str) -> str:
    """The token as it is now.

    Raises:
        OSError: it cannot be read, or is none.
    """
    with open(path, "rb") as file:  # noqa: PTH123 - nothing else is needed of it
        text = file.read(_MOST_TOKEN_BYTES).decode("ascii", "replace").strip()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise OSError(f"{path} holds no token")
    return text


def _is_local(url: str) -> bool:
    """Whether a URL is of this machine, so that nothing travels over a network."""
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _needed(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name)
    if not value:
        raise RequestError(f"{name} is not set: `work` is started by the operator, in a pod; use `run` elsewhere")
    return value


def _number(environ: Mapping[str, str], name: str) -> int | None:
    value = environ.get(name)
    if not value:
        return None
    if not value.isascii() or not value.isdigit():
        raise RequestError(f"{name} must be a whole number, not {value!r}")
    return int(value)
