"""The words of a judgement's message: counts, names and quoted errors, none of them long."""

from __future__ import annotations

from collections.abc import Collection

from dagbundle.rollout import policy as policies
from dagbundle.rollout.model import FileProblem, Hold, Live, short_version

_QUOTED = 3
"""How many errors a judgement's message quotes, each by its first line."""
_QUOTED_LENGTH = 1_000
"""Characters of a first line that is quoted whole; the status of a DagBundle holds 4,000 in all."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def refused(hold: Hold) -> str:
    """Name what a hold refuses: a revision's spec and version, since two revisions may have the same version."""
    version = f"version {short_version(hold.version)}"
    return f"revision {hold.revision} ({version})" if hold.revision else version


def held(live: Live, hold: Hold) -> str:
    """Say what is held, and what ends that.

    Args:
        live: The bundle as it is published now.
        hold: The hold.
    """
    same = "The version that is live is the same: only the spec differs. " if hold.version == live.version else ""
    return (
        f"{refused(hold)} was rolled back and is held: {hold.reason}. {same}"
        f"`dagbundle resume {live.bundle.namespace}/{live.bundle.name}` lifts the hold; another version or another "
        "spec is published without that"
    )


def said(problems: Collection[FileProblem]) -> str:
    """Quote the first errors, for readers who see only the condition; the store has all of them."""
    quoted = []
    for item in list(problems)[:_QUOTED]:
        kind, text = item.problem.kind, item.problem.message.strip().partition("\n")[0].strip()
        line = f", line {item.problem.line}" if item.problem.line else ""
        said = text if text.startswith(kind) else f"{kind}: {text}"
        cut = "…" if len(said) > _QUOTED_LENGTH else ""
        quoted.append(f"{item.path}{line}: {said[:_QUOTED_LENGTH]}{cut}")
    return "".join(f"; {text}" for text in quoted)


def limit(limit: policies.Limit, allowed: int) -> str:
    """Return a guard's limit as its spec has it, with the number that it means."""
    return f"{limit} (that is {allowed})" if isinstance(limit, str) else f"{limit}"


def names(names: Collection[str]) -> str:
    """Return the first few of some names."""
    shown = sorted(names)
    few = 5
    return ", ".join(shown[:few]) + (f" and {len(shown) - few} more" if len(shown) > few else "")
