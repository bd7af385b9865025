"""What became of predictions."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sfm_graph.domain import validate
from sfm_graph.domain.access import Scope
from sfm_graph.domain.foresight import (
    MAX_OUTCOME_CHARS,
    OUTCOME_OF,
    JudgedBy,
    brier,
    confidence_of,
    correctness,
    outcome_key,
)
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory, MemoryKind
from sfm_graph.errors import IdempotencyConflict, InvalidInput, MemoryNotFound
from sfm_graph.services.access.guard import needs
from sfm_graph.services.embedders import Embedders
from sfm_graph.services.link_batch import LinkRequest
from sfm_graph.services.links import Links
from sfm_graph.services.memory_writes import MemoryWrites
from sfm_graph.store import memories, namespaces
from sfm_graph.store.database import Database


@dataclass(frozen=True, slots=True)
class ReportedOutcome:
    """An outcome as stored. `correct` in [0, 1]: how far the prediction came true; `error`: its Brier score."""

    memory: Memory
    link: Link
    correct: float
    error: float
    judged_by: JudgedBy


class Outcomes:
    """Outcomes are memories: EPISODIC, linked `outcome_of` to the prediction, with its error."""

    def __init__(self, database: Database, embedders: Embedders, memory_writes: MemoryWrites, links: Links) -> None:
        self._database = database
        self._embedders = embedders
        self._memory_writes = memory_writes
        self._links = links

    @needs(Scope.WRITE)
    async def report(
        self,
        namespace: str,
        prediction: MemoryRef,
        outcome: object,
        *,
        correct: object = None,
        value: object = None,
        agent: str | None = None,
        key: str | None = None,
    ) -> ReportedOutcome:
        """Store what happened, and how wrong the prediction was.

        `correct`, or `value` in [0, 1], says whether it came true; without both it is the cosine of the two texts,
        from 0 on. The same `key` of the same prediction again, or without one the same text, gives the same outcome;
        with another text it is an IdempotencyConflict. Raises MemoryNotFound, InvalidInput for what is no prediction.
        """
        text = validate.text(outcome, "outcome", max_chars=MAX_OUTCOME_CHARS).strip()
        if not text:
            raise InvalidInput("outcome must say what happened", field="outcome")
        said = correctness(correct, value)
        target, before = await self._read(namespace, prediction, key or text)
        confidence = confidence_of(target)
        if before is not None and before.payload.get("outcome") != text:
            raise IdempotencyConflict(f"key {key!r} was used for another outcome of this prediction", key=key)
        judged_by = JudgedBy.COSINE if said is None else JudgedBy.CALLER
        came_true = await self._cosine(target.content, text) if said is None else said
        error = brier(confidence, came_true)
        figures = {"correct": came_true, "error": error, "judged_by": judged_by.value}
        item: dict[str, Any] = {
            "key": outcome_key(target.id, key or text), "kind": MemoryKind.EPISODIC.value, "content": text,
            "payload": {"outcome": text, "of": target.global_id, **figures}, "agent": agent,
        }  # fmt: skip
        memory = (await self._memory_writes.store_many(namespace, [item], skip_unchanged=True)).stored[0].memory
        fields = {"type": OUTCOME_OF, "properties": {**figures, "confidence": confidence}, "agent": agent}
        request = LinkRequest({"id": memory.global_id}, {"id": target.global_id}, fields)
        link = (await self._links.link_many(namespace, [request], skip_unchanged=True)).stored[0].link
        return ReportedOutcome(memory, link, came_true, error, judged_by)

    async def _read(self, namespace: str, prediction: MemoryRef, key: str) -> tuple[Memory, Memory | None]:
        """The prediction, and the outcome of this key that is stored already."""
        async with self._database.read() as session:
            scope = await namespaces.by_name(session, namespace)
            found = await memories.find(session, scope.id, namespace, [prediction]) if scope else [None]
            if scope is None or found[0] is None:
                raise MemoryNotFound(f"no memory with {prediction} in {namespace!r}", namespace=namespace)
            ref = MemoryRef(key=outcome_key(found[0].id, key))
            return found[0], (await memories.find(session, scope.id, namespace, [ref]))[0]

    async def _cosine(self, prediction: str, outcome: str) -> float:
        """How alike two texts are by the service's own embedder, in [0, 1]."""
        embedder = self._embedders.default
        one, other = [await self._embedders.query_vector(embedder.identity, text) for text in (prediction, outcome)]
        return min(1.0, max(0.0, float(np.dot(one, other))))
