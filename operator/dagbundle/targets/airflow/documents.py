"""Checks the documents of a rollout, before they are published and again when they are written.

What they name and how large it is (`vetting`), then whether Airflow can read them and compute from them. All of it is
done in the examiner's process, within what one document and one rollout may take of it.
"""

from __future__ import annotations

import collections
import contextlib
import posixpath
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from dagbundle import errors
from dagbundle.rollout import content
from dagbundle.rollout.model import Problem
from dagbundle.rollout.moves import Candidate, Move, WrittenDag
from dagbundle.targets.airflow import limits, vetting
from dagbundle.targets.airflow.child import DocumentError
from dagbundle.targets.airflow.examining import Examiner

Key = TypeVar("Key")

_FRESH = 60.0
"""Seconds for which the next run that was computed from a document counts, where another rollout is judged."""
_CARRIED = 900.0
"""Seconds for which it counts where what was judged is written. That happens in a transaction with locks on rows, which
nothing is computed in: judging the largest rollout takes minutes."""
_REMEMBERED = 10_000
"""Answers of the examiner that are remembered."""
_HINT = "mend that DAG, or what it names in Airflow"


class Documents:
    """Checks documents, and remembers the answers: what is judged is written right after.

    Args:
        examiner: Whose process decodes them.
        allowed: What they may name.
    """

    def __init__(self, examiner: Examiner, allowed: vetting.Allowed) -> None:
        self._examiner = examiner
        self._allowed = allowed
        self._answers: collections.OrderedDict[str, tuple[float, Mapping[str, Any]]] = collections.OrderedDict()

    def refused(self, candidates: Sequence[Candidate]) -> Mapping[str, Problem]:
        """Return what is wrong with DAGs that a publication would write, by dag_id.

        Raises:
            TargetError: They take more than a rollout may take.
        """
        found: dict[str, Problem] = {}
        budget = _Budget(len(candidates))

        def documents() -> Iterator[tuple[Candidate, str, Mapping[str, Any]]]:
            for item in candidates:
                document: dict[str, Any] = content.join(item.content)
                document["dag"]["fileloc"] = f"/{item.content.relative_fileloc or item.path}"
                yield item, item.content.sha256, document

        with contextlib.closing(self._examined(documents(), _FRESH)) as answers:
            for item, answer in answers:
                if isinstance(answer, DocumentError):
                    hint = f". Next: {answer.hint}" if answer.hint else ""
                    found[item.dag_id] = Problem(answer.reason, f"DAG {item.dag_id}: {answer.why}{hint}")
                budget.spend(f"DAG {item.dag_id}, file {item.path}", answer)
        return found

    def checked(
        self, dags: Sequence[WrittenDag], move: Move, dags_folder: str
    ) -> Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]:
        """Return the documents that a publication writes, each with what the examiner answered, in the same order.

        Args:
            dags: As above.
            move: The publication.
            dags_folder: Of this deployment, which stock Airflow puts into every DAG.

        Raises:
            TargetError: One of them may not be written; the message names it.
        """
        documents = {dag.dag_id: self._document(dag, move, dags_folder) for dag in dags}
        answers: dict[str, Mapping[str, Any]] = {}
        budget = _Budget(len(dags))
        asked = ((dag, dag.content.sha256, documents[dag.dag_id]) for dag in dags)
        with contextlib.closing(self._examined(asked, _CARRIED)) as examined:
            for dag, answer in examined:
                if isinstance(answer, DocumentError):
                    hint = answer.hint or (_HINT if answer.reason == "NotReadable" else "")
                    raise _named(dag, move, answer.why, hint, answer.reason) from answer
                budget.spend(f"DAG {dag.dag_id}, file {dag.path}", answer)
                answers[dag.dag_id] = answer
        return [(documents[dag.dag_id], answers[dag.dag_id]) for dag in dags]

    def _document(self, dag: WrittenDag, move: Move, dags_folder: str) -> dict[str, Any]:
        """Rebuild the serialized DAG, with the place where its file is in the image."""
        document: dict[str, Any] = content.join(dag.content)
        fileloc = posixpath.join(move.root, dag.relative_fileloc)
        if len(fileloc) > (most := vetting.LIMITS["dag.fileloc"]):
            try:
                vetting.refuse("the path of its file", fileloc, f"Airflow's column holds {most:,}")
            except errors.TargetError as error:
                raise _named(dag, move, error.message, error.hint, error.reason) from error
        content.place(document, root=move.root, dags_folder=dags_folder)
        return document

    def _known(self, sha256: str, seconds: float) -> Mapping[str, Any] | None:
        """Return what was answered so lately."""
        then, answer = self._answers.get(sha256, (0.0, None))
        return answer if time.monotonic() - then < seconds else None

    def _examined(
        self, documents: Iterable[tuple[Key, str, Mapping[str, Any]]], seconds: float
    ) -> Generator[tuple[Key, Mapping[str, Any] | DocumentError]]:
        """Return a key and an answer for each key, hash and document; what is remembered comes last."""
        known: list[tuple[Key, Mapping[str, Any]]] = []

        def unknown() -> Iterator[tuple[tuple[Key, str], Mapping[str, Any]]]:
            for key, sha256, document in documents:
                answer = self._known(sha256, seconds)
                if answer is None:
                    yield (key, sha256), document
                else:
                    known.append((key, {**answer, "cpu": 0.0}))

        with contextlib.closing(self._examiner.each(unknown(), self._allowed)) as answers:
            for (key, sha256), answer in answers:
                if not isinstance(answer, DocumentError):
                    self._answers[sha256] = (time.monotonic(), answer)
                    self._answers.move_to_end(sha256)
                    while len(self._answers) > _REMEMBERED:
                        self._answers.popitem(last=False)
                yield key, answer
        yield from known


class _Budget:
    """What the documents of one rollout may take of the examiner, which serves all bundles."""

    def __init__(self, documents: int) -> None:
        self._seconds = limits.ROLLOUT_CPU_SECONDS + documents * limits.DOCUMENT_CPU_SECONDS
        self._ended = limits.MAX_ENDED

    def spend(self, name: str, answer: Mapping[str, Any] | DocumentError) -> None:
        """Count an answer.

        Raises:
            TargetError: It is one too many.
        """
        self._seconds -= answer.cpu if isinstance(answer, DocumentError) else answer["cpu"]
        self._ended -= isinstance(answer, DocumentError) and answer.ended
        if self._seconds < 0 or self._ended < 0:
            said = f": {answer.why}" if isinstance(answer, DocumentError) else f" ({answer['cpu']:.1f} s of CPU time)"
            raise errors.TargetError(
                "Its DAGs keep Airflow busy for longer than a rollout may, or fill its memory, so not all of them were "
                f"looked at. The last one is {name}{said}",
                hint="mend it, and others like it; what was live stays until then",
                reason="NotReadable",
            )


def _named(dag: WrittenDag, move: Move, why: str, hint: str, reason: str) -> errors.TargetError:
    return errors.TargetError(
        f"DAG {dag.dag_id} of bundle {move.bundle}, file {dag.path}: {why}", hint=hint, reason=reason
    )
