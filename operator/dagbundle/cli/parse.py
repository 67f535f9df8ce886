"""`parse`: what a DAG author's loop needs, files in and DAGs or errors out, without a store."""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dagbundle import errors
from dagbundle.cli import options, output, progress
from dagbundle.cli.exits import Exit
from dagbundle.runtime.process import ParserProcess

if TYPE_CHECKING:
    from dagbundle.engine.collecting import MemorySink


def parse(
    paths: Annotated[
        list[pathlib.Path], typer.Argument(help="DAG files, or folders of them.", metavar="PATH…", show_default=False)
    ],
    processes: Annotated[int, typer.Option("--processes", "-P", min=1, max=64, help="Files at a time (AIP-43).")] = 2,
    file_timeout: Annotated[
        str, typer.Option("--file-timeout", help="Longest time for one file: `30s`, `2m`.")
    ] = "30s",
    python: options.Python = None,
    quiet: options.Quiet = False,
    out: options.Output = output.Format.TEXT,
) -> None:
    """Parse DAG files in isolation and show their DAGs and errors; nothing is stored."""
    root, only = _root_of(paths)
    with ParserProcess(python, ahead=True) as parser:  # nothing is remembered, so every file will be parsed
        sink = _parsed(root, only, python, parser, file_timeout=file_timeout, processes=processes, quiet=quiet)
    ended = Exit.KEPT_BACK if any(file.outcome.problems for file in sink.files.values()) else Exit.OK
    if out is output.Format.TEXT:
        _show(sink)
    else:
        output.document(_document(sink), out, ended)
    raise typer.Exit(ended)


def _parsed(
    root: pathlib.Path,
    only: tuple[str, ...],
    python: str | None,
    parser: ParserProcess,
    *,
    file_timeout: str,
    processes: int,
    quiet: bool,
) -> MemorySink:
    from dagbundle.engine import collecting  # noqa: PLC0415 - loaded while the parser comes up
    from dagbundle.resources import base  # noqa: PLC0415 - likewise
    from dagbundle.resources import bundle as bundle_models  # noqa: PLC0415 - likewise
    from dagbundle.rollout import plan  # noqa: PLC0415 - likewise
    from dagbundle.runtime.local import LocalRuntime  # noqa: PLC0415 - likewise

    settings = base.validate(
        bundle_models.Parser, {"fileTimeout": file_timeout, "processes": processes}, what="the parser's settings"
    )
    sink = collecting.MemorySink()
    with progress.shown(quiet=quiet) as watch:
        collecting.carry_out(
            [plan.RunPlan(".", (), None, None)],
            collecting.RunSettings("parse", "local.parse", settings, force=True, only=only),
            runtime=LocalRuntime(root, python=python, standing_by=parser),
            sink=sink,
            watch=watch,
        )
    (run,) = sink.outcomes()
    if not run.closed:
        raise errors.RunError(f"{root} could not be parsed: {run.failure}")
    return sink


def _root_of(paths: list[pathlib.Path]) -> tuple[pathlib.Path, tuple[str, ...]]:
    """Choose the bundle's root for some paths, and the files below it to parse (none: all).

    A single folder is a root. Files have their common folder as root, as a bundle made of them would.
    """
    absolute = [pathlib.Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100 - resolve() would follow links
    for path in absolute:
        if not path.exists():
            raise errors.UsageError(f"{path} is not there")
    if len(absolute) == 1 and absolute[0].is_dir():
        return absolute[0], ()
    root = pathlib.Path(os.path.commonpath([path if path.is_dir() else path.parent for path in absolute]))
    return root, tuple(sorted(path.relative_to(root).as_posix() for path in absolute))


def _show(sink: MemorySink) -> None:
    dags = broken = 0
    for path, file in sorted(sink.files.items()):
        outcome = file.outcome
        typer.secho(f"{output.printable(path)}  {outcome.duration:.3f} s", bold=True)
        for content in file.contents:
            dags += 1
            typer.secho(
                f"    {output.printable(content.dag_id)}: {output.counted(len(content.tasks), 'task')}",
                fg=typer.colors.GREEN,
            )
        broken += bool(outcome.problems)
        for problem in outcome.problems:
            line = f" (line {problem.line})" if problem.line else ""
            typer.secho(f"    {output.printable(problem.kind)}{line}", fg=typer.colors.RED)
            typer.echo(output.block(problem.message.strip(), "        "))
        for warning in outcome.warnings:
            text = f"    {output.printable(warning.category)}: {output.printable(warning.message)}"
            typer.secho(text, fg=typer.colors.YELLOW)
    counts = ((len(sink.files), "file"), (dags, "DAG"), (broken, "broken file"))
    typer.echo(", ".join(output.counted(number, noun) for number, noun in counts))


def _document(sink: MemorySink) -> dict[str, Any]:
    from dagbundle.rollout import content as contents  # noqa: PLC0415 - usage errors answer before this is loaded

    return {
        "airflow": sink.airflow,
        "dags": [
            {
                "dag_id": content.dag_id,
                "relative_fileloc": content.relative_fileloc or path,
                "dag_hash": content.dag_hash,
                "sha256": content.sha256,
                "data": contents.join(content),
            }
            for path, file in sorted(sink.files.items())
            for content in file.contents
        ],
        "files": [
            {
                "path": path,
                "duration": file.outcome.duration,
                "errors": output.plain(file.outcome.problems),
                "warnings": output.plain(file.outcome.warnings),
                "loader": file.loader,
                "memory": file.memory,
            }
            for path, file in sorted(sink.files.items())
        ],
    }
