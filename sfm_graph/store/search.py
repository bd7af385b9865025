"""Listings, filters and the search legs that run in SQL."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from sfm_graph.domain.memory import Memory
from sfm_graph.domain.page import OrderBy
from sfm_graph.domain.recall import BM25_B, BM25_K1, Candidates, best_of
from sfm_graph.domain.where import Where
from sfm_graph.store import where as built
from sfm_graph.store.database import ReadSession, Session
from sfm_graph.store.memories import array_text
from sfm_graph.store.rows import memory_from_row
from sfm_graph.store.search_columns import prefix_query, stems_query
from sfm_graph.store.vector_types import half_vectors

# Below this many candidates an exact scan of just them beats an index with a filter.
EXACT_FILTERED = 10_000
# MiniLM on 30k rows: ef 40/100/200 gives recall .979/.992/.998.
EF_SEARCH = 200


async def list_memories(
    session: ReadSession,
    namespace_id: int,
    namespace: str,
    where: Where,
    order: OrderBy,
    after: Sequence[Any] | None,
    limit: int,
) -> list[Memory]:
    """Up to `limit` memories in order, after a place."""
    query, parameters = built.listing(namespace_id, where, order, after, limit)
    return [memory_from_row(namespace, row) for row in await session.dynamic(query, parameters)]


async def matching_ids(
    session: Session, namespace_id: int, where: Where, limit: int | None = None, *, lock: bool = False
) -> NDArray[np.int64]:
    """Ids of the memories that a filter keeps, ascending; with `lock` held, and still kept, until the end."""
    return await _packed_ids(session, *built.matching_ids(namespace_id, where, limit, lock=lock))


async def matching_link_ids(
    session: Session, namespace_id: int, where: Where, among: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Ids of the links that a filter keeps, ascending; of those `among` (any order, each once) when given."""
    return await _packed_ids(session, *built.matching_link_ids(namespace_id, where, among))


async def _packed_ids(session: Session, query: str, parameters: Mapping[str, Any]) -> NDArray[np.int64]:
    rows = await session.dynamic(query, parameters)
    return np.frombuffer(rows[0][0] or b"", ">i8").astype(np.int64)


async def in_box(
    session: ReadSession, namespace_id: int, namespace: str, low: Sequence[float], high: Sequence[float],
    kind: str | None, after: Sequence[float] | None, limit: int,
) -> list[Memory]:  # fmt: skip
    """Memories in a coordinate box in coordinate order, after a coordinate."""
    rows = await session.rows(
        "memory_range", namespace_id=namespace_id, low=array_text(tuple(low)), high=array_text(tuple(high)),
        kind=kind, after=array_text(tuple(after)) if after else "{}", limit=limit,
    )  # fmt: skip
    return [memory_from_row(namespace, row) for row in rows]


async def with_words(
    session: ReadSession, namespace_id: int, namespace: str, words: Sequence[str], *, prefix: bool,
    pattern: str | None, after: int, limit: int,
) -> list[Memory]:  # fmt: skip
    """Memories that hold every word (or a word with each prefix), and match `pattern`, by id, after an id."""
    query = prefix_query(namespace_id, words, prefix=prefix)
    rows = await session.rows(
        "memory_words", namespace_id=namespace_id, query=query, pattern=pattern, after=after, limit=limit
    )
    return [memory_from_row(namespace, row) for row in rows]


async def lexical(session: ReadSession, namespace_id: int, terms: Mapping[str, int]) -> Candidates:
    """BM25 of every memory that holds a term, best first: the leg of a namespace that is not hot."""
    if not terms:
        return Candidates(np.empty(0, np.int64), np.empty(0))
    rows = await session.rows(
        "lexical_search", namespace_id=namespace_id, query=stems_query(namespace_id, terms),
        term_ids=list(terms.values()), k1=BM25_K1, b=BM25_B, limit=1_000_000,
    )  # fmt: skip
    return _candidates(rows)


async def similarities(
    session: ReadSession,
    namespace_id: int,
    model_id: int,
    vector: NDArray[np.float32],
    ids: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Cosine of given memories to a unit vector, 0.0 for one without vectors; parallel to `ids`."""
    rows = await session.rows(
        "vector_similarities", namespace_id=namespace_id, model_id=model_id, ids=ids.tolist(),
        vector=half_vectors(vector[None])[0],
    )  # fmt: skip
    known: dict[int, float] = dict(rows)
    return np.array([known.get(one, 0.0) for one in ids.tolist()])


async def dense(
    session: ReadSession, namespace_id: int, model: tuple[int, int], vector: NDArray[np.float32], count: int,
    allowed: NDArray[np.int64] | None,
) -> Candidates:  # fmt: skip
    """The `count` nearest memories, best first; never fewer while there are more.

    `model`: row id and dimension. Ranges with an index are searched by it, the rest is scanned exactly; what a filter
    thins out is scanned exactly too, and so is everything when an index yields too little.
    """
    if allowed is not None and len(allowed) <= EXACT_FILTERED:
        return best_of(allowed, await similarities(session, namespace_id, model[0], vector, allowed), count)
    ranges = await session.rows("vector_indexes", namespace_id=namespace_id, model_id=model[0])
    scope = _Scope(namespace_id, model, vector, allowed)
    if ranges:
        await session.one("vector_search_settings", ef_search=str(max(EF_SEARCH, min(2 * count, 1000))))
        rows: list[Any] = []
        for _, first, last in ranges:
            rows += await session.dynamic(scope.indexed(first, last, 2 * count), scope.parameters)
        rows += await session.dynamic(scope.exact(ranges[-1][2], count), scope.parameters)
        found = _candidates(_best_parts(rows))
        if len(found.ids) >= count:
            return Candidates(found.ids[:count], found.scores[:count])
    return _candidates(await session.dynamic(scope.exact(0, count), scope.parameters))


# A hashed set of the few that are not valid now costs less than a probe of the wide table for each vector.
_VALID_NOW = sql.SQL("""e.memory_id not in (
    select m.id from memories m where m.namespace_id = {namespace}
        and (m.valid_from > '-infinity' or m.valid_to < 'infinity')
        and (m.valid_from > now() or m.valid_to <= now()))""")


class _Scope:
    """The statements of one dense search; ids are literals, so that partial indexes are seen by the planner."""

    def __init__(
        self,
        namespace_id: int,
        model: tuple[int, int],
        vector: NDArray[np.float32],
        allowed: NDArray[np.int64] | None,
    ) -> None:
        self.parameters: dict[str, Any] = {"vector": half_vectors(vector[None])[0]}
        self._names = {
            "namespace": sql.Literal(namespace_id),
            "model": sql.Literal(model[0]),
            "dim": sql.Literal(model[1]),
        }
        self._filter = _VALID_NOW.format(namespace=sql.Literal(namespace_id))
        if allowed is not None:
            self._filter += sql.SQL(" and e.memory_id = any(%(allowed)s)")
            self.parameters["allowed"] = allowed.tolist()

    def indexed(self, first: int, last: int, limit: int) -> sql.Composed:
        """The nearest parts of an indexed range; the order must be the index expression's."""
        return sql.SQL("""select e.memory_id, -(e.embedding::halfvec({dim}) <#> %(vector)s) from embeddings e
            where e.namespace_id = {namespace} and e.model_id = {model} and e.id >= {first} and e.id <= {last}
              and {filter}
            order by e.embedding::halfvec({dim}) <#> %(vector)s limit {limit}""").format(
            first=sql.Literal(first), last=sql.Literal(last), limit=sql.Literal(limit), filter=self._filter,
            **self._names,
        )  # fmt: skip

    def exact(self, after: int, limit: int) -> sql.Composed:
        """The nearest memories among the parts with id > `after`."""
        # `offset 0`: the similarity is computed before the sort, which then carries no vectors.
        return sql.SQL("""select p.memory_id, max(p.score) as score from (
                select e.memory_id, -(e.embedding <#> %(vector)s) as score from embeddings e
                where e.namespace_id = {namespace} and e.model_id = {model} and e.id > {after} and {filter} offset 0
            ) p group by p.memory_id order by score desc, p.memory_id limit {limit}""").format(
            after=sql.Literal(after), limit=sql.Literal(limit), filter=self._filter, **self._names
        )


def _best_parts(rows: Sequence[Any]) -> list[tuple[int, float]]:
    best: dict[int, float] = {}
    for memory_id, score in rows:
        best[memory_id] = max(score, best.get(memory_id, score))
    return sorted(best.items(), key=lambda item: (-item[1], item[0]))


def _candidates(rows: Sequence[Any]) -> Candidates:
    return Candidates(np.array([row[0] for row in rows], np.int64), np.array([row[1] for row in rows], np.float64))
