"""The dense leg in SQL: the nearest memories through HNSW indexes over id ranges, exactly where no index pays.

`part >= 0` are the vectors of a memory's own text, `part < 0` those of its window in a sequence.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from sfm_graph.domain.recall import Candidates, best_of
from sfm_graph.store.database import Session
from sfm_graph.store.vector_types import half_vectors, id_array

# Reading so many rows by key takes no longer than a search that a filter thins out, and is exact.
EXACT_FILTERED = 20_000
# MiniLM, recall@10 of indexes with 24 links at 100 / 150: 100k .987 / .995, 250k .990 / .994. Of several ranges each
# brings what the others might have missed.
EF_ALONE, EF_EACH = 150, 100
MAX_EF = 1_000  # pgvector's
# A filter that keeps one topic wants more: 250k, a tenth kept, .987 without this.
FILTERED_ROWS = 2
# What a filtered search may visit before the rows that the filter keeps are scanned instead.
MAX_SCAN_TUPLES = 60_000
# A filter's ids travel as bits while that is no longer than the ids themselves.
MAX_BITS_PER_ID = 64
# As in memory, where equal vectors do not score alike to the last digit.
DIGITS = 6
# Memories have several parts: what a search brings beyond `count` rows, when that was too little.
MORE_ROWS = 8


async def dense(
    session: Session, namespace_id: int, model: tuple[int, int], vector: NDArray[np.float32], count: int,
    allowed: NDArray[np.int64] | None, *, windows: bool = False, at: datetime | None = None,
) -> Candidates:  # fmt: skip
    """The `count` nearest memories that are valid, best first, ties by id; never fewer while there are more.

    `at`: when they have to be valid; now by default. `model`: row id and dimension. `vector`: unit length. `allowed`:
    ascending ids that a filter keeps, None: all. Scores are cosines: of a memory's nearest part, or of its window.
    """
    scope = _Scope(namespace_id, model, vector, allowed, windows=windows, at=at)
    if allowed is not None and len(allowed) <= EXACT_FILTERED:
        return _candidates(await session.dynamic(scope.among(count), scope.parameters))
    for factor in (1, MORE_ROWS):
        alone, each = (
            factor * max(least, count) * (1 if allowed is None else FILTERED_ROWS) for least in (EF_ALONE, EF_EACH)
        )
        # One round trip for the ranges and the settings that the next statement is planned and run with.
        ranges = await session.rows(
            "vector_indexes", namespace_id=namespace_id, model_id=model[0], alone=str(min(alone, MAX_EF)),
            each=str(min(each, MAX_EF)), max_scan_tuples=str(MAX_SCAN_TUPLES),
        )  # fmt: skip
        if not ranges:
            break
        rows = alone if len(ranges) == 1 else each
        found = await session.dynamic(scope.indexed(ranges, rows, count), scope.parameters)
        if len(found) == count:
            return _candidates(found)
    return _candidates(await session.dynamic(scope.exact(count), scope.parameters))


async def among(
    session: Session, namespace_id: int, model: tuple[int, int], vector: NDArray[np.float32], count: int,
    ids: NDArray[np.int64], *, windows: bool = False, at: datetime | None = None,
) -> Candidates:  # fmt: skip
    """As `dense`, of given memories, in any order: exactly, by reading the vectors of all of them."""
    scope = _Scope(namespace_id, model, vector, None, windows=windows, at=at)
    return _candidates(await session.dynamic(scope.among(count), {**scope.parameters, "allowed": id_array(ids)}))


async def similarities(
    session: Session, namespace_id: int, model_id: int, vector: NDArray[np.float32], ids: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosines of given memories and of their windows to a unit vector, parallel to `ids`; nan: no such vector."""
    rows = await session.rows(
        "vector_similarities", namespace_id=namespace_id, model_id=model_id, ids=id_array(ids),
        vector=half_vectors(vector[None])[0],
    )  # fmt: skip
    known = {row[0]: row[1:] for row in rows}
    pairs = np.array([known.get(one, (None, None)) for one in ids.tolist()], np.float64).reshape(-1, 2)
    return np.round(pairs[:, 0], DIGITS), np.round(pairs[:, 1], DIGITS)


# A hashed set of the few that are not valid costs less than a probe of the wide table for each vector.
_VALID = sql.SQL("""e.memory_id not in (
    select m.id from memories m where m.namespace_id = {namespace}
        and (m.valid_from > '-infinity' or m.valid_to < 'infinity')
        and (m.valid_from > {at} or m.valid_to <= {at}))""")
_NOW, _THEN = sql.SQL("now()"), sql.SQL("%(at)s::timestamptz")
_BEST = sql.SQL("""select p.memory_id, max(p.score) as score from ({rows}) p
    group by p.memory_id order by score desc, p.memory_id limit {count}""")
# The order must be the index expression's.
_INDEXED = sql.SQL("""(select e.memory_id, -(e.embedding::halfvec({dim}) <#> %(vector)s) as score from embeddings e
    where {owner} and e.id >= {first} and e.id <= {last} and {filter}
    order by e.embedding::halfvec({dim}) <#> %(vector)s limit {rows})""")
# `offset 0`: the similarity is computed before the sort, which then carries no vectors.
_EXACT = sql.SQL("""(select e.memory_id, -(e.embedding <#> %(vector)s) as score from embeddings e
    where {owner} and e.id > {after} and {filter} offset 0)""")
# From a subquery, since the planner would estimate each id of an array that it sees by itself.
_AMONG = sql.SQL("""(select e.memory_id, -(e.embedding <#> %(vector)s) as score from embeddings e
    where {owner} and e.memory_id = any((select %(allowed)s)::bigint[]) and {filter} offset 0)""")
# One bit for each id from the first to the last: nothing to build, nothing to estimate.
_IN_BITS = sql.SQL("""case when e.memory_id >= {first} and e.memory_id <= {last}
    then get_bit(%(bits)s, e.memory_id - {first}) = 1 else false end""")
# `is true` keeps it a hashed filter: as a join it would take the order from the index.
_IN_SET = sql.SQL("(e.memory_id in (select unnest(%(allowed)s))) is true")


class _Scope:
    """The statements of one search; ids are literals, so that the planner sees which partial index covers them."""

    def __init__(
        self,
        namespace_id: int,
        model: tuple[int, int],
        vector: NDArray[np.float32],
        allowed: NDArray[np.int64] | None,
        *,
        windows: bool,
        at: datetime | None = None,
    ) -> None:
        self.parameters: dict[str, Any] = {"vector": half_vectors(vector[None])[0]}
        if at is not None:
            self.parameters["at"] = at
        kind = sql.SQL("e.part < 0" if windows else "e.part >= 0")
        owner = sql.SQL("e.namespace_id = {} and e.model_id = {} and {}").format(namespace_id, model[0], kind)
        self._valid = _VALID.format(namespace=namespace_id, at=_NOW if at is None else _THEN)
        self._terms = {"dim": sql.Literal(model[1]), "owner": owner, "filter": self._valid}
        if allowed is not None:
            self._terms["filter"] = self._valid + sql.SQL(" and ") + self._allowed(allowed)

    def _allowed(self, ids: NDArray[np.int64]) -> sql.Composable:
        span = int(ids[-1] - ids[0]) + 1 if len(ids) else 1
        if len(ids) <= EXACT_FILTERED or span > MAX_BITS_PER_ID * len(ids):
            self.parameters["allowed"] = id_array(ids)
            return _IN_SET
        bits = np.zeros(span, np.uint8)
        bits[ids - ids[0]] = 1
        self.parameters["bits"] = np.packbits(bits, bitorder="little").tobytes()
        return _IN_BITS.format(first=sql.Literal(int(ids[0])), last=sql.Literal(int(ids[-1])))

    def among(self, count: int) -> sql.Composed:
        """The best of the few parts that are allowed."""
        return self._best([_AMONG.format(**{**self._terms, "filter": self._valid})], count)

    def indexed(self, ranges: Sequence[Any], rows: int, count: int) -> sql.Composed:
        """The best of the nearest `rows` parts of each (first, last) range and of all that come after the last."""
        searched = [
            _INDEXED.format(first=sql.Literal(first), last=sql.Literal(last), rows=sql.Literal(rows), **self._terms)
            for first, last in ranges
        ]
        return self._best([*searched, self._scanned(ranges[-1][1])], count)

    def exact(self, count: int) -> sql.Composed:
        """The best of all parts that are allowed."""
        return self._best([self._scanned(0)], count)

    def _scanned(self, after: int) -> sql.Composed:
        return _EXACT.format(after=sql.Literal(after), **self._terms)

    def _best(self, rows: Sequence[sql.Composed], count: int) -> sql.Composed:
        return _BEST.format(rows=sql.SQL(" union all ").join(rows), count=sql.Literal(count))


def _candidates(rows: Sequence[Any]) -> Candidates:
    scores = np.array([row[1] for row in rows], np.float64).round(DIGITS)
    return best_of(np.array([row[0] for row in rows], np.int64), scores, len(rows))
