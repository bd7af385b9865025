"""Reflection: looking back for what keeps going wrong, surprises, or cannot be true any more."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sfm_graph.domain import validate
from sfm_graph.domain.access import Scope
from sfm_graph.domain.identity import Entity, MemoryId, MemoryRef, encode_global_id
from sfm_graph.domain.insights import (
    AGENT,
    EVIDENCED_BY,
    MAX_INSIGHTS,
    Finding,
    Insight,
    InsightKind,
    novel,
    question,
    recurrent_errors,
    surprising_outcomes,
    template,
)
from sfm_graph.domain.memory import Memory, MemoryKind
from sfm_graph.domain.namespace import Namespace
from sfm_graph.errors import BudgetSpent, PredictorUnavailable
from sfm_graph.services.access.guard import needs
from sfm_graph.services.link_batch import LinkRequest
from sfm_graph.services.links import Links
from sfm_graph.services.memory_writes import MemoryWrites
from sfm_graph.services.prediction.predictions import Predictions, shortened
from sfm_graph.services.vector_search import VectorSearch
from sfm_graph.services.view import View, Views
from sfm_graph.store import linking, memories
from sfm_graph.store import reflection as store

DEFAULT_PERIOD: Final = timedelta(days=30)
# Insights of one reflection that the predictor words; the others are worded by templates.
MAX_WORDED: Final = 10
_MAX_CHARS: Final = 600
# Earlier ones among so many nearest memories are looked for; without any a memory has become usual since.
_NEAREST: Final = 20
PREDICTOR, TEMPLATE = "predictor", "template"


@dataclass(frozen=True, slots=True)
class Reflection:
    """What was found, in the order of kinds. `more`: there is more than 50 insights of it."""

    insights: tuple[Insight, ...]
    more: bool

    @property
    def created(self) -> int:
        """How many insights are new."""
        return sum(one.created for one in self.insights)


class Reflections:
    """Insights are memories: SEMANTIC, linked `evidenced_by` to what bears them out."""

    def __init__(
        self, views: Views, vectors: VectorSearch, memory_writes: MemoryWrites, links: Links, predictions: Predictions
    ) -> None:
        self._views = views
        self._vectors = vectors
        self._memory_writes = memory_writes
        self._links = links
        self._predictions = predictions

    @needs(Scope.READ)
    @needs(Scope.WRITE)
    async def reflect(self, namespace: str, *, since: object = None, dry_run: bool = False) -> Reflection:
        """Look at what happened since a moment, the last 30 days by default, and at links as they are now.

        The same kind and evidence again is the same insight, which stays as it is. `dry_run`: nothing is written, and
        the predictor is not asked. Raises NamespaceNotFound.
        """
        async with self._views.open() as view:
            target = await view.existing_namespace(namespace)
            begin = _since(since, view.now)
            found = {one.key: one async for one in self._findings(view, target, begin)}
            chosen = list(found.values())[:MAX_INSIGHTS]
            known = await _known(view, target, chosen)
            evidence = await _evidence(view, target, [one for one in chosen if one.key not in known])
        insights = [_known_insight(one, known[one.key]) for one in chosen if one.key in known]
        fresh = [one for one in chosen if one.key not in known]
        worded = await self._worded(namespace, fresh, evidence, ask=not dry_run)
        stored = {} if dry_run else await self._store(namespace, worded)
        insights += [
            Insight(one, text, by, stored.get(one.key), one.key in stored or dry_run) for one, text, by in worded
        ]
        return Reflection(tuple(insights), len(found) > len(chosen))

    async def _findings(self, view: View, target: Namespace, since: datetime) -> AsyncIterator[Finding]:
        session, id_ = view.session, target.id
        judged = await store.judged(session, id_, since)
        for one in (
            *recurrent_errors(judged),
            *surprising_outcomes(judged),
            *novel(await self._alike(view, target, since)),
        ):
            yield one
        for link_id, source, end in await store.contradicting(session, id_, view.now):
            yield Finding(InsightKind.CONTRADICTION, "Two memories contradict each other.", (source, end), (link_id,))
        for rivals in await store.rivals(session, id_, target.settings.functional_types, view.now):
            says = f"A memory has several links of type {rivals.type} at once, of which only one can be right."
            evidence = tuple(dict.fromkeys((rivals.source, *rivals.targets)))
            yield Finding(InsightKind.CONTRADICTION, says, evidence, tuple(rivals.ids), {"type": rivals.type})
        for link in await store.stale(session, id_, view.now):
            why = "is no longer valid" if link.by is None else "has been superseded"
            says = f"A link of type {link.type} still holds though one of its ends {why}."
            evidence = tuple(dict.fromkeys((link.source, link.target, *(() if link.by is None else (link.by,)))))
            yield Finding(InsightKind.STALE_LINK, says, evidence, (link.id,), {"type": link.type})

    async def _alike(self, view: View, target: Namespace, since: datetime) -> dict[MemoryId, float]:
        """Of the latest episodes the highest cosine to any earlier memory; of some none is known."""
        if target.model is None:
            return {}
        session = view.session
        vectors = await linking.vectors(
            session, target.id, target.model.id, await store.recent(session, target.id, since)
        )
        found: dict[MemoryId, float] = {}
        for id_, parts in vectors.items():
            near = await self._vectors.nearest(session, target.id, target.model, parts[0], _NEAREST, None)
            earlier = [score for one, score in zip(near.ids.tolist(), near.scores.tolist(), strict=True) if one < id_]
            if earlier:
                found[id_] = max(earlier)
        return found

    async def _worded(
        self, namespace: str, findings: Sequence[Finding], evidence: Mapping[int, Memory], *, ask: bool
    ) -> list[tuple[Finding, str, str]]:
        """The findings with their words, and who found these. Once the predictor has failed it is asked no more."""
        worded = []
        for place, one in enumerate(findings):
            behind = [evidence[id_] for id_ in one.evidence if id_ in evidence]
            text, by = template(one, behind), TEMPLATE
            if ask and place < MAX_WORDED:
                try:
                    answer = await self._predictions.ask(namespace, question(one, behind))
                    text, by = shortened(answer["insight"], _MAX_CHARS), PREDICTOR
                except (PredictorUnavailable, BudgetSpent):
                    ask = False
            worded.append((one, text, by))
        return worded

    async def _store(self, namespace: str, worded: Sequence[tuple[Finding, str, str]]) -> dict[str, Memory]:
        if not worded:
            return {}
        items = [_item(namespace, *one) for one in worded]
        done = await self._memory_writes.store_many(namespace, items, partial=True, skip_unchanged=True)
        stored = {one.memory.key: one.memory for one in done.stored if one.memory.key is not None}
        requests = [
            LinkRequest({"id": memory.global_id}, {"id": evidence}, {"type": EVIDENCED_BY, "agent": AGENT})
            for memory in stored.values()
            for evidence in memory.payload["evidence"]
        ]
        if requests:
            # What is forgotten meanwhile is evidence no more.
            await self._links.link_many(namespace, requests, partial=True, skip_unchanged=True)
        return stored


def _since(value: object, now: datetime) -> datetime:
    if value is None:
        return now - DEFAULT_PERIOD
    given = validate.moment_from(value, "since", now, ahead=False) if isinstance(value, str) else None
    return given or validate.moment(value, "since") or now - DEFAULT_PERIOD


async def _known(view: View, target: Namespace, findings: Sequence[Finding]) -> dict[str, Memory]:
    """The insights that are stored already, by key."""
    refs = [MemoryRef(key=one.key) for one in findings]
    found = await memories.find(view.session, target.id, target.name, refs)
    return {one.key: one for one in found if one is not None and one.key is not None}


async def _evidence(view: View, target: Namespace, findings: Sequence[Finding]) -> dict[int, Memory]:
    refs = [MemoryRef(id=id_) for id_ in dict.fromkeys(id_ for one in findings for id_ in one.evidence)]
    found = await memories.find(view.session, target.id, target.name, refs)
    return {one.id: one for one in found if one is not None}


def _known_insight(finding: Finding, memory: Memory) -> Insight:
    return Insight(finding, memory.content, str(memory.payload.get("worded_by", TEMPLATE)), memory, False)


def _item(namespace: str, one: Finding, text: str, by: str) -> dict[str, Any]:
    payload = {
        "insight": one.kind.value, "worded_by": by, "figures": dict(one.figures),
        "evidence": [encode_global_id(Entity.MEMORY, namespace, id_) for id_ in one.evidence],
        "links": [encode_global_id(Entity.LINK, namespace, id_) for id_ in one.links],
    }  # fmt: skip
    return {"key": one.key, "kind": MemoryKind.SEMANTIC.value, "content": text, "payload": payload, "agent": AGENT}
