"""What a user of pgvector would write: the ten nearest vectors by HNSW, and their contents."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import AsyncConnection, sql

from benchmarks.serving import say
from sfm_graph.domain.namespace import Namespace
from sfm_graph.store.vector_types import half_vectors, register_vector_types

# Below this an exact scan is what a user would have.
INDEXED_FROM = 20_000
TRIED = (20, 40, 60, 80, 100, 150, 200, 300, 400, 600, 800, 1_000)

_NEAREST = sql.SQL("""(select e.memory_id, e.embedding::halfvec({dim}) <#> %(vector)s as score from embeddings e
    where e.namespace_id = {namespace} and e.model_id = {model} and e.part >= 0 and e.id >= {first} and e.id <= {last}
    order by e.embedding::halfvec({dim}) <#> %(vector)s limit 10)""")
_CONTENTS = sql.SQL("""select m.id, m.content, n.score from (select * from ({nearest}) u order by score limit 10) n
    join memories m on m.namespace_id = {namespace} and m.id = n.memory_id order by n.score""")


async def _indexed(connection: AsyncConnection, namespace: Namespace) -> list[Any]:
    """An index as pgvector's documentation has it, over all vectors of the namespace."""
    assert namespace.model
    say("building the bare query's HNSW index")
    await connection.execute("set maintenance_work_mem = '1GB'")
    await connection.execute(
        sql.SQL(
            "create index if not exists {name} on embeddings using hnsw ((embedding::halfvec({dim})) halfvec_ip_ops) "
            "where namespace_id = {namespace} and model_id = {model} and part >= 0 and id >= 1 and id <= {last}"
        ).format(
            name=sql.Identifier(f"bare_{namespace.id}"),
            dim=sql.Literal(namespace.model.identity.dimension),
            namespace=sql.Literal(namespace.id),
            model=sql.Literal(namespace.model.id),
            last=sql.Literal(2**61),
        )
    )
    return [(1, 2**61)]


class Bare:
    """One connection with the query of one namespace: over each indexed range, or all vectors where there is none."""

    def __init__(self, connection: AsyncConnection, query: sql.Composed, ranges: int) -> None:
        self._connection = connection
        self._query = query
        self._ranges = ranges
        self._ef: int | None = None
        self._recall = 1.0

    @classmethod
    async def opened(cls, dsn: str, namespace: Namespace, memories: int) -> "Bare":
        """Connect, and find out which ranges are indexed; one index for all where the service needs none."""
        assert namespace.model
        connection = await AsyncConnection.connect(dsn, autocommit=True)
        await register_vector_types(connection)
        cursor = await connection.execute(
            "select first_id, last_id from vector_indexes where namespace_id = %s and model_id = %s and ready "
            "order by first_id",
            (namespace.id, namespace.model.id),
        )
        ranges = await cursor.fetchall()
        if not ranges and memories >= INDEXED_FROM:
            ranges = await _indexed(connection, namespace)
        names = {
            "dim": sql.Literal(namespace.model.identity.dimension),
            "namespace": sql.Literal(namespace.id),
            "model": sql.Literal(namespace.model.id),
        }
        spans = [*ranges, (ranges[-1][1] + 1 if ranges else 0, 2**62)]
        nearest = [_NEAREST.format(first=sql.Literal(one), last=sql.Literal(end), **names) for one, end in spans]
        joined = sql.SQL(" union all ").join(nearest)
        return cls(connection, _CONTENTS.format(nearest=joined, **names), len(ranges))

    async def aclose(self) -> None:
        await self._connection.close()

    async def ask(self, vector: NDArray[np.float32]) -> list[Any]:
        """The ids, contents and distances of the ten nearest."""
        parameters = {"vector": half_vectors(vector[None])[0]}
        cursor = await self._connection.execute(self._query, parameters, binary=True, prepare=False)
        return await cursor.fetchall()

    async def choose_ef(self, asked: NDArray[np.float32], right: NDArray[np.int64], recall: float) -> None:
        """Take the smallest ef_search that reaches a recall@10, or the largest there is."""
        if not self._ranges:
            return
        for ef in TRIED:
            await self._connection.execute(sql.SQL("set hnsw.ef_search = {}").format(ef))
            self._ef = ef
            shares = [
                len(set(expected) & {row[0] for row in await self.ask(vector)}) / len(expected)
                for vector, expected in zip(asked, right.tolist(), strict=True)
            ]
            self._recall = round(float(np.mean(shares)), 4)
            if self._recall >= recall:
                return

    def described(self) -> dict[str, Any]:
        """How the query searches."""
        if not self._ranges:
            return {"search": "exact"}
        return {"search": "HNSW", "ranges": self._ranges, "ef_search": self._ef, "recall@10": self._recall}
