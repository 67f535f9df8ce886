"""Writes assets as their owners define them, whatever the DAGs that name them say.

Airflow keeps one row for an asset, and each DAG that names it writes what that DAG says: group, extra and watchers.
`adapter` alone uses this.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from dagbundle.rollout.assets import Mention

Owned = Mapping[tuple[str, str], Any]
"""Assets of Airflow's by name and URI."""

MOST_AT_ONCE = 5_000
"""Assets of one statement of Airflow's, as many as a DAG may name. PostgreSQL compares name and URI of each within the
comparison of the one before, and has no stack for some 8,000 of those (`max_stack_depth`, 2 MB by default)."""
_owned: contextvars.ContextVar[Owned] = contextvars.ContextVar("owned")


class Assets:
    """Airflow's assets.

    Args:
        collection: Airflow's module that writes them; its operation is replaced.
        models: Airflow's module of their rows.
        deserialize: Airflow's decoder of values.

    Attributes:
        operation: What takes the place of Airflow's operation.
    """

    def __init__(self, collection: Any, models: Any, deserialize: Any) -> None:
        self._model = models.AssetModel
        self._references = (
            models.DagScheduleAssetReference,
            models.TaskInletAssetReference,
            models.TaskOutletAssetReference,
        )
        self._deserialize = deserialize
        self.operation = collection.AssetModelOperation = _with_owners(collection.AssetModelOperation)

    def decoded(self, documents: Sequence[Mapping[str, Any]]) -> Owned:
        """Return assets as Airflow sees them, of vetted documents."""
        return {
            (item["name"], item["uri"]): self._deserialize({"__type": "asset", "__var": dict(item)})
            for item in documents
        }

    def count(self, connection: Connection, dag_ids: Sequence[str]) -> int:
        """Return how many assets these DAGs name, as far as they are in the database."""
        tables = [model.__table__ for model in self._references]
        found = sa.union(*(sa.select(table.c.asset_id).where(table.c.dag_id.in_(dag_ids)) for table in tables))
        return connection.execute(sa.select(sa.func.count()).select_from(found.subquery())).scalar_one()

    def named(self, connection: Connection, dag_ids: Sequence[str]) -> set[Mention]:
        """Return the assets that these DAGs name, as far as they are in the database."""
        asset = self._model.__table__
        found: set[Mention] = set()
        for model in self._references:
            table = model.__table__
            statement = sa.select(asset.c.name, asset.c.uri).join(table, table.c.asset_id == asset.c.id).distinct()
            rows = connection.execute(statement.where(table.c.dag_id.in_(dag_ids)))
            found.update(Mention("asset", row.name, row.uri) for row in rows)
        return found

    @contextlib.contextmanager
    def owned(self, assets: Owned) -> Iterator[None]:
        """Have these assets written so, also where a DAG that names one says something else."""
        token = _owned.set(assets)
        try:
            yield
        finally:
            _owned.reset(token)

    def restate(self, session: Session, assets: Owned) -> None:
        """Write what these say of assets that Airflow has: group, extra and watchers."""
        name, uri = self._model.name, self._model.uri
        keys = list(assets)
        for start in range(0, len(keys), MOST_AT_ONCE):
            some = keys[start : start + MOST_AT_ONCE]
            there = session.execute(sa.select(name, uri).where(sa.tuple_(name, uri).in_(some))).all()
            operation = self.operation.collect({})
            operation.assets.update({(row.name, row.uri): assets[row.name, row.uri] for row in there})
            models = operation.sync_assets(session=session)
            session.flush()
            operation.add_asset_trigger_references(models, session=session)
            session.flush()

    def portions(self, dags: Sequence[Any], named: Any) -> Iterator[Sequence[Any]]:
        """Divide DAGs so that those of each part name no more assets than a statement takes.

        Args:
            dags: Airflow's views of them.
            named: What Airflow's operation collected of all.
        """
        if _count(named) <= MOST_AT_ONCE:
            yield dags
            return
        part, count = list[Any](), 0
        for dag in dags:
            more = _count(self.operation.collect({dag.dag_id: dag}))
            if part and count + more > MOST_AT_ONCE:
                yield part
                part, count = [], 0
            part.append(dag)
            count += more
        yield part


def _count(named: Any) -> int:
    return sum(len(some) for some in (named.assets, named.asset_aliases, *named[2:4]))


def _with_owners(operation: Any) -> Any:
    class Operation(operation):  # type: ignore[misc] # Airflow is untyped here
        @classmethod
        def collect(cls, dags: Any) -> Any:
            found = super().collect(dags)
            found.assets.update({key: asset for key, asset in _owned.get({}).items() if key in found.assets})
            return found

    return Operation
