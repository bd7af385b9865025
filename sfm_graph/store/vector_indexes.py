"""Building HNSW indexes over ranges of a namespace's vectors, in the background, beside reads and writes."""

from dataclasses import dataclass

from psycopg import AsyncConnection, sql

from sfm_graph.domain.namespace import ModelIdentity
from sfm_graph.store.database import Database, Session
from sfm_graph.store.statements import statement

INDEXER_LOCK = 0x5F6D6772_61706802
# 100k x 384 dimensions are built in 30-47 s with this much, and in many minutes once it is exceeded.
BUILD_MEMORY = "1GB"


@dataclass(frozen=True, slots=True)
class Tail:
    """Vectors of one namespace and model that no index covers: those with an id in (indexed_to, last_id]."""

    namespace_id: int
    model_id: int
    identity: ModelIdentity
    indexed_to: int
    last_id: int

    @property
    def index_name(self) -> str:
        """Unique for the range."""
        return f"hnsw_{self.namespace_id}_{self.model_id}_{self.indexed_to}_{self.last_id}"


async def tails(database: Database) -> list[Tail]:
    """The uncovered vectors of every namespace that has some; they are not counted."""
    async with database.read() as session:
        rows = await session.rows("vector_heads")
    return [Tail(row[0], row[1], ModelIdentity(*row[2:5]), row[5], row[6]) for row in rows]


async def length(database: Database, tail: Tail) -> int:
    """How many vectors a tail holds."""
    async with database.read() as session:
        (count,) = await session.one(
            "vector_tail", namespace_id=tail.namespace_id, model_id=tail.model_id, indexed_to=tail.indexed_to
        )
    return int(count)


async def build(database: Database, tail: Tail) -> bool:
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


async def _build(connection: AsyncConnection, tail: Tail) -> None:
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
            dimension=sql.Literal(tail.identity.dimension),
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
