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
from sqlalchemy.orm import Session

Owned = Mapping[tuple[str, str], Any]
"""Assets of Airflow's by name and URI."""

_owned: contextvars.ContextVar[Owned] = contextvars.ContextVar("owned")


class Assets:
    """Airflow's assets.

    Args:
        collection: Airflow's module that writes them; its operation is replaced.
        model: The class of their rows.
        deserialize: Airflow's decoder of values.

    Attributes:
        operation: What takes the place of Airflow's operation.
    """

    def __init__(self, collection: Any, model: Any, deserialize: Any) -> None:
        self._model = model
        self._deserialize = deserialize
        self.operation = collection.AssetModelOperation = _with_owners(collection.AssetModelOperation)

    def decoded(self, documents: Sequence[Mapping[str, Any]]) -> Owned:
        """Return assets as Airflow sees them, of vetted documents."""
        return {
            (item["name"], item["uri"]): self._deserialize({"__type": "asset", "__var": dict(item)})
            for item in documents
        }

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
        there = session.execute(sa.select(name, uri).where(sa.tuple_(name, uri).in_(list(assets)))).all()
        operation = self.operation.collect({})
        operation.assets.update({(row.name, row.uri): assets[row.name, row.uri] for row in there})
        models = operation.sync_assets(session=session)
        session.flush()
        operation.add_asset_trigger_references(models, session=session)
        session.flush()


def _with_owners(operation: Any) -> Any:
    class Operation(operation):  # type: ignore[misc] # Airflow is untyped here
        @classmethod
        def collect(cls, dags: Any) -> Any:
            found = super().collect(dags)
            found.assets.update({key: asset for key, asset in _owned.get({}).items() if key in found.assets})
            return found

    return Operation
