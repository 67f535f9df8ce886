"""Keeps links right where a page of the site is not the file that a repository's browser shows."""

from __future__ import annotations

import os
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
COPIED = {
    "README.md": "readme",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "SECURITY.md": "vulnerabilities",
    "charts/dagbundle-operator/README.md": "chart",
    "examples/gitops/README.md": "gitops",
    "e2e/README.md": "stories",
}
"""Files outside of docs/ that are pages of the site, too, and what they are called in docs/generated/."""
_LINK = re.compile(r"\]\((?!https?://|mailto:|#|/)([^)#\s]+)((?:#[^)\s]*)?)\)")


def moved(text: str, source: pathlib.PurePath, page: pathlib.PurePath) -> str:
    """Return a text of the file `source` with links that work in the file `page`; both are relative to the root."""

    def one(match: re.Match[str]) -> str:
        target = pathlib.PurePath(os.path.normpath(source.parent / match[1]))
        if copy := COPIED.get(target.as_posix()):
            target = pathlib.PurePath("docs/generated", f"{copy}.md")
        return f"]({pathlib.PurePath(os.path.relpath(target, page.parent)).as_posix()}{match[2]})"

    return _LINK.sub(one, text)


def copies() -> dict[str, str]:
    """Return the text of each copied file by the name of its page."""
    return {
        name: moved(
            (ROOT / path).read_text("utf-8"), pathlib.PurePath(path), pathlib.PurePath("docs/generated/page.md")
        )
        for path, name in COPIED.items()
    }
