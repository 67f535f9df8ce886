"""Shows progress of long work on standard error: a bar on a terminal, a line per run elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

import typer

from dagbundle.cli import output
from dagbundle.engine import events


@contextlib.contextmanager
def shown(*, quiet: bool = False) -> Iterator[events.Watcher]:
    """Give a watcher to the engine; what it shows is gone or complete when the context ends."""
    if quiet:
        yield events.ignore
    elif sys.stderr.isatty():
        with _bar() as watcher:
            yield watcher
    else:
        yield _lines


def _lines(event: events.Event) -> None:
    match event:
        case events.RunOpened(subdir, files):
            typer.echo(f"parsing {subdir}: {output.counted(files, 'file')}", err=True)
        case events.RunEnded(subdir, failure) if failure:
            typer.echo(f"run of {subdir} failed: {output.printable(failure)}", err=True)
        case _:
            pass


@contextlib.contextmanager
def _bar() -> Iterator[events.Watcher]:
    # imported here: it takes as long as a small apply, and is needed on a terminal only
    from rich import console, progress  # noqa: PLC0415 - see above

    with progress.Progress(
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[note]}"),
        console=console.Console(stderr=True),
        transient=True,
    ) as bar:
        starting = bar.add_task("starting the parser", total=None, note="")
        tasks: dict[str, progress.TaskID] = {}
        broken: dict[str, int] = {}
        lock = threading.Lock()

        def watch(event: events.Event) -> None:
            with lock:
                bar.update(starting, visible=False)
                match event:
                    case events.RunOpened(subdir, files):
                        tasks[subdir] = bar.add_task(f"parsing {subdir}", total=files, note="")
                    case events.FileParsed(subdir, _, _, problems):
                        broken[subdir] = broken.get(subdir, 0) + bool(problems)
                        note = f"{broken[subdir]} broken" if broken[subdir] else ""
                        bar.update(tasks[subdir], advance=1, note=note)
                    case _:
                        pass

        yield watch
