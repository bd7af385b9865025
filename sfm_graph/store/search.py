"""Listings, filters and the search legs that run in SQL."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.memory import Memory
from sfm_graph.domain.page import OrderBy
from sfm_graph.domain.recall import BM25_B, BM25_K1, Candidates
from sfm_graph.domain.where import Where
from sfm_graph.store import where as built
from sfm_graph.store.database import ReadSession, Session
from sfm_graph.store.memories import array_text
from sfm_graph.store.rows import memory_from_row
from sfm_graph.store.search_columns import prefix_query, stems_query


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
    session: Session, namespace_id: int, where: Where, limit: int | None = None
) -> NDArray[np.int64]:
    """Ids of the memories that a filter keeps, ascending."""
    return await _packed_ids(session, *built.matching_ids(namespace_id, where, limit))


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
    kind: str | None, after: Sequence[float] | None, limit: int, valid: datetime | None = None,
) -> list[Memory]:  # fmt: skip
    """Memories in a coordinate box in coordinate order, after a coordinate; those `valid` at a time when given."""
    rows = await session.rows(
        "memory_range", namespace_id=namespace_id, low=array_text(tuple(low)), high=array_text(tuple(high)),
        kind=kind, after=array_text(tuple(after)) if after else "{}", limit=limit, valid=valid,
    )  # fmt: skip
    return [memory_from_row(namespace, row) for row in rows]


async def with_words(
    session: ReadSession, namespace_id: int, namespace: str, words: Sequence[str], *, prefix: bool,
    pattern: str | None, after: int, limit: int, valid: datetime | None = None,
) -> list[Memory]:  # fmt: skip
    """Memories that hold every word (or a word with each prefix), and match `pattern`, by id, after an id; those
    `valid` at a time when given."""
    query = prefix_query(namespace_id, words, prefix=prefix)
    rows = await session.rows(
        "memory_words",
        namespace_id=namespace_id,
        query=query,
        pattern=pattern,
        after=after,
        limit=limit,
        valid=valid,
    )
    return [memory_from_row(namespace, row) for row in rows]


async def lexical(session: ReadSession, namespace_id: int, terms: Mapping[str, int], at: datetime) -> Candidates:
    """BM25 of every memory that holds a term and is valid at a time, best first: the leg of a namespace that is not
    hot."""
    if not terms:
        return Candidates(np.empty(0, np.int64), np.empty(0))
    rows = await session.rows(
        "lexical_search", namespace_id=namespace_id, query=stems_query(namespace_id, terms),
        term_ids=list(terms.values()), k1=BM25_K1, b=BM25_B, limit=1_000_000, at=at,
    )  # fmt: skip
    return _candidates(rows)


def _candidates(rows: Sequence[Any]) -> Candidates:
    return Candidates(np.array([row[0] for row in rows], np.int64), np.array([row[1] for row in rows], np.float64))
