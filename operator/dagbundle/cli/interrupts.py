"""Says what an interrupt left behind: commands wrap what takes long, and `endings` shows the message."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

UNCHANGED = "nothing was changed"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, with the state that things are in as its text."""


@contextlib.contextmanager
def told(state: str | Callable[[], str] = UNCHANGED) -> Iterator[None]:
    """Add to an interrupt of the block which state things are in.

    Args:
        state: The words, or what finds them: it is called after the interrupt.
    """
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt:
        raise Interrupted(state if isinstance(state, str) else state()) from None


def of(error: BaseException) -> BaseException | None:
    """Return the interrupt that an exception is, or was raised from; None where there was none.

    Typer makes an exit of each interrupt.
    """
    found: BaseException | None = error
    while found is not None and not isinstance(found, KeyboardInterrupt):
        found = found.__cause__ or found.__context__
    return found
