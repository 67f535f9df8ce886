"""What apply, rollback, diff and resume answer, on a real store; a script stands for the parser."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from dagbundle import errors
from dagbundle.cli import headstart
from dagbundle.cli.exits import Exit
from dagbundle.engine import publishing
from dagbundle.runtime import local
from support import reports

Apply = Callable[..., tuple[int, str, str]]


@pytest.fixture
def apply(call: Any, monkeypatch: pytest.MonkeyPatch) -> Apply:
    """Applies files that a parser reports, of a version, with fields of the spec."""
    monkeypatch.setattr(headstart, "parser", lambda *_, **__: contextlib.nullcontext())

    def run(*files: dict[str, Any], version: str = "v1", more: tuple[str, ...] = (), **spec: Any) -> Any:
        pathlib.Path("bundle.yaml").write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "dagbundle.dev/v1alpha1",
                    "kind": "DagBundle",
                    "metadata": {"name": "sales", "namespace": "team-sales"},
                    "spec": {"source": {"image": {"reference": "r/i:1"}}, **spec},
                }
            )
        )
        runtime = reports.ScriptedRuntime(reports.whole(*files), version)
        monkeypatch.setattr(local, "LocalRuntime", lambda *_, **__: runtime)
        return call(*(more or ("apply", "--local")), "-f", "bundle.yaml", "--folder", ".", "--quiet")

    return run


A, A2, BROKEN = reports.parsed("a.py", "a"), reports.parsed("a.py", "a", doc_md="new"), reports.broken("b.py")


# --- Rolling back ---------------------------------------------------------------------------------------------------


def test_a_rollback_names_the_broken_files_of_the_revision_that_it_goes_to(call: Any, apply: Apply) -> None:
    apply(A, version="v1")
    apply(A, BROKEN, version="v2")
    apply(A2, version="v3")
    code, out, _ = call("rollback", "team-sales/sales")
    assert code == Exit.KEPT_BACK
    assert "revision 2 has 1 broken file: b.py; revision 1 is the newest without: --to-revision 1 goes back" in out
    assert "b.py:3: SyntaxError\n    invalid syntax\n" in out


def test_a_rollbacks_document_has_the_broken_files_of_the_revision_that_it_goes_to(call: Any, apply: Apply) -> None:
    apply(A, BROKEN, version="v1")
    apply(A2, version="v2")
    code, out, _ = call("rollback", "team-sales/sales", "-o", "json")
    found = json.loads(out)
    assert (code, found["outcome"]) == (Exit.KEPT_BACK, "KEPT_BACK")
    assert [(item["path"], item["kind"]) for item in found["problems"]] == [("b.py", "SyntaxError")]


def test_a_rollback_to_a_revision_without_broken_files_ends_with_0(call: Any, apply: Apply) -> None:
    apply(A, version="v1")
    apply(A, BROKEN, version="v2")
    code, out, _ = call("rollback", "team-sales/sales")
    assert (code, "broken" in out) == (Exit.OK, False)


# --- Holds ----------------------------------------------------------------------------------------------------------


def test_an_apply_that_ends_a_hold_says_so(call: Any, apply: Apply) -> None:
    apply(A, version="v1")
    apply(A2, version="v2")
    call("rollback", "team-sales/sales", "--reason", "wrong numbers")
    note = "the hold on revision 2 (version v2) {}, because another version or another spec {} published: wrong numbers"
    assert (
        f"Note: {note.format('would be lifted', 'would be')}\n"
        in apply(A, version="v1", more=("apply", "--local", "--dry-run"))[1]
    )
    found = json.loads(apply(A, version="v1", more=("apply", "--local", "-o", "json"))[1])
    assert found["notes"] == [note.format("is lifted", "was")]
    assert call("resume", "team-sales/sales")[1] == "Nothing was held.\n"


def test_what_is_held_is_named_by_its_revision(call: Any, apply: Apply) -> None:
    apply(A, version="v1")
    apply(A2, version="v2")
    _, out, _ = call("rollback", "team-sales/sales")
    assert "; revision 2 (version v2) is held until `dagbundle resume`" in out
    code, out, _ = apply(A2, version="v2")
    assert code == Exit.BLOCKED
    assert "Held: revision 2 (version v2) was rolled back and is held: rolled back by hand. `dagbundle resume" in out
    assert call("resume", "team-sales/sales")[1] == (
        "revision 2 (version v2) is no longer held (rolled back by hand)\n"
    )


def test_where_only_the_spec_of_what_is_held_differs_that_is_said(call: Any, apply: Apply) -> None:
    apply(A)
    apply(A, rollout={"onImportError": "Fail"})
    _, out, _ = call("rollback", "team-sales/sales")
    assert "revision 2 (version v1) is held until" in out
    assert "(the version is the same: only the spec differs)" in out
    code, out, _ = apply(A, rollout={"onImportError": "Fail"})
    assert code == Exit.BLOCKED
    assert "The version that is live is the same: only the spec differs. `dagbundle resume" in out


# --- An apply without files, and one that came too late -------------------------------------------------------------


@pytest.mark.parametrize("more", [("apply", "--local"), ("apply", "--local", "--dry-run"), ("diff",)])
def test_a_bundle_without_dag_files_is_never_just_published(apply: Apply, more: tuple[str, ...]) -> None:
    code, out, _ = apply(more=more)
    assert code == Exit.KEPT_BACK
    assert "Note: no file of the bundle holds DAGs: check --folder and spec.subdirs" in out
    code, out, _ = apply(more=(*more, "-o", "json"))
    assert (code, json.loads(out)["outcome"]) == (Exit.KEPT_BACK, "KEPT_BACK")


def test_an_apply_that_a_newer_one_ended_says_what_to_do(apply: Apply, monkeypatch: pytest.MonkeyPatch) -> None:
    def superseded(*_: object, **__: object) -> None:
        raise errors.SupersededError("Rollout 1 was superseded by 2")

    monkeypatch.setattr(publishing.Publisher, "publish", superseded)
    code, _, err = apply(A)
    assert code == Exit.RETRY
    assert "Hint: a newer apply of the bundle decides what is published" in err
    assert "apply again if these files are to be live" in err


# --- Comparing revisions --------------------------------------------------------------------------------------------


def test_a_comparison_of_revisions_shows_the_broken_files_of_both(call: Any, apply: Apply) -> None:
    apply(A, version="v1")
    apply(A, BROKEN, version="v2")
    for arguments in (["--from", "1", "--to", "2"], ["--from", "2", "--to", "1"], ["--exit-code"]):
        code, out, _ = call("diff", "team-sales/sales", *arguments)
        assert code == Exit.KEPT_BACK
        assert "Revision 2 has 1 broken file, whose DAGs are compared as this revision kept them:\nb.py:3: Synt" in out
    code, out, _ = call("diff", "team-sales/sales", "-o", "json")
    found = json.loads(out)
    assert (found["outcome"], found["message"]) == ("KEPT_BACK", "revision 2 has 1 broken file")
    assert [(item["revision"], item["path"]) for item in found["problems"]] == [(2, "b.py")]


def test_a_comparison_of_revisions_without_broken_files_ends_with_0_or_1(call: Any, apply: Apply) -> None:
    apply(A, BROKEN, version="v1")
    apply(A, version="v2")
    apply(A2, version="v3")
    assert call("diff", "team-sales/sales")[0] == Exit.OK
    assert call("diff", "team-sales/sales", "--exit-code")[0] == Exit.DIFFERENT
