"""Predicting what comes next."""

from collections.abc import Mapping, Sequence
from typing import Any

from sfm_graph.domain import validate
from sfm_graph.domain.access import Scope
from sfm_graph.domain.foresight import (
    FOLLOWING_TYPES,
    LEAST_LIKENESS,
    MAX_EPISODES,
    MAX_EVIDENCE,
    MAX_HEADING_CHARS,
    MAX_PREDICTIONS,
    PREDICTED_FROM,
    PREDICTION_IMPORTANCE,
    Foreseen,
    Foresight,
    Method,
    Prediction,
    context_text,
    followed,
    foreseen,
    likeness_of,
    prediction_key,
    question,
    text_of,
)
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.memory import Memory, MemoryKind
from sfm_graph.domain.recall import Hit, Leg, RecallQuery
from sfm_graph.errors import BudgetSpent, InvalidInput, MemoryNotFound, PredictorUnavailable
from sfm_graph.services.access.guard import needs
from sfm_graph.services.idempotency import IdempotencyKey, kept_answer
from sfm_graph.services.link_batch import LinkRequest
from sfm_graph.services.links import Links
from sfm_graph.services.memory_batch import decode_bulk
from sfm_graph.services.memory_writes import MemoryWrites
from sfm_graph.services.prediction.predictions import Predictions
from sfm_graph.services.recall.recalls import Recalls
from sfm_graph.services.view import View, Views
from sfm_graph.store import foresight as store
from sfm_graph.store import memories

_NO_PRECEDENT = f"and nothing followed an episode that is like this (at least {LEAST_LIKENESS})"
# What followed one episode.
_MOST_FOLLOWERS = 5
# Agents of memories that are about predictions: the past is told by what happened.
_OWN_KEYS = ("outcome:", "insight:")


class Foresights:
    """Predictions are memories: SEMANTIC, linked `predicted_from` to what they rest on."""

    def __init__(
        self, views: Views, recalls: Recalls, memory_writes: MemoryWrites, links: Links, predictions: Predictions
    ) -> None:
        self._views = views
        self._recalls = recalls
        self._memory_writes = memory_writes
        self._links = links
        self._predictions = predictions

    @needs(Scope.READ)
    @needs(Scope.WRITE)
    async def predict(
        self,
        namespace: str,
        *,
        context: object = None,
        around: MemoryRef | None = None,
        first: object = 3,
        agent: str | None = None,
        key: IdempotencyKey | None = None,
    ) -> Foresight:
        """Up to `first` (1 to 10) predictions of what comes next, the likeliest first, stored.

        By the predictor, from what `context` recalls and what is around a memory. Without one, and when it is
        unavailable, by what followed the episodes that are most similar; there may then be none.
        Raises InvalidInput unless there is a context or a memory, MemoryNotFound, NamespaceNotFound, and what recall
        raises.
        """
        text, count = context_text(context), validate.integer(first, "first", low=1, high=MAX_PREDICTIONS)
        if text is None and around is None:
            raise InvalidInput("a prediction needs a context, or a memory that it is around", field="context")
        if key is not None and (kept := await self._kept(namespace, key)) is not None:
            return kept
        async with self._views.open() as view:
            await view.existing_namespace(namespace)
            here = await self._here(view, namespace, around)
            now = " ".join(part for part in (text, text_of(here) if here else None) if part)
            likeness = await self._similar(view, namespace, now, here)
            episodes = [one for one, _ in likeness]
            after = await self._after(view, namespace, episodes, here)
        found, method, reason = await self._foreseen(namespace, now, likeness, after, here, count)
        stored = await self._store(namespace, now, found, method, agent, key)
        await self._link(namespace, stored)
        return Foresight(tuple(_prediction(one) for one in stored), method, reason)

    async def _kept(self, namespace: str, key: IdempotencyKey) -> Foresight | None:
        async with self._views.open() as view:
            target = await view.namespace(namespace)
            kept = await kept_answer(view.session, target.id, "store", _own(key)) if target else None
        if kept is None:
            return None
        stored = [one.memory for one in decode_bulk(namespace, kept).stored]
        # The first time may have ended before they were linked.
        await self._link(namespace, stored)
        method = Method(stored[0].payload["method"]) if stored else Method.STRUCTURAL
        return Foresight(tuple(_prediction(one) for one in stored), method)

    async def _here(self, view: View, namespace: str, around: MemoryRef | None) -> Memory | None:
        if around is None:
            return None
        target = await view.existing_namespace(namespace)
        found = (await memories.find(view.session, target.id, namespace, [around]))[0]
        if found is None:
            raise MemoryNotFound(f"no memory with {around} in {namespace!r}", namespace=namespace)
        return found

    async def _similar(
        self, view: View, namespace: str, text: str, here: Memory | None
    ) -> list[tuple[Memory, float]]:
        """Memories and how like what is going on they are, the best first; never itself, nor about predictions."""
        query = RecallQuery(text=text[: validate.MAX_QUERY_CHARS], first=MAX_EPISODES, rerank=False)
        found = (await self._recalls.recall(view, namespace, query)).hits
        return [
            (one.memory, likeness_of(_cosine(one), text, one.memory))
            for one in found
            if not _is_own(one.memory) and (here is None or one.memory.id != here.id)
        ]

    async def _after(
        self, view: View, namespace: str, episodes: Sequence[Memory], here: Memory | None
    ) -> dict[int, list[Memory]]:
        """What followed episodes, by their ids. What followed the memory itself is no prediction: it has happened."""
        target = await view.existing_namespace(namespace)
        happened = [one for one in episodes if one.kind is MemoryKind.EPISODIC]
        ids = [one.id for one in happened]
        links = await store.followers(view.session, target.id, ids, FOLLOWING_TYPES, view.now, _MOST_FOLLOWERS)
        wanted = dict.fromkeys(one for ends in links.values() for one in ends if here is None or one != here.id)
        rows = await memories.find(view.session, target.id, namespace, [MemoryRef(id=one) for one in wanted])
        found = {one.id: one for one in rows if one is not None and not _is_own(one)}
        followed_by = {id_: [found[one] for one in ends if one in found] for id_, ends in links.items()}
        return {id_: after for id_, after in followed_by.items() if after}

    async def _foreseen(
        self,
        namespace: str,
        now: str,
        likeness: Sequence[tuple[Memory, float]],
        after: Mapping[int, Sequence[Memory]],
        here: Memory | None,
        first: int,
    ) -> tuple[list[Foreseen], Method, str | None]:
        near = {one.id: one for one in ([here] if here else [])}
        for one, _ in likeness:
            near |= {one.id: one} | {other.id: other for other in after.get(one.id, ())}
        evidence = list(near.values())[:MAX_EVIDENCE]
        try:
            answer = await self._predictions.ask(namespace, question(now, evidence, first))
            return foreseen(answer, evidence, first), Method.PREDICTOR, None
        except (PredictorUnavailable, BudgetSpent) as error:
            sources: dict[int, Memory] = {one.id: one for one, _ in likeness}
            found = followed(after, sources, {one.id: alike for one, alike in likeness}, first)
            return found, Method.STRUCTURAL, error.message if found else f"{error.message}; {_NO_PRECEDENT}"

    async def _store(
        self,
        namespace: str,
        now: str,
        found: Sequence[Foreseen],
        method: Method,
        agent: str | None,
        key: IdempotencyKey | None,
    ) -> list[Memory]:
        items_by_key = {
            one["key"]: one for one in (_item(each, now, method, self._predictions.model, agent) for each in found)
        }
        items = list(items_by_key.values())
        if not items and key is None:
            return []
        stored = await self._memory_writes.store_many(namespace, items, key=None if key is None else _own(key))
        return [one.memory for one in stored.stored]

    async def _link(self, namespace: str, stored: Sequence[Memory]) -> None:
        requests = [
            LinkRequest({"id": one.global_id}, {"id": evidence}, {"type": PREDICTED_FROM})
            for one in stored
            for evidence in one.payload["evidence"]
        ]
        if requests:
            # What is forgotten meanwhile is evidence no more.
            await self._links.link_many(namespace, requests, partial=True, skip_unchanged=True)


def _is_own(memory: Memory) -> bool:
    return "prediction" in memory.payload or (memory.key or "").startswith(_OWN_KEYS)


def _cosine(hit: Hit) -> float | None:
    return next((one.raw_score for one in hit.legs if one.leg is Leg.DENSE), None)


def _own(key: IdempotencyKey) -> IdempotencyKey:
    """The key among those of stored memories, which it shares with no other call."""
    return IdempotencyKey(key.principal, f"predict\n{key.key}", key.body)


def _item(one: Foreseen, now: str, method: Method, model: str | None, agent: str | None) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "prediction": one.text, "confidence": one.confidence, "method": method.value,
        "evidence": [other.global_id for other in one.evidence],
    }  # fmt: skip
    if method is Method.PREDICTOR:
        payload["model"] = model
    return {
        "key": prediction_key(now, one.text, method),
        "kind": MemoryKind.SEMANTIC.value,
        "title": f"Prediction: {one.text}"[:MAX_HEADING_CHARS],
        "content": one.text,
        "payload": payload,
        "importance": PREDICTION_IMPORTANCE,
        "agent": agent,
    }


def _prediction(memory: Memory) -> Prediction:
    return Prediction(memory, float(memory.payload["confidence"]), Method(memory.payload["method"]))
