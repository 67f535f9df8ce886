"""Drives the fuzz tests: changed inputs, again and again until their time is over, each within a budget.

An input is one of the corpus, or a seed of the test's own, of which one to four places were changed: most inputs pass
the first checks then. `make fuzz` says for how many seconds. An input that a test fails on is written into `corpus/`,
and every later run begins with it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import faulthandler
import hashlib
import json
import os
import pathlib
import random
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

CORPUS = pathlib.Path(__file__).parent / "corpus"
SECONDS = float(os.environ.get("FUZZ_SECONDS", "5"))
"""For each test; `make fuzz` divides its own among them."""
SEED = os.environ.get("FUZZ_SEED") or str(random.SystemRandom().getrandbits(64))
"""The same seed gives the same inputs, as many of them as the time allows. CI takes the week's number: a run can be
repeated, and each week tries other inputs."""
ROUND = 25
MOST_KEPT = 64 << 10
"""Characters of an input that goes into the corpus; a longer one is kept among the temporary files."""
LARGEST = 16 << 20
"""Bytes of an input, as JSON, roughly."""
STUCK_SECONDS = 900.0
"""After which a process that computes in C, where no signal's handler is called, is ended with a traceback."""
CANARY = "tenant_canary"
"""The name of a module that processes can import, and no process may import."""

TEXTS = [
    f"{CANARY}.Evil", "os.system", "builtins.eval", "subprocess.check_output", "a.zip/../../../etc/passwd", "../../x",
    "/etc/passwd", "javascript:alert(1)", "JAVAscript\t:alert(1)", "data:text/html,x", "airflow", "$ref", "__class__",
    "{{ 1 }}", "{% for x in range(10**9) %}{% endfor %}", "", " ", "\x00", "\ud800", "\u202e", "*", "sales_x/../hr",
    "%2e%2e/x", "dag", "dict", "set", "datetime", "timedelta", "relativedelta", "2020-01-01T00:00:00Z", "0 0 29 2 0",
    "* * * * *", "airflow_exc_ser", "airflow.triggers.callback.CallbackTrigger",
    "airflow.triggers.deadline.DeadlineCallbackTrigger", "airflow.sdk.definitions.callback.SyncCallback",
    "airflow.timetables.base.Timetable", "x" * 3000, "x" * 300_000,
]  # fmt: skip
EDGES = [0, -1, -31, 2**31, 2**40, 10**9]
"""Of numbers: what steps back, stands still, fits no column, or takes for ever."""
NUMBERS = [0, -1, 1, -31, 31, 255, 2**31 - 1, 2**31, 2**40, 2**63, -(2**63), 10**9, 10**400, 1e308, -0.0, 1e-300]
KEYS = [
    "__type", "__var", "__class", "__classname__", "__data__", "__version__", "Encoding.TYPE", "Encoding.VAR", "path",
    "kwargs", "callback_path", "classpath", "schema", "default", "extra", "watchers", "queue", "x", "",
]  # fmt: skip


class OverBudget(BaseException):
    """An input took more CPU time than it may. No `except Exception` hides it."""


@contextlib.contextmanager
def budget(cpu: float, memory: int) -> Iterator[None]:
    """Bound what one input takes.

    Args:
        cpu: Seconds of CPU time of this process, far above what an honest input of that size takes.
        memory: Bytes of address space that it may add.

    Raises:
        OverBudget: It took longer.
        MemoryError: It took more, unless the code under test makes something of that.
    """

    def over(_number: int, _frame: object) -> None:
        raise OverBudget(f"more than {cpu:g} s of CPU time")

    size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGPROF, over)
    resource.setrlimit(resource.RLIMIT_AS, (size + memory, limits[1]))
    signal.setitimer(signal.ITIMER_PROF, cpu)
    faulthandler.dump_traceback_later(STUCK_SECONDS, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGPROF, before)


def drive(name: str, seeds: Sequence[Any], check: Callable[[Any], object], seconds: float = SECONDS) -> int:
    """Check the corpus, the seeds, and what is made of them; return how many inputs were checked.

    Args:
        name: The folder of the corpus.
        seeds: More inputs to begin with: values of JSON.
        check: Raises where an input shows a fault.
        seconds: For how long.
    """
    end = time.monotonic() + seconds
    known = [json.loads(path.read_text("utf-8")) for path in sorted((CORPUS / name).glob("*.json"))]
    checked = 0
    for value in [*known, *seeds]:
        check(_copy(value))
        checked += 1

    failed: list[BaseException] = []

    def one(found: Input) -> None:
        nonlocal checked
        if failed or time.monotonic() > end:
            return
        checked += 1
        try:
            check(_copy(found.value))
        except (Exception, OverBudget) as error:  # noqa: BLE001 - raised below: hypothesis would try it again
            _keep(name, found.value)
            failed.append(error)

    rules = settings(
        max_examples=ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )  # fmt: skip
    numbers = random.Random(f"{SEED} {name}")  # noqa: S311 - inputs of tests
    while not failed and time.monotonic() < end:
        seed(numbers.getrandbits(64))(rules(given(changed([*known, *seeds]))(one)))()
    for error in failed:
        error.add_note(f"FUZZ_SEED={SEED} repeats it; it was input {checked}")
        raise error
    return checked


def _keep(name: str, value: Any) -> None:
    """Keep an input that a test failed on, for the next runs."""
    text = json.dumps(value, indent=1)
    folder = CORPUS if len(text) < MOST_KEPT else pathlib.Path(tempfile.gettempdir()) / "dagbundle-fuzz"
    path = folder / name / f"found-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", "utf-8")
    print(f"the input is kept as {path}", file=sys.stderr)  # noqa: T201 - pytest shows it with the failure


def _copy(value: Any) -> Any:
    """Copy a value that may nest deeper than Python's own limit."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        return copy.deepcopy(value)
    finally:
        sys.setrecursionlimit(limit)


@dataclasses.dataclass(frozen=True, slots=True)
class Input:
    """A value of JSON, which hypothesis does not print: it may be large, and nest deeper than printing can."""

    value: Any = dataclasses.field(repr=False)


@st.composite
def changed(draw: st.DrawFn, seeds: Sequence[Any]) -> Input:
    """One of the inputs, with one to four of its places changed."""
    box = [_copy(draw(st.sampled_from(seeds)))]
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(sorted(_CHANGES)))
        fits, change = _CHANGES[name]
        places = [(holder, key) for holder, key in _places(box) if fits(holder[key])]
        if places:
            holder, key = places[draw(st.integers(0, len(places) - 1))]
            change(draw, holder, key, seeds)
        if _size(box) > LARGEST:  # a repeated list was repeated: this would test the memory of the test
            return Input(_copy(draw(st.sampled_from(seeds))))
    return Input(box[0])


def _any(_value: Any) -> bool:
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_name(value: Any) -> bool:
    """Whether it may be a name that something imports: with dots, and no path."""
    return isinstance(value, str) and re.fullmatch(r"\w+(\.\w+)+", value) is not None


def _size(value: Any) -> int:
    """Estimate the bytes of a value as JSON, without writing it: lists that are repeated share their items."""
    sizes: dict[int, int] = {}
    waiting = [(value, False)]
    while waiting:
        found, is_ready = waiting.pop()
        if id(found) in sizes:
            continue
        keys, items = (found, found.values()) if isinstance(found, dict) else ((), found)
        held = [item for item in items if item and isinstance(item, list | dict)]
        if is_ready or not held:
            texts = sum(len(text) for part in (keys, items) for text in part if isinstance(text, str))
            sizes[id(found)] = 8 * len(found) + texts + sum(sizes[id(item)] for item in held)
        else:
            waiting.append((found, True))
            waiting += [(item, False) for item in held]
    return sizes[id(value)]


def _replace(draw: st.DrawFn, holder: Any, key: Any, _seeds: Sequence[Any]) -> None:
    holder[key] = draw(_VALUES)


def _similar(draw: st.DrawFn, holder: Any, key: Any, _seeds: Sequence[Any]) -> None:
    """Put in another value of the same type, so that checks of types pass."""
    match holder[key]:
        case bool(value):
            holder[key] = not value
        case int() | float():
            holder[key] = draw(st.sampled_from(NUMBERS))
        case str():
            holder[key] = draw(st.sampled_from(TEXTS))
        case list(value):
            holder[key] = value * draw(st.sampled_from([0, 2, 300, 20_000])) if len(value) < 10 else []
        case dict(value):
            value[draw(st.sampled_from(KEYS))] = draw(_VALUES)
        case _:
            holder[key] = draw(_VALUES)


def _name(draw: st.DrawFn, holder: Any, key: Any, _seeds: Sequence[Any]) -> None:
    """Put in the name of something else that can be imported."""
    holder[key] = draw(st.sampled_from([text for text in TEXTS if _is_name(text)]))


def _edge(draw: st.DrawFn, holder: Any, key: Any, _seeds: Sequence[Any]) -> None:
    holder[key] = draw(st.sampled_from(EDGES))


def _splice(draw: st.DrawFn, holder: Any, key: Any, seeds: Sequence[Any]) -> None:
    """Put in a part of this or another input."""
    places = list(_places([draw(st.sampled_from(seeds))]))
    found, place = places[draw(st.integers(0, len(places) - 1))]
    holder[key] = _copy(found[place])


def _remove(_draw: st.DrawFn, holder: Any, key: Any, _seeds: Sequence[Any]) -> None:
    if isinstance(holder, dict):
        del holder[key]
    else:
        holder[key] = None


def _wrap(draw: st.DrawFn, holder: Any, key: Any, _seeds: Sequence[Any]) -> None:
    """Put lists and objects around a value: one, or as many as end a recursion."""
    for _ in range(draw(st.sampled_from([1, 40, 400]))):
        holder[key] = [holder[key]] if draw(st.booleans()) else {"__type": "dict", "__var": {"x": holder[key]}}


def _nothings(draw: st.DrawFn, holder: Any, key: Any, _seeds: Sequence[Any]) -> None:
    """Put in many empty lists or objects: few bytes, much memory."""
    count = draw(st.sampled_from([10, 1_000, 1_000, 1_000, 100_000]))
    holder[key] = [[] for _ in range(count)] if draw(st.booleans()) else {str(n): {} for n in range(count)}


_Change = Callable[[st.DrawFn, Any, Any, Sequence[Any]], None]
_CHANGES: Mapping[str, tuple[Callable[[Any], bool], _Change]] = {
    "name": (_is_name, _name),
    "nothings": (_any, _nothings),
    "number": (_is_number, _edge),
    "remove": (_any, _remove),
    "replace": (_any, _replace),
    "similar": (_any, _similar),
    "splice": (_any, _splice),
    "wrap": (_any, _wrap),
}
"""What is done, to which places: those that matter most have a change of their own, as they are few among many."""
_SIMPLE = st.one_of(
    st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(TEXTS), st.integers(), st.floats(),
    st.text(max_size=20), st.builds(list), st.builds(dict),
)  # fmt: skip
_VALUES = st.one_of(
    _SIMPLE,
    st.lists(_SIMPLE, max_size=3),
    st.dictionaries(st.sampled_from(KEYS), _SIMPLE, max_size=4),
    st.builds(lambda kind, value: {"__type": kind, "__var": value}, st.sampled_from(TEXTS), _SIMPLE),
    st.builds(lambda name: {"__type": "airflow_exc_ser", "__var": {"exc_cls_name": name, "args": []}},
              st.sampled_from(TEXTS)),
)  # fmt: skip


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a value, as the container and the key; the first one is the whole."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        items = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
        for key, item in list(items)[:2000]:
            yield found, key
            waiting.append(item)
