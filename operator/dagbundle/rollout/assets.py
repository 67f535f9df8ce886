"""What a DAG's content says of Airflow's assets: which it defines, and which it only names.

Airflow keeps one row for an asset, and the last DAG that is written sets it. A DAG that only names the asset would
empty its extra and stop its watchers. Here an asset that a bundle defines belongs to that bundle, as a dag_id does.
This module finds what a content says, without I/O. `store/assets` keeps the owners.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from dagbundle.rollout import content as contents
from dagbundle.rollout.model import BundleKey, DagContent, FileProblem, Json, Problem
from dagbundle.rollout.moves import Candidate

_DEFAULT_GROUPS = frozenset({"", "asset", "dataset", "model"})
"""What Airflow's own classes set where an author says nothing."""
_PORTS = ("inlets", "outlets")
_KINDS = frozenset({"asset", "asset_alias", "asset_ref"})
MOST_NAMED = 20_000
"""Assets, aliases and references that a bundle's DAGs may name. Airflow writes them one by one, in the transaction
that publishes."""


class Mention(NamedTuple):
    """An asset, an alias or a reference, as a content names it."""

    kind: str
    """`asset`, `asset_alias` or `asset_ref`."""
    name: str
    uri: str


class AssetDefinition(NamedTuple):
    """What one content says of one asset, beyond its name."""

    key: str
    """Hash of name and URI, which Airflow tells assets apart by."""
    digest: str
    """Equal for equal definitions."""
    owns: bool
    """Whether it has an extra or watchers, which make the asset its bundle's. A group alone does not."""
    document: Json
    """Name, uri, group, extra and watchers, as Airflow serializes an asset."""


class AssetOwner(NamedTuple):
    """An asset's owner and definition."""

    bundle: BundleKey
    digest: str
    document: Json


def key_of(name: str, uri: str) -> str:
    """Return the key of an asset."""
    return hashlib.sha256(f"{name}\0{uri}".encode("utf-8", "surrogatepass")).hexdigest()


def bare(document: Json) -> Json:
    """Return an asset as one that nobody defines."""
    return {"name": document["name"], "uri": document["uri"], "group": "asset", "extra": {}}


def named(content: DagContent) -> dict[str, AssetDefinition | None]:
    """Return the assets that a content names, by key, each with its definition where it has one.

    Of two definitions the last one counts, as in Airflow: those of the schedule, then those of each task.
    """
    found: dict[str, AssetDefinition | None] = {}
    for kind, document in _documents(content):
        name, uri = document.get("name"), document.get("uri")
        if kind == "asset" and isinstance(name, str) and isinstance(uri, str):  # else vetting refuses it
            key = key_of(name, uri)
            found[key] = _definition(key, name, uri, document) or found.get(key)
    return found


def mentioned(content: DagContent) -> frozenset[Mention]:
    """Return the assets, aliases and references that a content names."""
    return frozenset(
        Mention(kind, str(document.get("name")), str(document.get("uri"))) for kind, document in _documents(content)
    )


def too_many(
    candidates: Iterable[Candidate], standing: Callable[[int], Collection[Mention]], *, least: int = 1
) -> list[FileProblem]:
    """Return what is wrong with files by which a bundle would name more than `MOST_NAMED` assets.

    Files that name few come first: one that names many breaks before it keeps others out.

    Args:
        candidates: DAGs that a publication would write.
        standing: Returns what the bundle's other DAGs name; where that is no more than a number, it may return nothing,
            and need not read it. A publication that names nothing does not ask.
        least: How many files break where any does. What a broken file had live stands again, and may break another
            one: a caller that judges again asks for more each time.
    """
    files: dict[tuple[str, str], dict[str, frozenset[Mention]]] = {}
    for item in candidates:
        files.setdefault((item.subdir, item.path), {})[item.dag_id] = mentioned(item.content)
    of_file = {place: frozenset[Mention]().union(*dags.values()) for place, dags in files.items()}
    count = len(frozenset[Mention]().union(*of_file.values()))
    if not count:
        return []
    problems: list[FileProblem] = []
    total = set(standing(MOST_NAMED - count))
    order = sorted(files, key=lambda place: (len(of_file[place]), place))
    places = _over(order, of_file, total)
    if places and least > len(places):
        others = [place for place in order if place not in places and of_file[place] - total]
        places.update(others[-(least - len(places)) :])
    total = total.union(*(of_file[place] for place in order if place not in places))
    for subdir, path in (place for place in order if place in places):
        dags = files[subdir, path]
        largest = max(sorted(dags), key=lambda dag_id: len(dags[dag_id]))
        message = (
            f"DAG {largest!r} names {len(dags[largest]):,} assets, aliases and references, and all DAGs of file "
            f"{path!r:.200} name {len(of_file[subdir, path]):,}: the DAGs of a bundle name at most {MOST_NAMED:,}, and "
            f"its other files name {len(total):,}. Name fewer, or divide the DAGs among bundles"
        )
        problems.append(FileProblem(subdir, path, Problem("TooManyAssets", message)))
    return problems


def _over(
    order: Sequence[tuple[str, str]],
    of_file: Mapping[tuple[str, str], frozenset[Mention]],
    standing: AbstractSet[Mention],
) -> set[tuple[str, str]]:
    """Return the files by which too many would be named, when the others come first."""
    total, found = set(standing), set()
    for place in order:
        more = of_file[place] - total
        if more and len(total) + len(more) > MOST_NAMED:
            found.add(place)
        else:
            total |= more
    return found


def subject(definition: AssetDefinition) -> str:
    """Return what a claim of this definition waits for. No dag_id holds a colon."""
    return f"asset:{definition.key}:{definition.digest}"


def owned(dag_id: str, definition: AssetDefinition, owner: BundleKey, mine: BundleKey) -> Problem:
    """Say that an asset is another bundle's."""
    where = f" of cluster {owner.cluster!r}" if owner.cluster != mine.cluster else ""
    name, uri = definition.document["name"], definition.document["uri"]
    which = f"{name!r:.200}" if name == uri else f"{name!r:.200} ({uri:.200})"
    return Problem(
        "AssetOwned",
        f"DAG {dag_id!r} defines asset {which}, which belongs to bundle {owner.namespace}/{owner.name}{where}, with "
        "another extra, group or watchers: name it without those, or have the definition removed there; this file is "
        "judged again, without parsing, when that bundle lets go of it",
    )


def _definition(key: str, name: str, uri: str, document: Json) -> AssetDefinition | None:
    extra, watchers, group = document.get("extra") or {}, document.get("watchers") or [], document.get("group")
    owns = bool(extra or watchers)
    if not isinstance(group, str) or group in _DEFAULT_GROUPS:  # vetting refuses what is no text
        group = "asset"
        if not owns:
            return None
    what: Json = {"group": group, "extra": extra, **({"watchers": watchers} if watchers else {})}
    return AssetDefinition(key, contents.sha256_of(what), owns, {"name": name, "uri": uri, **what})


def _documents(content: DagContent) -> Iterator[tuple[str, Json]]:
    """Return kind and document of every asset, alias and reference, in the order in which Airflow collects them."""
    yield from _assets(content.header.get("dag", {}).get("timetable"))
    for task in content.tasks:
        body = task.data.get("__var")
        if not isinstance(body, dict):
            continue
        partial = body.get("partial_kwargs")
        for place in (body, partial) if isinstance(partial, dict) else (body,):
            for port in _PORTS:
                if port in place:
                    yield from _assets(place[port])


def _assets(value: Any) -> Iterator[tuple[str, Json]]:
    """Walk a value, which may be deep, in order."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(reversed(item))
        elif isinstance(item, dict):
            kind = item.get("__type")
            if isinstance(kind, str) and kind in _KINDS:
                inner = item.get("__var", item)
                if isinstance(inner, dict):
                    yield kind, inner
            else:
                pending.extend(reversed(list(item.values())))
