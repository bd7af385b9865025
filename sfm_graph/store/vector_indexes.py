"""Building HNSW indexes over ranges of a namespace's vectors, in the background, beside reads and writes."""

from dataclasses import dataclass

from psycopg import AsyncConnection, sql

from sfm_graph.store.database import Database, Session
from sfm_graph.store.statements import statement

INDEXER_LOCK = 0x5F6D6772_61706802
# 100k x 384 dimensions are built in 30-47 s with this much, and in many minutes once it is exceeded.
BUILD_MEMORY = "1GB"


@dataclass(frozen=True, slots=True)
class Backlog:
    """Vectors of one namespace and model that no index covers: ids in (indexed_to, last_id]."""

    namespace_id: int
    model_id: int
    dimension: int
    indexed_to: int
    count: int
    last_id: int

    @property
    def index_name(self) -> str:
        """Unique for the range."""
        return f"hnsw_{self.namespace_id}_{self.model_id}_{self.indexed_to}_{self.last_id}"


async def backlog(database: Database, least: int) -> list[Backlog]:
    """The longest tails of at least `least` vectors."""
    async with database.read() as session:
        return [Backlog(*row) for row in await session.rows("vector_backlog", least=least)]


async def build(database: Database, tail: Backlog) -> bool:
    """Index a tail without blocking writes, one build at a time per database. False when another process builds."""
    async with database.raw() as connection:
        if not await _locked(connection):
            return False
        try:
            await connection.execute("set statement_timeout = 0")
            await connection.execute(sql.SQL("set maintenance_work_mem = {}").format(BUILD_MEMORY))
            await _build(connection, tail)
        finally:
            if not connection.closed:
                await connection.execute("select pg_advisory_unlock(%s)", (INDEXER_LOCK,))
                await connection.execute("reset maintenance_work_mem")
    return True


async def drop_unfinished(database: Database) -> None:
    """Remove what builds that were cut off have left behind."""
    async with database.raw() as connection:
        if not await _locked(connection):
            return
        try:
            for (name,) in await Session(connection).rows("vector_index_unfinished"):
                await _drop(connection, name)
                await connection.execute(statement("vector_index_forget"), {"name": name})
        finally:
            if not connection.closed:
                await connection.execute("select pg_advisory_unlock(%s)", (INDEXER_LOCK,))


async def drop(database: Database, names: list[str]) -> None:
    """Drop indexes without blocking writes."""
    async with database.raw() as connection:
        for name in names:
            await _drop(connection, name)


async def _build(connection: AsyncConnection, tail: Backlog) -> None:
    scope = {"namespace_id": tail.namespace_id, "name": tail.index_name}
    await connection.execute(
        statement("vector_index_register"),
        {**scope, "model_id": tail.model_id, "first_id": tail.indexed_to + 1, "last_id": tail.last_id},
    )
    await connection.execute(
        sql.SQL(
            "create index concurrently if not exists {name} on embeddings "
            "using hnsw ((embedding::halfvec({dimension})) halfvec_ip_ops) "
            "where namespace_id = {namespace} and model_id = {model} and id >= {first} and id <= {last}"
        ).format(
            name=sql.Identifier(tail.index_name),
            dimension=sql.Literal(tail.dimension),
            namespace=sql.Literal(tail.namespace_id),
            model=sql.Literal(tail.model_id),
            first=sql.Literal(tail.indexed_to + 1),
            last=sql.Literal(tail.last_id),
        )
    )
    await connection.execute(statement("vector_index_ready"), scope)


async def _drop(connection: AsyncConnection, name: str) -> None:
    await connection.execute(sql.SQL("drop index concurrently if exists {}").format(sql.Identifier(name)))


async def _locked(connection: AsyncConnection) -> bool:
    row = await (await connection.execute("select pg_try_advisory_lock(%s)", (INDEXER_LOCK,))).fetchone()
    return bool(row and row[0])
