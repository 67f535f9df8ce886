"""Escapes control characters, so that no text of a tenant moves a cursor, changes a title or hides a line.

Answers of the command line, conditions and Events quote such texts, and are read on terminals.
"""

from __future__ import annotations


def printable(text: str, *, keep: str = "") -> str:
    """Escape control characters.

    Args:
        text: Any text.
        keep: Characters that stay as they are, such as line ends.
    """
    return "".join(char if char.isprintable() or char in keep else repr(char)[1:-1] for char in text)
