from __future__ import annotations

import copy
import hashlib
import random
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from dagbundle import errors
from dagbundle.rollout import content
from support import serialized

NAMES = st.text("abcdefgh_.-0123456789", min_size=1, max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(NAMES, unique=True, max_size=8))
    tasks = [
        serialized.task(
            name,
            sorted(draw(st.sets(st.sampled_from(names[index + 1 :])))) if names[index + 1 :] else (),
            params=draw(VALUES),
        )
        for index, name in enumerate(names)
    ]
    cut = draw(st.integers(0, len(names)))
    inner = serialized.group("inner", {name: ["operator", name] for name in names[cut:]})
    children: dict[str, Any] = {name: ["operator", name] for name in names[:cut]}
    if "inner" not in names:
        children["inner"] = ["taskgroup", inner]
    else:
        children |= {name: ["operator", name] for name in names[cut:]}
    return serialized.dag("d", tasks, root=serialized.group(None, children), extra=draw(VALUES))


def without_fileloc(document: dict[str, Any]) -> dict[str, Any]:
    copied = copy.deepcopy(document)
    copied["dag"].pop("fileloc")
    return copied


@hypothesis.given(documents())
def test_join_gives_back_what_split_took_apart_with_children_in_their_order(document: dict[str, Any]) -> None:
    joined = content.join(content.split(document))
    assert joined == without_fileloc(document)
    assert orders(joined["dag"]["task_group"]) == orders(document["dag"]["task_group"])


def orders(group: dict[str, Any]) -> list[Any]:
    return [[name, orders(item[1]) if item[0] == "taskgroup" else []] for name, item in group["children"].items()]


@hypothesis.given(documents(), st.randoms())
def test_the_hash_does_not_depend_on_the_order_of_keys_and_tasks_nor_on_fileloc(
    document: dict[str, Any], rng: random.Random
) -> None:
    shuffled = copy.deepcopy(document)
    rng.shuffle(shuffled["dag"]["tasks"])
    items = list(shuffled["dag"].items())
    rng.shuffle(items)
    shuffled["dag"] = dict(items) | {"fileloc": "/elsewhere/x.py"}
    assert content.split(shuffled).sha256 == content.split(document).sha256


def test_the_hash_does_not_depend_on_the_parsers_own_folder_of_dags() -> None:
    one, two = (serialized.dag("d", _processor_dags_folder=f"/home/{user}/airflow/dags") for user in ("a", "b"))
    assert content.split(one).sha256 == content.split(two).sha256
    assert "_processor_dags_folder" not in content.join(content.split(one))["dag"]


def test_an_operator_that_the_file_defines_is_the_same_anywhere_and_has_the_publishers_module_name() -> None:
    def document(root: str) -> dict[str, Any]:
        digest = hashlib.sha1(f"{root}/dags/x-y.py".encode(), usedforsecurity=False).hexdigest()
        own = serialized.task(
            "a", _task_module=f"unusual_prefix_{digest}_x_y", python_callable_name=f"unusual_prefix_{digest}_x_y.f"
        )
        tasks = [own, serialized.task("b", _task_module="airflow.providers.standard.operators.empty")]
        paths = {"fileloc": f"{root}/dags/x-y.py", "relative_fileloc": "dags/x-y.py", "_processor_dags_folder": root}
        return serialized.dag("d", tasks, **paths)

    taken = content.split(document("/home/a"))
    assert taken.sha256 == content.split(document("/home/b")).sha256
    placed = content.join(taken)
    content.place(placed, root="/opt/bundle", dags_folder="/opt/bundle")
    assert placed["dag"]["tasks"] == document("/opt/bundle")["dag"]["tasks"]
    assert placed["dag"] == document("/opt/bundle")["dag"]
    assert content.split(placed).sha256 == taken.sha256


@hypothesis.given(documents(), documents())
def test_different_documents_have_different_hashes(one: dict[str, Any], two: dict[str, Any]) -> None:
    # Python's True == 1 == 1.0, JSON's are three things
    same = content.canonical(without_fileloc(normal(one))) == content.canonical(without_fileloc(normal(two)))
    assert (content.split(one).sha256 == content.split(two).sha256) is same


def normal(document: dict[str, Any]) -> dict[str, Any]:
    copied = copy.deepcopy(document)
    copied["dag"]["tasks"].sort(key=lambda item: item["__var"]["task_id"])
    return copied


@hypothesis.given(documents())
def test_a_slice_holds_one_task_its_groups_and_no_edges(document: dict[str, Any]) -> None:
    taken = content.split(document)
    for task in taken.tasks:
        parents = {group.group_id: group for group in taken.groups}
        chain = [parents[task.group_id]]
        while (parent := chain[-1].parent_id) is not None:
            chain.append(parents[parent])
        sliced = content.slice_task(taken.header, chain, task)
        (only,) = sliced["dag"]["tasks"]
        assert only["__var"]["task_id"] == task.task_id
        assert "downstream_task_ids" not in only["__var"]
        again = content.split(sliced)
        assert [group.group_id for group in again.groups] == [group.group_id for group in reversed(chain)]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("nan"), "$.dag.params.x is NaN"),
        (float("inf"), "is NaN or infinite"),
        ("a\0b", "$.dag.params.x holds a NUL"),
        ("\ud800", "lone surrogate"),
        (10**5000, "more than 4,300 digits"),
    ],
    ids=["nan", "infinity", "nul", "surrogate", "huge"],
)
def test_a_value_that_cannot_be_stored_is_named_by_its_path(value: object, words: str) -> None:
    with pytest.raises(errors.ContentError, match=words.replace("$", r"\$").replace(".", r"\.")):
        content.split(serialized.dag("d", params={"x": value}))


def test_nul_and_surrogates_in_keys_are_found() -> None:
    for key in ("a\0", "\udfff"):
        with pytest.raises(errors.ContentError, match="a key of"):
            content.split(serialized.dag("d", params={key: 1}))


def test_text_that_only_looks_like_an_escaped_nul_is_stored() -> None:
    assert content.split(serialized.dag("d", doc_md="\\u0000")).header["dag"]["doc_md"] == "\\u0000"


def test_astral_characters_are_stored() -> None:
    assert content.split(serialized.dag("d", doc_md="🜁")).dag_id == "d"


def nested(levels: int) -> Any:
    """A document with so many levels below it."""
    value: Any = []
    for _ in range(levels - 3):
        value = [value]
    return serialized.dag("d", params=[value])


@pytest.mark.parametrize("levels", [content.MAX_DEPTH + 1, 900, 100_000])
def test_too_deep_nesting_is_refused(levels: int) -> None:
    with pytest.raises(errors.ContentError, match="nested more than 100 levels deep"):
        content.split(nested(levels))


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "dag is no JSON object"),
        ({"dag": {}}, "__version is missing"),
        ({**serialized.dag("d"), "__version": "3"}, "__version is missing or no integer"),
        (serialized.dag("a/b"), "dag.dag_id is 'a/b'"),
        (serialized.dag("x" * 251), "an id has 1 to 250"),
        (serialized.dag("d", [serialized.task("t"), serialized.task("t")]), "names a task twice"),
        (serialized.dag("d", [serialized.task("t", ["nowhere"])]), "which is no task of the DAG"),
        (
            serialized.dag("d", [serialized.task("a", ["b"]), serialized.task("b", ["a"])]),
            "has a cycle through task 'a'",
        ),
        (serialized.dag("d", [serialized.task("a", ["a"])]), "has a cycle"),
        (serialized.dag("d", root=serialized.group(None, {"x": ["operator", "x"]})), "which is no task of the DAG"),
        (serialized.dag("d", root=serialized.group(None, {"x": ["what", "x"]})), "neither a task nor a group"),
    ],
)
def test_what_is_no_serialized_dag_is_refused_with_the_reason(document: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.ContentError, match=words):
        content.split(document)


def test_a_task_in_two_groups_is_refused() -> None:
    twice = serialized.group(
        None, {"t": ["operator", "t"], "g": ["taskgroup", serialized.group("g", {"t": ["operator", "t"]})]}
    )
    with pytest.raises(errors.ContentError, match="occurs twice"):
        content.split(serialized.dag("d", [serialized.task("t")], root=twice))


KEYS = st.sampled_from(["dag", "__version", "tasks", "task_group", "children", "__var", "task_id", "dag_id", "x"])
JSON = st.recursive(
    st.none() | st.integers() | st.floats() | st.sampled_from(["a", "operator", "taskgroup", "\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@hypothesis.given(st.dictionaries(st.sampled_from(["dag", "__version", "x"]), JSON))
def test_split_answers_any_json_with_a_content_or_a_content_error(document: dict[str, Any]) -> None:
    try:
        taken = content.split(document)
    except errors.ContentError:
        return
    assert taken.sha256
