from __future__ import annotations

import dataclasses

import pytest

from dagbundle import errors
from dagbundle.rollout import budgets
from dagbundle.rollout.content import storable
from dagbundle.rollout.document import RolloutDocument
from dagbundle.rollout.model import FileOutcome, Json, KnownFile, ParsedDag, ParseWarning, Problem, StagedFile
from dagbundle.store import memory
from dagbundle.store.dagstore import DagStore
from dagbundle.store.records import RolloutState
from integration.store.builder import (
    SALES,
    SYNTAX_ERROR,
    apply,
    changeset,
    content,
    counted,
    judged,
    prepare,
    run,
    staged,
    start,
)


def open_run(store: DagStore, attempt: str = "1") -> tuple[str, str]:
    rollout = start(store, SALES)
    return rollout.id, store.open_run(rollout.id, ".", attempt=attempt, airflow=None, python="3.11")


def test_outcomes_come_back_as_they_were_staged(store: DagStore) -> None:
    rollout_id, run_id = open_run(store)
    files = [staged("b.py", {"b": "1", "c": "2"}, warn=True), staged("a.py", SYNTAX_ERROR)]
    store.stage(run_id, "1", files)
    (outcome,) = store.outcomes(rollout_id)
    assert (outcome.subdir, outcome.closed) == (".", False)
    assert outcome.failure
    store.close_run(run_id, "1", ["b.py", "a.py"])
    (outcome,) = store.outcomes(rollout_id)
    assert outcome.closed
    assert outcome.failure == ""
    assert outcome.files == (files[1].outcome, files[0].outcome)


def test_staging_the_same_file_twice_counts_once(store: DagStore) -> None:
    rollout_id, run_id = open_run(store)
    for _ in range(2):
        store.stage(run_id, "1", [staged("a.py", {"a": "1"})])
    store.stage(run_id, "1", [staged("a.py", {"a": "1"}), staged("a.py", {"a": "1"}), staged("b.py", {})])
    assert [file.path for file in store.outcomes(rollout_id)[0].files] == ["a.py", "b.py"]


@pytest.mark.parametrize(
    "other",
    [
        staged("a.py", {"a": "2"}),
        staged("a.py", SYNTAX_ERROR),
        staged("a.py", None),
        dataclasses.replace(staged("a.py", {"a": "1"}), fingerprint="f2"),
        dataclasses.replace(staged("a.py", {"a": "1"}), closure={"b.py": "0"}),
        dataclasses.replace(staged("a.py", {"a": "1"}), sources={"a.py": "other"}),
    ],
)
def test_staging_a_file_twice_and_differently_is_refused(store: DagStore, other: StagedFile) -> None:
    _, run_id = open_run(store)
    store.stage(run_id, "1", [staged("a.py", {"a": "1"})])
    with pytest.raises(errors.ProtocolError, match=r"a\.py was reported twice"):
        store.stage(run_id, "1", [other])
    with pytest.raises(errors.ProtocolError, match=r"b\.py was reported twice"):
        store.stage(run_id, "1", [staged("b.py", {"b": "1"}), staged("b.py", {"b": "2"})])


def test_content_that_did_not_come_along_must_be_stored(store: DagStore) -> None:
    apply(store, SALES, {"a.py": {"a": "1"}})
    _, run_id = open_run(store)
    known = content("a", "1", "a.py")
    bare = StagedFile(FileOutcome("a.py", dags=(ParsedDag("a", known.sha256),)))
    store.stage(run_id, "1", [bare])
    unknown = StagedFile(FileOutcome("b.py", dags=(ParsedDag("b", "0" * 64),)))
    with pytest.raises(errors.ProtocolError, match="DAG b refers to content"):
        store.stage(run_id, "1", [unknown])


@pytest.mark.parametrize(
    "listing", [[], ["a.py"], ["a.py", "b.py", "c.py"], ["a.py", "b.py", "b.py"], ["a.py", "x.py"]]
)
def test_a_run_closes_only_with_the_listing_that_was_staged(store: DagStore, listing: list[str]) -> None:
    rollout_id, run_id = open_run(store)
    store.stage(run_id, "1", [staged("a.py", {}), staged("b.py", {})])
    with pytest.raises(errors.ProtocolError, match="listing"):
        store.close_run(run_id, "1", listing)
    assert not store.outcomes(rollout_id)[0].closed
    store.close_run(run_id, "1", ["b.py", "a.py"])
    store.close_run(run_id, "1", ["a.py", "b.py"])
    with pytest.raises(errors.ConflictError, match="Closed"):
        store.stage(run_id, "1", [staged("c.py", {})])
    with pytest.raises(errors.ConflictError, match="Closed"):
        store.fail_run(run_id, "1", "too late")


def test_a_run_that_is_not_closed_cannot_be_published(store: DagStore) -> None:
    rollout_id, run_id = open_run(store)
    store.stage(run_id, "1", [staged("a.py", {"a": "1"})])
    result = changeset(store, store.rollout(rollout_id))
    with pytest.raises(errors.ConflictError, match="not closed"):
        store.publish(rollout_id, result, judged(store.live(SALES), result.runs))


# --- Skipping -------------------------------------------------------------------------------------------------------


def test_an_unchanged_file_takes_what_is_remembered_of_it(store: DagStore) -> None:
    files = {"a.py": {"a": "1"}, "b.py": SYNTAX_ERROR}
    apply(store, SALES, files, version="v1")
    known = store.known_files(SALES, ".")
    assert (known["a.py"].fingerprint, known["a.py"].closure) == ("f1", {"a.py": "0" * 64})
    ready = prepare(store, SALES, {"a.py": None, "b.py": None}, version="v2")
    assert [(file.path, file.unchanged, file.problems) for file in ready.changeset.runs[0].files] == [
        ("a.py", True, ()),
        ("b.py", True, (SYNTAX_ERROR,)),
    ]
    assert ready.publish(store) == 2
    assert store.known_files(SALES, ".") == known
    assert store.source("a").startswith("# ")


def test_a_file_of_which_nothing_is_remembered_cannot_be_unchanged(store: DagStore) -> None:
    apply(store, SALES, {"a.py": {"a": "1"}})
    _, run_id = open_run(store)
    with pytest.raises(errors.ProtocolError, match="unchanged"):
        store.stage(run_id, "1", [staged("a.py", None), staged("b.py", None)])
    assert counted(store, "submission") == 1


def test_what_an_unchanged_file_stands_for_can_be_read_beforehand(store: DagStore) -> None:
    ready = prepare(store, SALES, {"a.py": {"a": "1"}, "b.py": SYNTAX_ERROR}, warn=["a.py"])
    ready.publish(store)
    expected = {file.path: file._replace(unchanged=True) for file in ready.changeset.runs[0].files}
    assert store.remembered(SALES, ".") == expected
    assert store.remembered(SALES, "elsewhere") == {}


def test_what_is_remembered_with_many_warnings_is_not_offered_and_cannot_be_skipped(store: DagStore) -> None:
    loud = ParseWarning("UserWarning", "x" * 60_000, 1)
    files = [
        dataclasses.replace(found, outcome=found.outcome._replace(warnings=(loud,)))
        for found in (staged(f"{number:02}.py", {}) for number in range(30))
    ]
    rollout = start(store, SALES)
    run(store, rollout, ".", files)
    result = changeset(store, rollout)
    store.publish(rollout.id, result, judged(store.live(SALES), result.runs))
    known = store.known_files(SALES, ".")
    assert [bool(known[f"{number:02}.py"].closure) for number in range(30)] == [True] * 17 + [False] * 13
    names = sorted(known)
    run(store, start(store, SALES), ".", [staged(name, None) for name in names[:17]])
    with pytest.raises(errors.ProtocolError, match="errors and warnings in files that were reported as unchanged"):
        run(store, start(store, SALES), ".", [staged(name, None) for name in names])


def test_pages_of_what_is_remembered_hold_all_of_it_in_order(store: DagStore, monkeypatch: pytest.MonkeyPatch) -> None:
    apply(store, SALES, {f"{number:02}.py": {} for number in range(20)})
    monkeypatch.setattr(memory, "PAGE_BYTES", 2_000)
    found: list[KnownFile] = []
    page = store.known_page(SALES, ".", after="", counted=budgets.Known())
    while page.more:
        assert 0 < len(page.files) < 20
        found += page.files
        page = store.known_page(SALES, ".", after=page.last, counted=page.counted)
    assert {file.path: file for file in [*found, *page.files]} == store.known_files(SALES, ".")
    assert len(found) + len(page.files) == 20
    assert store.knows_files(SALES, ".")
    assert not store.knows_files(SALES, "elsewhere")


def test_what_was_never_published_is_not_remembered(store: DagStore) -> None:
    prepare(store, SALES, {"a.py": {"a": "1"}})
    assert store.known_files(SALES, ".") == {}


def test_what_is_remembered_is_renewed_when_a_file_is_parsed_again_and_dropped_when_it_is_gone(store: DagStore) -> None:
    apply(store, SALES, {"a.py": {"a": "1"}, "b.py": {"b": "1"}}, version="v1")
    before = store.known_files(SALES, ".")["a.py"].parsed_at
    assert apply(store, SALES, {"a.py": {"a": "1"}, "b.py": {"b": "1"}}, version="v1") == 1
    assert store.known_files(SALES, ".")["a.py"].parsed_at > before
    apply(store, SALES, {"a.py": {"a": "1"}})
    assert sorted(store.known_files(SALES, ".")) == ["a.py"]


def test_the_source_of_an_unchanged_dag_follows_its_edited_file(store: DagStore) -> None:
    apply(store, SALES, {"a.py": {"a": "1"}})
    ready = start(store, SALES)
    run(store, ready, ".", [dataclasses.replace(staged("a.py", {"a": "1"}), sources={"a.py": "# a comment"})])
    result = changeset(store, ready)
    store.publish(ready.id, result, judged(store.live(SALES), result.runs))
    assert store.source("a") == "# a comment"
    assert counted(store, "dag_version") == 1


# --- Fencing --------------------------------------------------------------------------------------------------------


def test_a_newer_rollout_supersedes_the_older_which_neither_stages_nor_publishes(store: DagStore) -> None:
    old = prepare(store, SALES, {"a.py": {"old": "1"}})
    rollout_id, run_id = old.rollout.id, store.open_run(old.rollout.id, "x", attempt="1", airflow=None, python="3")
    new = prepare(store, SALES, {"a.py": {"new": "1"}})
    assert store.rollout(rollout_id).state is RolloutState.SUPERSEDED
    for call in (
        lambda: store.stage(run_id, "1", []),
        lambda: store.close_run(run_id, "1", []),
        lambda: store.open_run(rollout_id, "y", attempt="1", airflow=None, python="3"),
        lambda: store.block(rollout_id, "Any", "reason"),
    ):
        with pytest.raises(errors.SupersededError):
            call()
    with pytest.raises(errors.ConflictError, match="superseded"):
        old.publish(store)
    assert new.publish(store) == 1
    with pytest.raises(errors.ConflictError, match="superseded"):
        old.publish(store)


def test_a_newer_attempt_discards_and_fences_the_older(store: DagStore) -> None:
    rollout_id, old = open_run(store, "1")
    store.stage(old, "1", [staged("old.py", {"old": "1"})])
    new = store.open_run(rollout_id, ".", attempt="2", airflow=None, python="3.11")
    for call in (
        lambda: store.stage(old, "1", [staged("b.py", {})]),
        lambda: store.stage(new, "1", [staged("b.py", {})]),
        lambda: store.close_run(old, "1", ["old.py"]),
        lambda: store.fail_run(old, "1", "late"),
        lambda: store.open_run(rollout_id, ".", attempt="1", airflow=None, python="3.11"),
    ):
        with pytest.raises(errors.ConflictError, match="newer attempt"):
            call()
    assert store.open_run(rollout_id, ".", attempt="2", airflow=None, python="3.11") == new
    store.stage(new, "2", [staged("new.py", {"new": "1"})])
    store.close_run(new, "2", ["new.py"])
    assert [file.path for file in store.outcomes(rollout_id)[0].files] == ["new.py"]


def test_an_attempt_that_replaces_a_judged_one_stops_its_publish(store: DagStore) -> None:
    ready = prepare(store, SALES, {"a.py": {"a": "1"}})
    store.open_run(ready.rollout.id, ".", attempt="2", airflow=None, python="3.11")
    with pytest.raises(errors.ConflictError, match="not closed"):
        ready.publish(store)


def test_unknown_bundles_rollouts_and_runs_are_named(store: DagStore) -> None:
    with pytest.raises(errors.NotFoundError, match=r"team-sales\.sales"):
        store.start_rollout(SALES, version="v", template_hash="h", subdirs=["."], document=RolloutDocument())
    with pytest.raises(errors.NotFoundError, match="rollout ghost"):
        store.open_run("ghost", ".", attempt="1", airflow=None, python="3.11")
    with pytest.raises(errors.NotFoundError, match="run ghost"):
        store.stage("ghost", "1", [])
    assert store.outcomes("ghost") == ()
    assert store.latest_rollout(SALES) is None


# --- Hostile text ---------------------------------------------------------------------------------------------------

NUL, SURROGATE = "a\x00b", "a\ud800b"
GOOD = staged("a.py", {"a": "1"})


@pytest.mark.parametrize("text", [NUL, SURROGATE], ids=["NUL", "surrogate"])
@pytest.mark.parametrize(
    "place", ["path", "problem", "source", "closure", "fingerprint", "fileloc", "header", "loader"]
)
def test_text_that_cannot_be_stored_is_refused_as_such_and_nothing_is_staged(
    store: DagStore, place: str, text: str
) -> None:
    _, run_id = open_run(store)
    header: Json = {"__version": 3, "dag": {"x": text}}
    file = {
        "path": lambda: StagedFile(FileOutcome(text)),
        "problem": lambda: StagedFile(FileOutcome("b.py", problems=(Problem("E", text),))),
        "source": lambda: dataclasses.replace(GOOD, sources={"a.py": text}),
        "closure": lambda: dataclasses.replace(GOOD, closure={text: "x"}),
        "fingerprint": lambda: dataclasses.replace(GOOD, fingerprint=text),
        "loader": lambda: dataclasses.replace(GOOD, loader=text),
        "fileloc": lambda: _with_content(relative_fileloc=text),
        "header": lambda: _with_content(header=header),
    }[place]()
    with pytest.raises(errors.ContentError):
        store.stage(run_id, "1", [file])
    assert counted(store, "submission") == 0
    assert counted(store, "dag_content") == 0


@pytest.mark.parametrize("text", [NUL, SURROGATE])
def test_what_a_failure_says_is_stored_though_its_text_cannot_be(store: DagStore, text: str) -> None:
    rollout_id, run_id = open_run(store)
    store.fail_run(run_id, "1", text)
    store.block(rollout_id, "Reason", text)
    assert store.rollout(rollout_id).message == storable(text)


def _with_content(**changes: object) -> StagedFile:
    odd = dataclasses.replace(content("odd"), sha256="1" * 64, **changes)  # type: ignore[arg-type] # one field at a time
    return StagedFile(FileOutcome("odd.py", dags=(ParsedDag("odd", odd.sha256),)), contents=(odd,))
