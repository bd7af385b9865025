"""Recall: both legs on one snapshot, fused and explained."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.namespace import ModelIdentity, Namespace
from sfm_graph.domain.recall import (
    Candidates,
    Hit,
    Leg,
    LegResult,
    Recall,
    RecallQuery,
    RecallWeights,
    fuse,
    pool_size,
    union_of,
)
from sfm_graph.domain.where import EVERYTHING, AllOf, Compare, Operator, Where
from sfm_graph.domain.words import query_terms, term_id
from sfm_graph.errors import ModelMismatch
from sfm_graph.hot.text_index import Scores, TextIndex
from sfm_graph.services.hot_text import HotText
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.memory_reads import require_declared
from sfm_graph.services.view import View
from sfm_graph.store import memories, search

MAX_QUERY_TERMS = 256
_NOTHING = Recall(())


@dataclass(frozen=True, slots=True)
class _Question:
    """A query made ready. `terms`: stem -> id. `vector` None: no dense leg. `allowed` None: no filter."""

    terms: Mapping[str, int]
    vector: NDArray[np.float32] | None
    allowed: NDArray[np.int64] | None
    pool: int


class Recalls:
    """Finds memories by meaning and words."""

    def __init__(self, indexing: Indexing, hot_text: HotText) -> None:
        self._indexing = indexing
        self._hot_text = hot_text

    @property
    def model(self) -> ModelIdentity:
        """The model that computes the vectors of texts and queries."""
        return self._indexing.identity

    async def recall(self, view: View, namespace: str, query: RecallQuery) -> Recall:
        """The `first` best memories that the filter keeps and that are valid now, best first.

        Never fewer than `first` while the namespace holds as many with a vector.
        Raises ModelMismatch when the query cannot be embedded with the namespace's model.
        """
        found = await view.namespace(namespace)
        if found is None:
            return _NOTHING
        require_declared(query.where, found.settings.payload_paths)
        weights = query.weights or self._indexing.weights(found.model.identity if found.model else None)
        question = await self._question(view, found, query, weights)
        index = await self._hot_text.at(view, found)
        legs = await self._legs(view, found, index, question)
        ids = union_of(best for best, _ in legs.values())
        results = {
            leg: LegResult(best, await _raw(view, found, question, leg, scores, ids))
            for leg, (best, scores) in legs.items()
        }
        scored = fuse(ids, results, _present(weights, question), query.first)
        rows = await memories.by_ids(view.session, found.id, namespace, [one.id for one in scored])
        return Recall(tuple(Hit(rows[one.id], one.score, one.legs) for one in scored), hot=index is not None)

    async def _question(
        self, view: View, namespace: Namespace, query: RecallQuery, weights: RecallWeights
    ) -> _Question:
        terms: dict[str, int] = {}
        if weights.lexical > 0:
            terms = {term: term_id(term) for term in query_terms(query.text)[:MAX_QUERY_TERMS]}
        vector = await self._vector(namespace, query) if weights.dense > 0 else None
        where = _filtered(query, view.now)
        allowed = None
        if where is not None:
            allowed = await search.matching_ids(view.session, namespace.id, where)
        return _Question(terms, vector, allowed, pool_size(query.first))

    async def _vector(self, namespace: Namespace, query: RecallQuery) -> NDArray[np.float32] | None:
        model = namespace.model
        if query.embedding is None:
            namespace.require_model(self._indexing.identity)
            vector = await self._indexing.query_vector(query.text)
            return vector if vector.any() else None
        if model is not None and len(query.embedding) != model.identity.dimension:
            raise ModelMismatch(
                f"the embedding has {len(query.embedding)} dimensions, the namespace's model is {model.identity}",
                namespace=namespace.name,
            )
        return query.embedding

    async def _legs(
        self,
        view: View,
        namespace: Namespace,
        index: TextIndex | None,
        question: _Question,
    ) -> dict[Leg, tuple[Candidates, Scores | Candidates]]:
        legs: dict[Leg, tuple[Candidates, Scores | Candidates]] = {}
        now = view.now.timestamp()
        if question.vector is not None and namespace.model is not None:
            if index is not None and index.has_vectors:
                scores = await asyncio.to_thread(index.dense, question.vector, now, question.allowed)
                legs[Leg.DENSE] = (scores.best(question.pool), scores)
            else:
                model = (namespace.model.id, namespace.model.identity.dimension)
                best = await search.dense(
                    view.session, namespace.id, model, question.vector, question.pool, question.allowed
                )
                legs[Leg.DENSE] = (best, best)
        if question.terms:
            if index is not None:
                scores = await asyncio.to_thread(index.lexical, list(question.terms.values()), now, question.allowed)
                legs[Leg.LEXICAL] = (scores.best(question.pool), scores)
            else:
                matched = await search.lexical(view.session, namespace.id, question.terms)
                legs[Leg.LEXICAL] = (_allowed(matched, question), matched)
        return legs


async def _raw(
    view: View,
    namespace: Namespace,
    question: _Question,
    leg: Leg,
    scores: Scores | Candidates,
    ids: NDArray[np.int64],
) -> NDArray[np.float64]:
    if isinstance(scores, Scores):
        return scores.of(ids)
    if leg is Leg.DENSE and question.vector is not None and namespace.model is not None:
        return await search.similarities(view.session, namespace.id, namespace.model.id, question.vector, ids)
    known = dict(zip(scores.ids.tolist(), scores.scores.tolist(), strict=True))
    return np.array([known.get(one, 0.0) for one in ids.tolist()])


def _allowed(matched: Candidates, question: _Question) -> Candidates:
    if question.allowed is None:
        return Candidates(matched.ids[: question.pool], matched.scores[: question.pool])
    kept = np.isin(matched.ids, question.allowed)
    return Candidates(matched.ids[kept][: question.pool], matched.scores[kept][: question.pool])


def _filtered(query: RecallQuery, now: datetime) -> Where | None:
    """The filter with the kinds and validity in it; None when nothing is filtered."""
    if not query.kinds and query.where == EVERYTHING:
        return None
    valid = (Compare("valid_from", Operator.LTE, now), Compare("valid_to", Operator.GT, now))
    if not query.kinds:
        return AllOf((*valid, query.where))
    kinds = Compare("kind", Operator.IN, tuple(kind.value for kind in query.kinds))
    return AllOf((*valid, kinds, query.where))


def _present(weights: RecallWeights, question: _Question) -> RecallWeights:
    """Weights of the legs that could run: a query without words, or without a vector, leaves all to the other."""
    dense = weights.dense if question.vector is not None else 0.0
    lexical = weights.lexical if question.terms else 0.0
    return RecallWeights(dense, lexical) if dense + lexical > 0 else RecallWeights(1.0, 1.0)
