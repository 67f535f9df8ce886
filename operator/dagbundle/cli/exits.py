"""Exit codes, so that scripts can tell what happened: 0 is done, 1 is different, all above 1 is not done, or not all.

Nothing else ends with 1: it is what Python ends with when a program fails. docs/cli.md has the table; tests walk it.
"""

from __future__ import annotations

import enum


class Exit(enum.IntEnum):
    """What a command's exit code means."""

    OK = 0
    """Done; for `apply`: the desired version is published and nothing was kept back."""
    DIFFERENT = 1
    """`diff --exit-code` found differences, or `--check-determinism` found drift."""
    USAGE = 2
    """The command, the resource, the grants or the manifest is not valid."""
    KEPT_BACK = 3
    """Published, but something was kept back: broken files, or a subdir. `parse`, `diff`: there are broken files."""
    BLOCKED = 4
    """Nothing was published: a guard, `onImportError: Fail`, a hold, `suspend`, files that changed meanwhile."""
    FAILED = 5
    """Not carried out: a run did not finish; the parser, the database, the target or the cluster refused, or you
    answered no; or the output cannot be written."""
    INTERNAL = 70
    """A fault of dagbundle itself, with its traceback: please report it (70 is EX_SOFTWARE)."""
    RETRY = 75
    """The database was locked, restarting or gone, or somebody was faster: call again (75 is EX_TEMPFAIL)."""
    INTERRUPTED = 130
    """Ctrl-C or SIGTERM: parsers are ended and nothing more is done; the message has the state that this leaves."""
