"""A query made ready for its legs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.dates import PartialDate, dates_in
from sfm_graph.domain.names import MAX_NAME_WORDS, Name, find_longest, name_id, name_of
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.recall import RecallQuery, pool_size
from sfm_graph.domain.where import EVERYTHING, AllOf, Compare, Operator, Where
from sfm_graph.domain.words import query_terms, term_id
from sfm_graph.errors import InvalidInput, ModelMismatch
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.view import View
from sfm_graph.store import search
from sfm_graph.telemetry.stages import stage

MAX_QUERY_TERMS = 256
# Names are looked for in so many words of a query.
MAX_NAMING_WORDS = 64
MAX_NAMING_CHARS = 10_000
MAX_DATING_CHARS = 10_000
MAX_DATES = 16


@dataclass(frozen=True, slots=True)
class Said:
    """What a query says beside its words: every run of up to 16 words by its id as a name, and dates."""

    folded: Sequence[str]
    spans: Mapping[int, Name]
    dates: Sequence[PartialDate]

    def longest_names(self, known: set[int]) -> set[int]:
        """Of known names those that the query says, leftmost longest."""
        ids = {name: one for one, name in self.spans.items() if one in known}
        found = find_longest(self.folded, lambda _: True, ids.__contains__)
        return {ids[one.name] for one in found}


@dataclass(frozen=True, slots=True)
class Question:
    """`terms`: stem -> id. `vector` None: no dense leg. `allowed` None: no filter; else ids, ascending.

    `dense`, `lexical`: shares that sum to 1 of the legs that can run.
    """

    query: RecallQuery
    terms: Mapping[str, int]
    vector: NDArray[np.float32] | None
    allowed: NDArray[np.int64] | None
    said: Said
    pool: int
    dense: float
    lexical: float
    now: float


async def question_of(view: View, namespace: Namespace, query: RecallQuery, indexing: Indexing) -> Question:
    """Embeds the query, cuts it into terms, and reads what the filter keeps.

    Raises ModelMismatch when the query cannot be embedded with the namespace's model, InvalidInput for weights
    that turn every leg off.
    """
    dense, lexical = query.weights.shares(indexing.dense_share(namespace))
    if dense + lexical == 0:
        raise InvalidInput("dense and lexical must not both be 0", field="weights")
    terms: dict[str, int] = {}
    if lexical > 0:
        found = query_terms(query.text, namespace.settings.language)[:MAX_QUERY_TERMS]
        terms = {term: term_id(term) for term in found}
    vector = await _vector(namespace, query, indexing) if dense > 0 else None
    # A query without words, or without a vector, leaves all to the other leg.
    dense, lexical = (dense if vector is not None else 0.0), (lexical if terms else 0.0)
    total = dense + lexical or 1.0
    where = _filtered(query, view.now)
    allowed = None if where is None else await search.matching_ids(view.session, namespace.id, where)
    return Question(
        query, terms, vector, allowed, _said(query.text), pool_size(query.first), dense / total, lexical / total,
        view.now.timestamp(),
    )  # fmt: skip


def _said(text: str) -> Said:
    folded = name_of(text[:MAX_NAMING_CHARS])[:MAX_NAMING_WORDS]
    spans = {
        name_id(name): name
        for begin in range(len(folded))
        for end in range(begin + 1, min(len(folded), begin + MAX_NAME_WORDS) + 1)
        for name in [folded[begin:end]]
    }
    return Said(folded, spans, list(dict.fromkeys(dates_in(text[:MAX_DATING_CHARS])))[:MAX_DATES])


async def _vector(namespace: Namespace, query: RecallQuery, indexing: Indexing) -> NDArray[np.float32] | None:
    if query.embedding is None:
        with stage("recall.embed"):
            vector = await indexing.query_vector(namespace, query.text)
        return vector if vector.any() else None
    model = namespace.model
    if model is not None and len(query.embedding) != model.identity.dimension:
        raise ModelMismatch(
            f"the embedding has {len(query.embedding)} dimensions, the namespace's model is {model.identity}",
            namespace=namespace.name,
        )
    return query.embedding


def _filtered(query: RecallQuery, now: datetime) -> Where | None:
    """The filter with the kinds and validity in it; None when nothing is filtered."""
    if not query.kinds and query.where == EVERYTHING:
        return None
    valid = (Compare("valid_from", Operator.LTE, now), Compare("valid_to", Operator.GT, now))
    if not query.kinds:
        return AllOf((*valid, query.where))
    kinds = Compare("kind", Operator.IN, tuple(kind.value for kind in query.kinds))
    return AllOf((*valid, kinds, query.where))
