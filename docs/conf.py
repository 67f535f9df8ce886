"""The site of the documentation, as `make docs` builds it: every warning of Sphinx is an error there.

The pages are the Markdown files of this folder, which read as well in a repository's browser. Pages in `generated/` are
written from the code before each build (tools/generate.py), pictures there from the Mermaid blocks (tools/pictures.py).
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE / "tools"))

import links  # noqa: E402 - beside this file, which is no package
import pictures  # noqa: E402 - likewise

project = "dagbundle-operator"
author = "The dagbundle-operator authors"
copyright = author  # noqa: A001 - Sphinx's name for it
extensions = ["myst_parser"]
exclude_patterns = ["tools", "_build", "Thumbs.db"]
html_theme = "furo"
html_title = "dagbundle-operator"
html_show_sphinx = False
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nitpicky = True
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def _as_a_page(_app: Any, name: str, source: list[str]) -> None:
    """Put rendered pictures in the place of Mermaid blocks, and let links to copied files lead to the copies."""
    page = pathlib.PurePath("docs", f"{name}.md")
    source[0] = links.moved(pictures.replaced(source[0], HERE), page, page)


def setup(app: Any) -> None:
    """Register what this file adds to Sphinx."""
    app.connect("source-read", _as_a_page)
