"""Building HNSW indexes over ranges of a namespace's vectors, in the background, beside reads and writes.

A range has two indexes of one predicate each: `<name>` over own parts, `<name>_windows` over windows. A new index is
built beside those it replaces and takes their place in one transaction; what serves no range is dropped later. At
every moment the ranges that a reader found are disjoint and have a valid index each: the same, or one that covers it.
"""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from psycopg import AsyncConnection, sql

from sfm_graph.domain.namespace import ModelIdentity
from sfm_graph.store.database import Database, Session
from sfm_graph.store.statements import statement

INDEXER_LOCK = 0x5F6D6772_61706802
# MiniLM, recall@10 at ef_search 100 / 150 / 300 with 16 links .977 / .984 / .997, with 24 .987 / .995 / .999 (100k).
LINKS_PER_ROW = 24
CANDIDATES = 128
# Of a row in the graph of a build, beside its vector (measured 715 with 16 links).
GRAPH_BYTES = 1_000
# Larger ranges need wider searches: four of 250k rows take little longer than one of 1M (ef_search 600: .987 to
# .991), take a quarter of the memory to build, and are never joined again.
MAX_ROWS = 250_000
MIN_BUILD_BYTES = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class Span:
    """Vectors of one namespace and model: those with an id in (after, last_id]."""

    namespace_id: int
    model_id: int
    identity: ModelIdentity
    after: int
    last_id: int


@dataclass(frozen=True, slots=True)
class Range:
    """A span that indexes serve. `built`: its rows when they were built; `deleted`: of all vectors, ever, by now."""

    span: Span
    name: str
    built: int
    deleted: int


async def tails(database: Database) -> list[Span]:
    """The vectors after the last range of every namespace and model that has such; they are not counted."""
    async with database.read() as session:
        rows = await session.rows("vector_heads")
    return [Span(row[0], row[1], ModelIdentity(*row[2:5]), row[5], row[6]) for row in rows]


async def ranges(database: Database) -> list[Range]:
    """Every range that indexes serve, by namespace, model and ids."""
    async with database.read() as session:
        rows = await session.rows("vector_ranges")
    return [
        Range(Span(row[0], row[1], ModelIdentity(*row[2:5]), row[5] - 1, row[6]), row[7], row[8], row[9])
        for row in rows
    ]


async def length(database: Database, span: Span) -> int:
    """How many vectors a span holds. O(vectors)."""
    async with database.read() as session:
        (count,) = await session.one("vector_length", **_bounds(span))
    return int(count)


async def cut(database: Database, span: Span, rows: int) -> Span:
    """The span's first rows."""
    async with database.read() as session:
        (last_id,) = await session.one("vector_cut", rows=rows, **_bounds(span))
    return replace(span, last_id=last_id or span.last_id)


async def capacity(database: Database, identity: ModelIdentity) -> int:
    """How many vectors of a model one index may hold, so that it is built in memory."""
    return max(1, min(await _build_memory(database) * 4 // 5 // _row_bytes(identity), MAX_ROWS))


async def build(database: Database, span: Span, replaced: Sequence[Range] = ()) -> bool:
    """Index a span without blocking writes; it then serves in place of the ranges in it. One build a database.

    False when another process builds, or the namespace was deleted meanwhile.
    """
    rows = await length(database, span)
    needed = min(max(rows * _row_bytes(span.identity) * 5 // 4, MIN_BUILD_BYTES), await _build_memory(database))
    async with _indexer(database) as connection:
        if connection is None:
            return False
        await connection.execute("set statement_timeout = 0")
        await connection.execute(sql.SQL("set maintenance_work_mem = {}").format(f"{needed // 1024}kB"))
        name = f"hnsw_{span.namespace_id}_{span.model_id}_{secrets.token_hex(6)}"
        await connection.execute(_create(span, name, sql.SQL("part >= 0")))
        await connection.execute(_create(span, f"{name}_windows", sql.SQL("part < 0")))
        return await _switch(connection, span, name, replaced)


async def retire(database: Database, empty: Sequence[Range]) -> None:
    """Take all ranges of a namespace and model out of service: vectors of it, should there be any, are scanned."""
    async with _indexer(database) as connection:
        if connection is not None:
            span, names = empty[0].span, [one.name for one in empty]
            parameters = {"namespace_id": span.namespace_id, "names": names}
            await connection.execute(statement("vector_range_retire"), parameters)


async def drop_unfinished(database: Database) -> None:
    """Remove the indexes that serve no range: replaced ones, and what builds that were cut off have left behind."""
    async with database.read() as session:
        if not await session.rows("vector_index_unfinished") and not await session.rows("vector_index_retired"):
            return
    async with _indexer(database) as connection:
        if connection is None:
            return
        await connection.execute("set statement_timeout = 0")
        for (name,) in await Session(connection).rows("vector_index_unfinished"):
            await connection.execute(sql.SQL("drop index concurrently if exists {}").format(sql.Identifier(name)))
        await connection.execute(statement("vector_index_forget"))


async def _build_memory(database: Database) -> int:
    async with database.read() as session:
        (size,) = await session.one("vector_build_memory")
    return int(size)


def _row_bytes(identity: ModelIdentity) -> int:
    return 2 * identity.dimension + GRAPH_BYTES


def _bounds(span: Span) -> dict[str, int]:
    return {
        "namespace_id": span.namespace_id, "model_id": span.model_id, "after": span.after, "last_id": span.last_id
    }  # fmt: skip


def _create(span: Span, name: str, kind: sql.SQL) -> sql.Composed:
    return sql.SQL(
        "create index concurrently {name} on embeddings "
        "using hnsw ((embedding::halfvec({dimension})) halfvec_ip_ops) "
        "with (m = {links}, ef_construction = {candidates}) "
        "where namespace_id = {namespace} and model_id = {model} and id >= {first} and id <= {last} and {kind}"
    ).format(
        name=sql.Identifier(name),
        dimension=sql.Literal(span.identity.dimension),
        links=sql.Literal(LINKS_PER_ROW),
        candidates=sql.Literal(CANDIDATES),
        namespace=sql.Literal(span.namespace_id),
        model=sql.Literal(span.model_id),
        first=sql.Literal(span.after + 1),
        last=sql.Literal(span.last_id),
        kind=kind,
    )


async def _switch(connection: AsyncConnection, span: Span, name: str, replaced: Sequence[Range]) -> bool:
    scope = {"namespace_id": span.namespace_id, "name": name}
    async with connection.transaction():
        await connection.execute(statement("vector_range_retire"), {**scope, "names": [one.name for one in replaced]})
        cursor = await connection.execute(
            statement("vector_range_serves"),
            {**scope, "model_id": span.model_id, "first_id": span.after + 1, "last_id": span.last_id},
        )
        return cursor.rowcount == 1


@asynccontextmanager
async def _indexer(database: Database) -> AsyncIterator[AsyncConnection | None]:
    """A connection that alone may build and drop indexes; None while another process does."""
    async with database.owned() as connection:
        row = await (await connection.execute("select pg_try_advisory_lock(%s)", (INDEXER_LOCK,))).fetchone()
        if not (row and row[0]):
            yield None
            return
        try:
            yield connection
        finally:
            if not connection.closed:
                # At once: the server notices only later that a connection was closed.
                await connection.execute("select pg_advisory_unlock(%s)", (INDEXER_LOCK,))
