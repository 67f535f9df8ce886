"""`apply` and `diff`: the main job, from files to a published revision, and what it would change."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from dagbundle import errors
from dagbundle.cli import accounts, headstart, inputs, interrupts, naming, options, output, progress
from dagbundle.cli.exits import Exit

if TYPE_CHECKING:
    from dagbundle.engine.applied import Applied
    from dagbundle.resources import bundle as bundle_models
    from dagbundle.rollout import policy
    from dagbundle.runtime.local import LocalRuntime
    from dagbundle.runtime.process import ParserProcess
    from dagbundle.store.dagstore import DagStore


def apply(
    file: options.File,
    chosen: options.Chosen = None,
    local: Annotated[bool, typer.Option("--local", help="Parse on this machine (the only runtime so far).")] = False,
    folder: options.Folder = None,
    grants: options.GrantsFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Parse and judge, write nothing.")] = False,
    check_determinism: Annotated[
        bool,
        typer.Option("--check-determinism", help="Parse twice under different hash seeds; name the fields that drift."),
    ] = False,
    force: options.Force = False,
    python: options.Python = None,
    database_url: options.DatabaseUrl = None,
    quiet: options.Quiet = False,
    out: options.Output = output.Format.TEXT,
) -> None:
    """Parse a bundle's DAGs in isolation, judge the result, and publish it whole or not at all."""
    python = inputs.interpreter(python)
    if not local:
        raise errors.UsageError("only --local is there so far", hint="add --local to parse on this machine")
    prepared = None
    if check_determinism:  # standard input can be read once only
        prepared = _Prepared(file, chosen, folder, grants, python)
        _check_determinism(prepared, quiet=quiet, out=out)
    with headstart.parser(python, database_url, force=force) as parser:
        from dagbundle.cli import opening, report  # noqa: PLC0415 - loaded while the parser comes up

        prepared = prepared or _Prepared(file, chosen, folder, grants, python)
        with (
            opening.opened_store(database_url, missing="empty" if dry_run else "make") as store,
            interrupts.told(lambda: prepared.state_in(store)),
        ):
            applied = prepared.run(store, parser, dry_run=dry_run, force=force, quiet=quiet)
            report.applied(applied, store, out, details=dry_run)
    raise typer.Exit(report.exit_of(applied))


def _check_determinism(prepared: _Prepared, *, quiet: bool, out: output.Format) -> None:
    from dagbundle.cli import report  # noqa: PLC0415 - usage errors answer before this is loaded
    from dagbundle.engine import determinism  # noqa: PLC0415 - likewise

    with interrupts.told(), progress.shown(quiet=quiet) as watch:
        try:
            drifts = determinism.check(prepared.resource, prepared.runtime_with_seed, watch=watch)
        except errors.RunError as error:
            raise inputs.with_python_hint(error) from None
    report.drift(drifts, out)
    if drifts:
        raise typer.Exit(Exit.DIFFERENT)


def reserialize(
    file: options.File,
    chosen: options.Chosen = None,
    folder: options.Folder = None,
    grants: options.GrantsFile = None,
    python: options.Python = None,
    database_url: options.DatabaseUrl = None,
    quiet: options.Quiet = False,
    out: options.Output = output.Format.TEXT,
) -> None:
    """Apply with every file parsed again."""
    apply(
        file, chosen=chosen, local=True, folder=folder, grants=grants, force=True, python=python,
        database_url=database_url, quiet=quiet, out=out,
    )  # fmt: skip


def diff(
    bundle: Annotated[
        str | None, typer.Argument(help="The bundle, as NAMESPACE/NAME, to compare two revisions of.")
    ] = None,
    from_revision: Annotated[int | None, typer.Option("--from", help="Revision to compare from.")] = None,
    to_revision: Annotated[
        int | None, typer.Option("--to", help="Revision to compare to. Default: what is live.")
    ] = None,
    file: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--file",
            "-f",
            help="Compare what is live with this DagBundle's files; `-` is standard input.",
            parser=options.path,
            metavar="PATH",
        ),
    ] = None,
    chosen: options.Chosen = None,
    folder: options.Folder = None,
    grants: options.GrantsFile = None,
    python: options.Python = None,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="End with 1 when there are differences.")] = False,
    database_url: options.DatabaseUrl = None,
    quiet: options.Quiet = False,
    out: options.Output = output.Format.TEXT,
) -> None:
    """Show what changed, task by task: between two revisions of a bundle, or between what is live and a folder."""
    _check_form(
        bundle,
        file,
        {"--from": from_revision, "--to": to_revision},
        {"--bundle": chosen, "--folder": folder, "--grants": grants, "--python": python},
    )
    python = inputs.interpreter(python) if file else None
    with contextlib.ExitStack() as stack:
        parser = stack.enter_context(headstart.parser(python, database_url, force=False)) if file else None
        from dagbundle.cli import opening, report  # noqa: PLC0415 - loaded while the parser comes up
        from dagbundle.engine import changes  # noqa: PLC0415 - likewise

        store = stack.enter_context(opening.opened_store(database_url, missing="empty" if file else "refuse"))
        if file is not None:
            prepared = _Prepared(file, chosen, folder, grants, python)
            applied = prepared.run(store, parser, dry_run=True, force=False, quiet=quiet)
            found = changes.of_judgement(store, applied.judgement, applied.contents)
            ended = report.differences(found, out, compared=applied, exit_code=exit_code)
        else:
            key = naming.bundle(store, bundle or "")
            ended = report.revisions(changes.between(store, key, from_revision, to_revision), out, exit_code=exit_code)
    raise typer.Exit(ended)


def _check_form(
    bundle: str | None,
    file: pathlib.Path | None,
    of_revisions: Mapping[str, object],
    of_files: Mapping[str, object],
) -> None:
    """Refuse options of the other form of `diff`: ignored, they would make its answer one to another question.

    Args:
        bundle: The argument BUNDLE.
        file: The option -f.
        of_revisions: The options that compare two revisions of BUNDLE; None where one was not given.
        of_files: The options that compare files with what is live, likewise.

    Raises:
        UsageError: Both forms are given, or none, or an option of the other one.
    """
    revisions = "`dagbundle diff NAMESPACE/NAME --from 1 --to 2` compares two revisions"
    files = "`dagbundle diff -f FILE --folder FOLDER` compares a folder with what is live"
    if bundle is not None and file is not None:
        raise errors.UsageError(
            f"diff takes either a BUNDLE or -f FILE, and not both: {bundle} and -f {file}",
            hint=f"{revisions}, {files}; where FILE holds several DagBundles, --bundle chooses one",
        )
    if bundle is None and file is None:
        raise errors.UsageError("diff takes either a BUNDLE or -f FILE, and has none", hint=f"{revisions}, {files}")
    stray = [name for name, value in (of_revisions if file else of_files).items() if value is not None]
    if not stray:
        return
    names = " and ".join(stray)
    if file:
        raise errors.UsageError(
            f"{names} cannot be combined with -f: diff -f compares files with what is live, not with a revision",
            hint=f"leave out {names}; {revisions}",
        )
    raise errors.UsageError(
        f"{names} cannot be combined with BUNDLE alone: diff BUNDLE compares two revisions that are stored, and reads "
        "no files",
        hint=f"leave out {names}; {files}",
    )


class _Prepared:
    """A validated resource with its policy and runtime."""

    def __init__(
        self,
        file: pathlib.Path,
        chosen: str | None,
        folder: pathlib.Path | None,
        grants: pathlib.Path | None,
        python: str | None,
    ) -> None:
        from dagbundle.rollout import policy as policies  # noqa: PLC0415 - usage errors answer before this is loaded

        resource = inputs.resource(file, chosen)
        accounts.check(resource)
        if folder is None:
            raise errors.UsageError(
                f"DagBundle {resource.metadata.namespace}/{resource.metadata.name} takes its files from "
                f"{resource.spec.source}, which --local cannot unpack",
                hint="name the folder that holds its files with --folder",
            )
        self.folder = folder
        self.python = python
        inputs.manifest_of(folder)  # refused before anything is started; the parser applies it
        self.resource: bundle_models.DagBundle = resource
        self.rules: policy.Policy = policies.resolve(self.resource, inputs.grants(grants))
        self._began: list[str] = []

    def runtime_with_seed(self, seed: int) -> LocalRuntime:
        from dagbundle.runtime.local import LocalRuntime  # noqa: PLC0415 - usage errors answer before this is loaded

        return LocalRuntime(self.folder, python=self.python, hash_seed=seed)

    def run(self, store: DagStore, parser: ParserProcess | None, *, dry_run: bool, force: bool, quiet: bool) -> Applied:
        from dagbundle.engine import engine as engines  # noqa: PLC0415 - loaded while the parser comes up
        from dagbundle.engine import events  # noqa: PLC0415 - likewise
        from dagbundle.runtime.local import LocalRuntime  # noqa: PLC0415 - likewise

        runtime = LocalRuntime(self.folder, python=self.python, standing_by=parser)
        with progress.shown(quiet=quiet) as watch:

            def seen(event: events.Event) -> None:
                if isinstance(event, events.RolloutBegan):
                    self._began.append(event.rollout_id)
                watch(event)

            call = engines.Engine(store, watch=seen)
            action = call.preview if dry_run else call.apply
            return action(self.resource, runtime=runtime, rules=self.rules, force=force)

    def state_in(self, store: DagStore) -> str:
        """Say what an apply that was interrupted has published. The store is asked: only it can tell."""
        name = f"{self.resource.metadata.namespace}/{self.resource.metadata.name}"
        if not self._began:
            return interrupts.UNCHANGED
        try:
            rollout = store.rollout(self._began[-1])
        except errors.DagBundleError:
            return f"`dagbundle history {name}` shows whether a revision was published"
        if rollout.revision is None:
            return f"nothing was published, and what is live of bundle {name} is as it was"
        return f"bundle {name} is published as revision {rollout.revision}"
