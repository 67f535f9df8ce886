"""Makes the table of values in the chart's README from the comments in values.yaml: `python charts/document.py`.

A comment `# -- …` stands before its value and may go on over several lines. A value that has no comment is an error,
so that none stays unexplained; a test runs this and compares.
"""  # noqa: INP001 - beside the chart, not a package

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import yaml

CHART = pathlib.Path(__file__).parent / "dagbundle-operator"
BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"
_KEY = re.compile(r"( *)([A-Za-z]\w*):(.*)")


def explained(text: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted path and the comment of each value that has one."""
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            comment = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("#") and comment:
            comment.append(stripped.removeprefix("#").strip())
        elif match := _KEY.fullmatch(line):
            path = [*path[: len(match[1]) // 2], match[2]]
            if comment:
                yield ".".join(path), " ".join(comment)
            comment = []


def leaves(values: dict[str, Any], known: set[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and default of each value; one that is explained as a whole is not taken apart."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        if path not in known and isinstance(value, dict) and value:
            yield from leaves(value, known, f"{path}.")
        else:
            yield path, value


def table(text: str) -> str:
    """Return the table of all values of a values.yaml.

    Raises:
        ValueError: A value has no comment.
    """
    comments = dict(explained(text))
    rows = ["| value | default | meaning |", "| --- | --- | --- |"]
    for path, default in leaves(yaml.safe_load(text), set(comments)):
        if path not in comments:
            raise ValueError(f"values.yaml: {path} needs a comment that begins with `# -- `")
        rows.append(f"| `{path}` | `{json.dumps(default)}` | {comments[path]} |")
    return "\n".join(rows) + "\n"


def readme() -> str:
    """Return the README as it should be."""
    text = (CHART / "README.md").read_text()
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return before + BEGIN + table((CHART / "values.yaml").read_text()) + END + after


if __name__ == "__main__":
    (CHART / "README.md").write_text(readme())
