"""Exit codes, so that scripts can tell what happened. docs/cli.md lists them; a test holds the two together."""

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
    """Published, but something was kept back: broken files, or a subdir with scope Subdir. `parse`: broken files."""
    BLOCKED = 4
    """Nothing was published: a guard, `onImportError: Fail`, a run that did not finish, a hold, `suspend`."""
    FAILED = 5
    """Not carried out: the parser or the database said no, or you did; or nobody reads the output."""
    RETRY = 75
    """The database was locked, restarting or gone, or somebody was faster: call again (75 is EX_TEMPFAIL)."""
