"""Where our tables are in a dialect, for migrations: frozen with them, independent of today's `tables`."""

from __future__ import annotations


class Place:
    """The schema `dagbundle` on PostgreSQL, the prefix `dagbundle_` on SQLite.

    Attributes:
        schema: The schema's name, or None where a prefix stands for it.
        prefix: What every name starts with.
    """

    def __init__(self, dialect: str) -> None:
        self.schema = "dagbundle" if dialect == "postgresql" else None
        self.prefix = "" if self.schema else "dagbundle_"

    def table(self, name: str) -> str:
        """Return a table's name, without its schema."""
        return self.prefix + name

    def column(self, name: str) -> str:
        """Return `table.column` as a foreign key names it."""
        return f"{self.schema}.{name}" if self.schema else self.prefix + name
