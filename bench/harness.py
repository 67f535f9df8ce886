"""What every benchmark shares: run a command and see what it used, compare, print, write down.

CPU time is the kernel's account (wait4) of the command and of all descendants that were waited for; a database server
is no descendant and is not in it. Memory is sampled from /proc in runs of its own, since sampling takes time itself:
the proportional set size (PSS) of the whole tree, so that what forked children share counts once, and the private
memory (USS) of each process that parses files.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

ROOT = pathlib.Path(__file__).resolve().parent.parent
SAMPLE_SECONDS = 0.05
NOT_INHERITED = {"PYTHONDONTWRITEBYTECODE", "DAGBUNDLE_DATABASE_URL"}
"""Variables of the caller that would change what is measured: without .pyc files every start compiles everything."""


class BenchError(Exception):
    """A command failed, or did other work than the benchmark asked for: its figures would mean nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How to run: where the peer is, how often to repeat, how much to do."""

    airflow: pathlib.Path
    """The virtual environment with the peer's Airflow, which our parser uses too."""
    repeat: int | None
    """Rounds of every part; None lets each part choose."""
    quick: bool
    """Small corpora: for trying the benchmark, not for quoting it."""
    databases: tuple[str, ...]

    @property
    def airflow_python(self) -> pathlib.Path:
        """The interpreter of the peer's environment."""
        return self.airflow / "bin" / "python"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Usage:
    """What one run of a command took."""

    wall: float
    """Seconds from start to end."""
    cpu: float
    """Seconds of user and system time."""
    memory: int = 0
    """Most bytes (PSS) of the whole process tree at one time; 0 when memory was not watched."""
    child_memory: int = 0
    """Most bytes (USS) of one process that parses files; 0 when memory was not watched."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table, and of bench/out/*.json."""

    name: str
    ours: float
    peer: float | None
    """None where nobody else does the same, and nothing limits it."""
    ratio: float | None
    """How many times better than the peer we are: more than 1 is better, whichever direction the unit has."""
    unit: str
    command: str
    """What makes this line again."""


def parse_arguments(description: str) -> Settings:
    """Read the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--airflow", type=pathlib.Path, default=ROOT / ".venvs" / "airflow-3.3", help="environment of the peer"
    )
    parser.add_argument("--repeat", type=int, help="rounds of every part (default: 3, and 1 for the long ones)")
    parser.add_argument("--quick", action="store_true", help="small corpora, to try the benchmark")
    parser.add_argument(
        "--database", choices=["sqlite", "postgresql"], action="append", help="only this database; can be repeated"
    )
    found = parser.parse_args()
    return Settings(
        airflow=found.airflow.absolute(),
        repeat=found.repeat,
        quick=found.quick,
        databases=tuple(found.database or ("sqlite", "postgresql")),
    )


def this_command() -> str:
    """Say how the running benchmark was called, without the machine's paths."""
    specification = sys.modules["__main__"].__spec__
    module = "bench" if specification is None else specification.name.removesuffix(".__main__")
    return " ".join(["python", "-m", module, *sys.argv[1:]])


@contextlib.contextmanager
def scratch(prefix: str) -> Iterator[pathlib.Path]:
    """Make a folder that lasts as long as the block."""
    with tempfile.TemporaryDirectory(prefix=f"dagbundle-bench-{prefix}-") as name:
        yield pathlib.Path(name).resolve()


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    folder: pathlib.Path,
    watch_memory: bool = False,
    parsing_depth: int = 1,
    accepted: AbstractSet[int] = frozenset({0}),
) -> Usage:
    """Run a command to its end and return what it used; its output goes to a file, so that no terminal slows it.

    Args:
        command: The program and its arguments.
        env: Variables to set besides those of this process.
        folder: Working directory; the output is kept there.
        watch_memory: Sample the tree's memory, which costs the run some time.
        parsing_depth: Processes without children that are at least so many levels below the command parse files.
        accepted: Exit codes after which the figures count.

    Raises:
        BenchError: The command failed; the message ends with the last of its output.
    """
    log = folder / "output.txt"
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=inherited() | dict(env), stdout=output, stderr=subprocess.STDOUT
        )
        watch = _MemoryWatch(process.pid, parsing_depth) if watch_memory else None
        _pid, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    memory, child_memory = watch.stop() if watch else (0, 0)
    if process.returncode not in accepted:
        tail = log.read_text(errors="replace")[-3000:]
        raise BenchError(f"{' '.join(command)} ended with {process.returncode}:\n{tail}")
    return Usage(wall=wall, cpu=used.ru_utime + used.ru_stime, memory=memory, child_memory=child_memory)


def inherited() -> dict[str, str]:
    """Return the variables that a measured command takes over from this process."""
    return {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}


class _MemoryWatch:
    """Samples a process tree in a thread until it is told to stop."""

    def __init__(self, pid: int, parsing_depth: int) -> None:
        self._pid = pid
        self._parsing_depth = parsing_depth
        self._total = 0
        self._child = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> tuple[int, int]:
        """Return the peaks of the tree and of one parsing process."""
        self._end.set()
        self._thread.join()
        return self._total, self._child

    def _watch(self) -> None:
        while not self._end.wait(SAMPLE_SECONDS):
            total = 0
            for pid, depth, is_leaf in _tree(self._pid):
                shared_out, private = _memory(pid)
                total += shared_out
                if is_leaf and depth >= self._parsing_depth:
                    self._child = max(self._child, private)
            self._total = max(self._total, total)


def _tree(pid: int, depth: int = 0) -> Iterator[tuple[int, int, bool]]:
    """Walk a process and its descendants: process, depth, whether it has no children."""
    children: list[str] = []
    try:
        threads = list(pathlib.Path(f"/proc/{pid}/task").iterdir())
    except OSError:  # the process ended meanwhile
        return
    for thread in threads:  # each knows only the children that it forked itself
        with contextlib.suppress(OSError):  # the thread ended meanwhile
            children += (thread / "children").read_text(encoding="ascii").split()
    yield pid, depth, not children
    for child in children:
        yield from _tree(int(child), depth + 1)


def _memory(pid: int) -> tuple[int, int]:
    """Return a process's proportional and private memory in bytes, zeros when it has ended."""
    found = {"Pss": 0, "Private_Clean": 0, "Private_Dirty": 0}
    try:
        lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:  # it ended meanwhile
        return 0, 0
    for line in lines:
        key, _, value = line.partition(":")
        if key in found:
            found[key] = int(value.split()[0]) * 1024
    return found["Pss"], found["Private_Clean"] + found["Private_Dirty"]


def compare(name: str, rounds: Sequence[tuple[float, float]], *, unit: str, better: Literal["more", "less"]) -> Row:
    """Make a row from rounds of (ours, peer): the medians of each, and the median of the rounds' ratios."""
    ratios = [ours / peer if better == "more" else peer / ours for ours, peer in rounds]
    return Row(
        name=name,
        ours=statistics.median(ours for ours, _ in rounds),
        peer=statistics.median(peer for _, peer in rounds),
        ratio=statistics.median(ratios),
        unit=unit,
        command=this_command(),
    )


def report(part: str, rows: Sequence[Row], peer: str = "stock Airflow") -> None:
    """Print the rows as a table that README can quote, and write them to bench/out/PART.json."""
    print(f"\n| {part} | ours | {peer} | ratio | unit |\n| --- | ---: | ---: | ---: | --- |")
    for row in rows:
        print(f"| {row.name} | {_short(row.ours)} | {_short(row.peer)} | {_short(row.ratio)} | {row.unit} |")
    out = ROOT / "bench" / "out"
    out.mkdir(exist_ok=True)
    text = json.dumps([dataclasses.asdict(row) for row in rows], indent=2)
    (out / f"{part}.json").write_text(text + "\n", encoding="utf-8")


def main(
    description: str, parts: Mapping[str, Callable[[Settings], Sequence[Row]]], peer: str = "stock Airflow"
) -> None:
    """Measure parts beside a peer, and print and write down each as soon as it is done."""
    settings = parse_arguments(description)
    for part, measure in parts.items():
        try:
            report(part, measure(settings), peer)
        except BenchError as error:
            sys.exit(f"{part}: {error}")


def progress(text: str) -> None:
    """Tell whoever waits what is being measured, apart from the tables."""
    print(f"… {text}", file=sys.stderr, flush=True)


def _short(value: float | None) -> str:
    """Three significant digits, without an exponent; a dash where there is nothing to compare with."""
    if value is None:
        return "-"
    if abs(value) >= 100:  # noqa: PLR2004 - from here on three digits leave no fraction
        return f"{value:,.0f}"
    return f"{value:.3g}"
