"""How much errors and warnings take of what is stored, counted inside the database.

Files that are not parsed again bring theirs from earlier rollouts, each of which was within its own bound. So that many
rollouts add up to no more than one, `memory` offers only some of them to be skipped, and staging refuses more.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagbundle import errors
from dagbundle.rollout import budgets
from dagbundle.store.records import RunState
from dagbundle.store.tables import AnyRow, Tables

_NO_TEXTS = '%"problems":[],"warnings":[]}'
"""How the canonical text of an outcome without errors and warnings ends (`staging.outcome_document`, keys sorted)."""


def require_few(connection: Connection, tables: Tables, run: AnyRow) -> None:
    """Refuse more skipped files with errors and warnings than a parser was told that it may skip."""
    submission, others = tables.submission, tables.parse_run
    copied = connection.execute(
        sa.select(sa.func.sum(size_of(submission.c.outcome)))
        .join(others, others.c.id == submission.c.run)
        .where(
            others.c.rollout == run.rollout,
            others.c.subdir == run.subdir,
            others.c.state != RunState.FENCED,
            submission.c.unchanged,
        )
    ).scalar()
    if (copied or 0) > budgets.REMEMBERED_TEXT_BYTES:
        raise errors.ProtocolError(
            f"{run.subdir} has more than {budgets.REMEMBERED_TEXT_BYTES:,} bytes of errors and warnings in files that "
            "were reported as unchanged",
            hint="Apply again with --force",
        )


def size_of(outcome: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """Return an outcome's size inside the database; 0 for one without errors and warnings, as most are."""
    text = sa.cast(outcome, sa.Text)
    return sa.case((text.like(_NO_TEXTS), 0), else_=sa.func.length(text))
