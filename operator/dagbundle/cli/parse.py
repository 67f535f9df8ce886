"""`parse`: what a DAG author's loop needs, files in and DAGs or errors out, without a store."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dagbundle import errors
from dagbundle.cli import advice, inputs, options, output, progress, roots
from dagbundle.cli.exits import Exit
from dagbundle.runtime.process import ParserProcess

if TYPE_CHECKING:
    from dagbundle.engine.collecting import MemorySink
    from dagbundle.rollout.model import Problem, StagedFile


def parse(
    paths: Annotated[
        list[pathlib.Path],
        typer.Argument(help="DAG files, or folders of them.", parser=options.path, metavar="PATH…", show_default=False),
    ],
    root: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--root",
            help="The bundle's root. Default: the folder; of files the one above with a manifest or DagBundle.",
            parser=options.path,
            metavar="PATH",
            show_default=False,
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            "-P",
            min=1,
            max=64,
            help="Files at a time (AIP-43). Default: the manifest's, else 2.",
            show_default=False,
        ),
    ] = None,
    file_timeout: Annotated[
        str, typer.Option("--file-timeout", help="Longest time for one file: `30s`, `2m`.")
    ] = "30s",
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show what good files print, too, not only what broken ones do.")
    ] = False,
    python: options.Python = None,
    quiet: options.Quiet = False,
    out: options.Output = output.Format.TEXT,
) -> None:
    """Parse DAG files in isolation and show their DAGs and errors; nothing is stored."""
    python = inputs.interpreter(python)
    with ParserProcess(python, ahead=True) as parser:  # nothing is remembered, so every file will be parsed
        selected = roots.select(paths, root)
        whole = roots.needs_all_files(selected)
        wanted = selected._replace(files=()) if whole else selected
        sink = _parsed(wanted, python, parser, file_timeout=file_timeout, processes=processes, quiet=quiet)
    if whole:
        _settle(sink)
        skipped = dict.fromkeys(_narrowed(sink, selected.files), _SKIPPED)
    else:
        skipped = _skipped(sink)
        _settle(sink)
    if not sink.files and not selected.files:
        raise _nothing_in(selected)
    _advise(sink)
    ended = Exit.KEPT_BACK if any(file.outcome.problems for file in sink.files.values()) else Exit.OK
    if out is output.Format.TEXT:
        typer.echo(f"root {output.printable(str(selected.root))} ({selected.why})")
        _show(sink, skipped, verbose=verbose)
    else:
        output.document({"root": str(selected.root), **_document(sink, list(skipped))}, out, ended)
    raise typer.Exit(ended)


def _parsed(
    selected: roots.Selection,
    python: str | None,
    parser: ParserProcess,
    *,
    file_timeout: str,
    processes: int | None,
    quiet: bool,
) -> MemorySink:
    from dagbundle.engine import collecting, events  # noqa: PLC0415 - loaded while the parser comes up
    from dagbundle.resources import base  # noqa: PLC0415 - likewise
    from dagbundle.resources import bundle as bundle_models  # noqa: PLC0415 - likewise
    from dagbundle.rollout import plan  # noqa: PLC0415 - likewise
    from dagbundle.runtime.local import LocalRuntime  # noqa: PLC0415 - likewise

    try:
        base.validate(bundle_models.Parser, {"fileTimeout": file_timeout}, what="--file-timeout")
    except errors.ResourceError:
        raise errors.UsageError(
            f"--file-timeout {file_timeout!r} is no time that a file can have",
            hint="write it as 30s, 2m or 1h30m; the least is 1s",
        ) from None
    inputs.manifest_of(selected.root)  # refused as an apply refuses it; the parser applies it
    settings = base.validate(
        bundle_models.Parser,
        {"fileTimeout": file_timeout, "processes": processes},
        what="the parser's settings",
    )
    sink = collecting.MemorySink()
    with progress.shown(quiet=quiet) as watch:
        collecting.carry_out(
            [plan.RunPlan(selected.subdir, (), None, None)],
            collecting.RunSettings("parse", "local.parse", settings, force=True, only=selected.files),
            runtime=LocalRuntime(selected.root, python=python, standing_by=parser),
            sink=sink,
            watch=lambda event: None if isinstance(event, events.RunEnded) else watch(event),  # the error says it
        )
    (run,) = sink.outcomes()
    if not run.closed:
        failed = dataclasses.replace(run, failure=advice.for_parse(run.failure))
        raise inputs.with_python_hint(collecting.error_of(failed, f"{selected.root} could not be parsed"))
    return sink


def _nothing_in(selected: roots.Selection) -> errors.UsageError:
    """Return the error of a folder without DAG files. Files without DAGs are none: pre-commit names helpers, too."""
    return errors.UsageError(
        f"nothing was parsed: {selected.root / selected.subdir} holds no file with DAGs",
        hint="DAGs are in Python that mentions airflow and dag, in YAML with tasks, or in a zip archive; what "
        ".airflowignore names does not count",
    )


def _advise(sink: MemorySink) -> None:
    """Put the next steps of this command into what the parser says of files."""
    for path, file in sink.files.items():
        if file.outcome.problems:
            problems = tuple(map(advice.problem_for_parse, file.outcome.problems))
            sink.files[path] = dataclasses.replace(file, outcome=file.outcome._replace(problems=problems))


def _skipped(sink: MemorySink) -> dict[str, str]:
    """Take out the files that a run of the whole folder would not look at; return their paths, and why.

    Who names many files, as pre-commit does, names helpers among them; one that is not there never comes so far.
    """
    skipped = {
        path: problem.message.partition(" is not listed: ")[2] or _SKIPPED
        for path, file in sorted(sink.files.items())
        for problem in file.outcome.problems
        if problem.kind == "NotListed"
    }
    for path in skipped:
        del sink.files[path]
    return skipped


def _narrowed(sink: MemorySink, wanted: Sequence[str]) -> list[str]:
    """Take out all but the wanted files and those that load one of them; return the wanted files that are not there."""
    kept = {path for path in wanted if path in sink.files}
    kept |= {reader for path in kept if (reader := _reader_of(sink.files[path])) in sink.files}
    for path in sink.files.keys() - kept:
        del sink.files[path]
    return sorted(set(wanted) - kept)


def _reader_of(file: StagedFile) -> str:
    """Return the Python file that loads a YAML file, and so has its DAGs; empty where none does."""
    return str(file.closure.get(_READ_BY, ""))


def _settle(sink: MemorySink) -> None:
    """Add what an apply would say of dag_ids that two files define."""
    from dagbundle.rollout import duplicates, judge  # noqa: PLC0415 - loaded while the parser comes up
    from dagbundle.rollout.model import BundleKey, Live, ParseWarning  # noqa: PLC0415 - likewise

    files = {(".", path): file.outcome for path, file in sink.files.items()}
    broken = {place: list(outcome.problems) for place, outcome in files.items() if outcome.problems}
    _, twice = judge.settle(files, broken, Live(BundleKey("local", "parse")))
    for (_, path), problems in broken.items():
        outcome = sink.files[path].outcome._replace(problems=tuple(problems))
        sink.files[path] = dataclasses.replace(sink.files[path], outcome=outcome)
    for item in twice:
        file = sink.files[item.loser]
        message = f"{duplicates.problem(item).message}; an apply would publish this file without it"
        warnings = (*file.outcome.warnings, ParseWarning("DuplicateDagId", message))
        sink.files[item.loser] = dataclasses.replace(file, outcome=file.outcome._replace(warnings=warnings))


def _show(sink: MemorySink, skipped: Mapping[str, str], *, verbose: bool) -> None:
    dags: set[str] = set()
    broken = 0
    for path, file in sorted(sink.files.items()):
        outcome = file.outcome
        typer.secho(f"{output.printable(path)}  {outcome.duration:.3f} s", bold=True)
        if reader := _reader_of(file):
            typer.echo(f"    {output.printable(reader)} loads it, and has its DAGs")
        for content in file.contents:
            dags.add(content.dag_id)
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
        if file.output.strip() and (outcome.problems or verbose) and not _is_quoted(outcome.problems):
            typer.echo(f"    It printed {output.counted(file.printed, 'byte')}, last:")
            typer.echo(output.block(output.end_of(file.output), "        "))
    for path, why in skipped.items():
        typer.echo(f"{output.printable(path)}  skipped: {output.printable(why)}")
    if not sink.files:
        typer.echo("Nothing was parsed: no file that was given holds DAGs.")
        return
    counts = ((len(sink.files), "file"), (len(dags), "DAG"), (broken, "broken file"))
    typer.echo(", ".join(output.counted(number, noun) for number, noun in counts))


_SKIPPED = ".airflowignore names it, or it does not look like it holds DAGs"
_READ_BY = "//read-by"
"""The key of a closure under which the parser says which Python file loads a YAML file."""
_QUOTED = ("\nIt printed last:\n", "\nIts process reported these calls, innermost first:\n")


def _is_quoted(problems: Sequence[Problem]) -> bool:
    """Tell whether an error quotes the output already, as the error of a file whose process died does."""
    return any(mark in problem.message for problem in problems for mark in _QUOTED)


def _document(sink: MemorySink, skipped: Sequence[str]) -> dict[str, Any]:
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
                "readBy": _reader_of(file) or None,
                "memory": file.memory,
                "output": {"bytes": file.printed, "text": file.output},
            }
            for path, file in sorted(sink.files.items())
        ],
        "skipped": skipped,
    }
