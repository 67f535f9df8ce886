"""Options that several commands share, described once."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from dagbundle.cli import output


def path(text: str) -> pathlib.Path:
    """Read a path. An empty one, as of a variable that is not set, would be the current folder."""
    if not text:
        raise typer.BadParameter("the path is empty: is a variable not set?")
    return pathlib.Path(text)


def filled(text: str | None) -> str | None:
    """Refuse an empty option, as of a variable that is not set: it would count as one that was not given."""
    if text is not None and not text.strip():
        raise typer.BadParameter("it is empty: is a variable not set?")
    return text


Output = Annotated[output.Format, typer.Option("--output", "-o", help="How to show the answer.")]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        help="Database to use. Default: $DAGBUNDLE_DATABASE_URL, else SQLite in your data folder.",
        callback=filled,
        show_default=False,
    ),
]
File = Annotated[
    pathlib.Path,
    typer.Option(
        "--file",
        "-f",
        help="The DagBundle's YAML file; `-` is standard input, a folder all of its files.",
        parser=path,
        metavar="PATH",
        show_default=False,
    ),
]
Chosen = Annotated[
    str | None,
    typer.Option(
        "--bundle", "-b", help="Which DagBundle, as NAMESPACE/NAME, where -f holds several.", show_default=False
    ),
]
Folder = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--folder",
        help="Take the bundle's files from this folder instead of its source.",
        parser=path,
        metavar="PATH",
        show_default=False,
    ),
]
GrantsFile = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--grants",
        help="Grants file (`tenants: […]`). Default: nothing is limited.",
        parser=path,
        metavar="PATH",
        show_default=False,
    ),
]
Python = Annotated[
    str | None,
    typer.Option(
        "--python",
        help="Interpreter of the environment that has Airflow. Default: $DAGBUNDLE_PYTHON, else pyproject.toml's.",
        callback=filled,
        show_default=False,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Parse every file, even those that look unchanged.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
BundleName = Annotated[str, typer.Argument(help="The bundle, as NAMESPACE/NAME.", metavar="BUNDLE", show_default=False)]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="Longest list to show.")]
Cursor = Annotated[str | None, typer.Option("--cursor", help="Where the previous page ended.", show_default=False)]
LogFormat = Annotated[str, typer.Option("--log-format", envvar="DAGBUNDLE_LOG_FORMAT", help="`json` or `text`.")]
LogLevel = Annotated[
    str, typer.Option("--log-level", envvar="DAGBUNDLE_LOG_LEVEL", help="`debug`, `info` or `warning`.")
]
