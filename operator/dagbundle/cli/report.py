"""Shows what the engine did: the account of an apply, differences, drift."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import typer

from dagbundle.cli import inputs, output
from dagbundle.cli.exits import Exit
from dagbundle.engine import changes, collecting, determinism
from dagbundle.engine.applied import Applied
from dagbundle.rollout import diff, wording
from dagbundle.rollout.model import Change, FileProblem, Judgement, RunOutcome, Verdict, short_version
from dagbundle.store.dagstore import DagStore

_SIGNS = {
    Change.ADDED: ("+", typer.colors.GREEN),
    Change.CHANGED: ("~", typer.colors.YELLOW),
    Change.MOVED: (">", typer.colors.CYAN),
    Change.KEPT: ("=", typer.colors.MAGENTA),
    Change.REMOVED: ("-", typer.colors.RED),
}
_VALUE_WIDTH = 60
_FIELDS_SHOWN = 20
_SHOWN_WARNINGS = 10
_DECISIONS = frozenset(
    {"EmptyListing", "Held", "ImportErrors", "SourceChanged", "Suspended", "TooManyImportErrors", "TooManyRemovedDags"}
)
"""Reasons of blocks that somebody or a guard decided. With every other reason something could not be carried out."""


def exit_of(applied: Applied) -> Exit:
    """Return the exit code that an apply, a dry run or a rollback ends with.

    What also ends as an error, in `parse` or a rollback, has the code of that error.
    """
    if applied.judgement.verdict is Verdict.BLOCK:
        if applied.judgement.reason in _DECISIONS:
            return Exit.BLOCKED
        return Exit.USAGE if any(collecting.is_manifest_invalid(run) for run in applied.runs) else Exit.FAILED
    if applied.judgement.reason == "RolledBack":
        return Exit.KEPT_BACK if applied.judgement.problems else Exit.OK
    return Exit.OK if applied.judgement.ready and not applied.is_empty else Exit.KEPT_BACK


def _verb(applied: Applied) -> str:
    """Return what an apply that publishes nothing begins its last line with: only a decision blocks."""
    if applied.judgement.verdict is not Verdict.BLOCK:
        return ""
    return "Blocked: " if exit_of(applied) is Exit.BLOCKED else "Failed: "


def _python_hint(result: Applied) -> None:
    if any(inputs.lacks_airflow(run.failure) for run in result.runs):
        typer.echo(f"Hint: {inputs.PYTHON_HINT}")


def applied(result: Applied, store: DagStore, out: output.Format, *, details: bool = False) -> None:
    """Show what an apply did, or would do."""
    if out is not output.Format.TEXT:
        output.document(_document(result), out, exit_of(result))
        return
    judgement = result.judgement
    arrow = (
        f"revision {result.base_revision} → {result.revision}"
        if result.revision != result.base_revision
        else (f"revision {result.revision}" if result.revision else "never published")
    )
    name = f"{result.bundle.namespace}/{result.bundle.name}"
    typer.secho(f"{name}  version {short_version(result.version)}  {arrow}", bold=True)
    for run in result.runs:
        typer.echo(f"  {_run_line(run, judgement.problems)}")
    if judgement.changes and judgement.verdict is Verdict.BLOCK:
        typer.echo(
            "Without what blocks it, an apply would:"
            if result.dry_run
            else "Nothing was published. It would have been:"
        )
    if details:
        _explained(changes.of_judgement(store, judgement, result.contents))
    else:
        _change_lines(result)
    _problems(judgement.problems)
    _warnings(result.runs)
    ended = exit_of(result)
    colour = {Exit.OK: typer.colors.GREEN, Exit.KEPT_BACK: typer.colors.YELLOW}.get(ended, typer.colors.RED)
    prefix = "Dry run, nothing was written. An apply would end as " if result.dry_run else ""
    verb = _verb(result)
    typer.secho(f"{prefix}{verb}{judgement.reason}: {output.printable(_summary(judgement))}", fg=colour)
    _python_hint(result)
    _notes(result)
    for bundle in result.rejudged:
        typer.echo(f"Also published {bundle.namespace}/{bundle.name}, which waited for a DAG that was let go of.")


def differences(found: Sequence[changes.Explained], out: output.Format, *, compared: Applied, exit_code: bool) -> Exit:
    """Show how files differ from what is live, task by task, and what could not be compared.

    Args:
        found: The differences.
        out: How to show them.
        compared: The dry run that they come from.
        exit_code: Whether differences end with a code of their own.

    Returns:
        The code to end with. That of the dry run comes first: where files are broken, or nothing could be parsed, no
        differences say nothing.
    """
    judgement = compared.judgement
    ended = exit_of(compared)
    if ended is Exit.OK:
        ended = Exit.KEPT_BACK if judgement.problems else Exit.DIFFERENT if found and exit_code else Exit.OK
    if out is not output.Format.TEXT:
        problems = _problem_documents(judgement.problems)
        _difference_document(found, out, ended, problems, judgement.reason, judgement.message)
        return ended
    _explained(found)
    _problems(judgement.problems)
    _warnings(compared.runs)
    _notes(compared)
    if ended not in {Exit.OK, Exit.DIFFERENT}:
        verb = _verb(compared) or "Not all could be compared: "
        colour = typer.colors.RED if judgement.verdict is Verdict.BLOCK else typer.colors.YELLOW
        typer.secho(f"{verb}{judgement.reason}: {output.printable(_summary(judgement))}", fg=colour)
        _python_hint(compared)
    elif not found:
        typer.echo("No differences.")
    return ended


def revisions(found: changes.Compared, out: output.Format, *, exit_code: bool) -> Exit:
    """Show what changed between two revisions of a bundle, and the broken files of both.

    Args:
        found: What was compared.
        out: How to show it.
        exit_code: Whether differences end with a code of their own.

    Returns:
        The code to end with. Broken files come first: a revision has older definitions of their DAGs, or none.
    """
    ended = Exit.DIFFERENT if found.items and exit_code else Exit.OK
    ended = Exit.KEPT_BACK if found.problems else ended
    told = {
        revision: f"revision {revision} has {output.counted(len({item.path for item in items}), 'broken file')}"
        for revision, items in found.problems.items()
    }
    if out is not output.Format.TEXT:
        problems = [
            {"revision": revision, **document}
            for revision, items in found.problems.items()
            for document in _problem_documents(items)
        ]
        _difference_document(found.items, out, ended, problems, None, "; ".join(told.values()) or None)
        return ended
    _explained(found.items)
    if not found.items:
        typer.echo("No differences.")
    for revision, items in found.problems.items():
        text = f"{told[revision].capitalize()}, whose DAGs are compared as this revision kept them:"
        typer.secho(text, fg=typer.colors.YELLOW)
        _problems(items)
    return ended


def _difference_document(
    found: Sequence[changes.Explained],
    out: output.Format,
    ended: Exit,
    problems: Sequence[dict[str, Any]],
    reason: str | None,
    message: str | None,
) -> None:
    document = {
        "items": [{**output.plain(item.change), "diff": output.plain(item.diff)} for item in found],
        "next_cursor": None,
        "problems": problems,
        "reason": reason,
        "message": message,
    }
    output.document(document, out, ended)


def drift(drifts: Sequence[determinism.Drift], out: output.Format) -> None:
    """Show which DAGs drift, and where; without drift the document is the apply's that follows."""
    if out is not output.Format.TEXT:
        if drifts:
            output.document(drifts, out, Exit.DIFFERENT)
        return
    for item in drifts:
        typer.secho(f"DAG {output.printable(item.dag_id)} in {output.printable(item.path)} drifts:", bold=True)
        _diff_lines(item.diff)
    if drifts:
        typer.echo(
            "These fields differ between two parses under different hash seeds, so every pass would publish a new "
            "version. Usual causes: a set that is iterated, the clock, random numbers. The apply did not begin: "
            "nothing was published."
        )
    else:
        typer.echo("Deterministic: two parses under different hash seeds are equal.")


def _notes_of(result: Applied) -> list[str]:
    """Return what else a user must see of an apply: holds that ended with it, and that no file holds DAGs."""
    done = "would be lifted" if result.dry_run else "is lifted"
    notes = [
        f"the hold on {wording.refused(hold)} {done}, because another version or another spec "
        f"{'would be' if result.dry_run else 'was'} published: {hold.reason}"
        for hold in result.lifted
    ]
    if result.judgement.verdict is Verdict.PUBLISH and result.is_empty:
        notes.append(
            "no file of the bundle holds DAGs: check --folder and spec.subdirs; `dagbundle parse FILE` shows why a "
            "file is skipped"
        )
    return notes


def _notes(result: Applied) -> None:
    for note in _notes_of(result):
        typer.secho(f"Note: {output.printable(note)}", fg=typer.colors.YELLOW)


def _warnings(runs: Sequence[RunOutcome]) -> None:
    """Show what warns in the files that were parsed: such as that a DAG is gone because nothing calls it."""
    found = [(file.path, item) for run in runs for file in run.files for item in file.warnings if not file.unchanged]
    for path, item in found[:_SHOWN_WARNINGS]:
        typer.secho(
            f"{output.printable(path)}: {output.printable(item.category)}: {output.printable(item.message)}",
            fg=typer.colors.YELLOW,
        )
    if len(found) > _SHOWN_WARNINGS:
        typer.echo(f"… and {len(found) - _SHOWN_WARNINGS} more warnings: `dagbundle parse` and `-o json` show them all")


def _summary(judgement: Judgement) -> str:
    """Return a judgement's message without the errors that it quotes: they were shown above, in full."""
    return judgement.message.replace(wording.said(judgement.problems), "")


def _run_line(run: RunOutcome, problems: Sequence[FileProblem]) -> str:
    """Count what a run brought: a dag_id of two files once, and what the judge finds broken with what did not load."""
    dags = {dag.dag_id for file in run.files for dag in file.dags}
    broken = {file.path for file in run.files if file.problems}
    broken |= {item.path for item in problems if item.subdir == run.subdir}
    unchanged = sum(file.unchanged for file in run.files)
    parts = [output.counted(len(run.files), "file"), output.counted(len(dags), "DAG")]
    parts += [f"{unchanged:,} unchanged"] if unchanged else []
    parts += [f"{len(broken):,} broken"] if broken else []
    return f"{output.printable(run.subdir)}: " + ", ".join(parts) + ("" if run.closed else ", did not finish")


def _change_lines(result: Applied) -> None:
    counts: dict[Change, int] = {}
    for change in result.judgement.changes:
        counts[change.change] = counts.get(change.change, 0) + 1
        if change.change in _SIGNS:
            sign, colour = _SIGNS[change.change]
            typer.secho(f"{sign} {output.printable(change.dag_id)}  {output.printable(change.path)}", fg=colour)
    if counts:
        typer.echo(", ".join(f"{number:,} {change.value.lower()}" for change, number in counts.items()))


def _problems(problems: Sequence[FileProblem]) -> None:
    for item in problems:
        line = f":{item.problem.line}" if item.problem.line else ""
        typer.secho(f"{output.printable(item.path)}{line}: {output.printable(item.problem.kind)}", fg=typer.colors.RED)
        typer.echo(output.block(item.problem.message.strip(), "    "))


def _problem_documents(problems: Sequence[FileProblem]) -> list[dict[str, Any]]:
    return [{"subdir": item.subdir, "path": item.path, **output.plain(item.problem)} for item in problems]


def _explained(found: Iterable[changes.Explained]) -> None:
    for item in found:
        sign, colour = _SIGNS[item.change.change]
        where = output.printable(item.change.path)
        typer.secho(f"{sign} {output.printable(item.change.dag_id)}  {where}", fg=colour, bold=True)
        if item.change.change in {Change.CHANGED, Change.MOVED}:
            _diff_lines(item.diff)
        elif item.change.change is Change.ADDED:
            typer.echo(f"    {output.counted(len(item.diff.tasks_added), 'task')}")


def _diff_lines(found: diff.DagDiff) -> None:
    _field_lines(found.fields, "    ")
    for sign, colour, names in (
        ("+ task", typer.colors.GREEN, found.tasks_added),
        ("- task", typer.colors.RED, found.tasks_removed),
        ("+ group", typer.colors.GREEN, found.groups_added),
        ("- group", typer.colors.RED, found.groups_removed),
        ("~ group", typer.colors.YELLOW, found.groups_changed),
        ("+ edge", typer.colors.GREEN, [f"{edge.upstream} → {edge.downstream}" for edge in found.edges_added]),
        ("- edge", typer.colors.RED, [f"{edge.upstream} → {edge.downstream}" for edge in found.edges_removed]),
    ):
        for name in names:
            typer.secho(f"    {sign} {output.printable(name) or '(root)'}", fg=colour)
    for task in found.tasks_changed:
        typer.secho(f"    ~ task {output.printable(task.task_id)}", fg=typer.colors.YELLOW)
        _field_lines(task.fields, "        ")


def _field_lines(fields: Sequence[diff.FieldChange], indent: str) -> None:
    for field in fields[:_FIELDS_SHOWN]:
        typer.echo(f"{indent}{output.printable(field.path)}: {_value(field.before)} → {_value(field.after)}")
    if len(fields) > _FIELDS_SHOWN:
        typer.echo(f"{indent}… {len(fields) - _FIELDS_SHOWN} more fields (-o json shows all)")


def _value(value: object) -> str:
    if value is None:
        return "(none)"
    text = output.printable(json.dumps(value, sort_keys=True, ensure_ascii=False))
    return text if len(text) <= _VALUE_WIDTH else f"{text[:_VALUE_WIDTH]}…"


def _document(result: Applied) -> dict[str, Any]:
    judgement = result.judgement
    return {
        "bundle": {"namespace": result.bundle.namespace, "name": result.bundle.name},
        "version": result.version,
        "baseRevision": result.base_revision,
        "revision": result.revision,
        "dryRun": result.dry_run,
        "verdict": judgement.verdict.value,
        "reason": judgement.reason,
        "message": judgement.message,
        "ready": judgement.ready,
        "changes": [output.plain(change) for change in judgement.changes if change.change is not Change.UNCHANGED],
        "unchanged": sum(change.change is Change.UNCHANGED for change in judgement.changes),
        "problems": _problem_documents(judgement.problems),
        "claims": [output.plain(claim) for claim in judgement.claims],
        "runs": [
            {
                "subdir": run.subdir,
                "closed": run.closed,
                "failure": run.failure,
                "files": [
                    {
                        "path": file.path,
                        "dags": [dag.dag_id for dag in file.dags],
                        "problems": len(file.problems),
                        "warnings": output.plain(file.warnings),
                        "unchanged": file.unchanged,
                        "duration": file.duration,
                    }
                    for file in run.files
                ],
            }
            for run in result.runs
        ],
        "notes": _notes_of(result),
        "rejudged": [f"{bundle.namespace}/{bundle.name}" for bundle in result.rejudged],
    }
