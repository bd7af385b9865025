"""A ledger in one table of a Postgres database: for consumers of one group that run on several machines."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager

import psycopg
from psycopg_pool import AsyncConnectionPool

from sfm_consumers.ledger import Place
from sfm_graph.errors import DatabaseUnavailable

_TABLE = """
create table if not exists sfm_consumer_ledger (
    consumer text not null, topic text not null, log text not null, key text collate "C" not null,
    sequence bigint not null,
    primary key (consumer, topic, log, key)
)
"""
# With the wait for a connection; a batch's statement takes milliseconds.
_STATEMENT_SECONDS = 30.0
# `create table if not exists` fails when two do it at the same time.
_ALONE = "select pg_advisory_xact_lock(hashtextextended('sfm_consumer_ledger', 0))"
_LAST = """
select log, key, sequence from sfm_consumer_ledger
where consumer = %s and topic = %s and (log, key) in (select * from unnest(%s::text[], %s::text[]))
"""
_RECORD = """
insert into sfm_consumer_ledger as old (consumer, topic, log, key, sequence)
select %s, %s, * from unnest(%s::text[], %s::text[], %s::bigint[])
on conflict (consumer, topic, log, key) do update set sequence = excluded.sequence
where excluded.sequence > old.sequence
"""


class PostgresLedger:
    """A table that is made by the first one to open it; its role needs the right to create it, or to use it."""

    def __init__(self, dsn: str, consumer: str, *, timeout_seconds: float = 5.0) -> None:
        self._consumer = consumer
        self._pool = AsyncConnectionPool(
            dsn,
            min_size=1,
            max_size=4,
            timeout=timeout_seconds,
            open=False,
            check=AsyncConnectionPool.check_connection,
            kwargs={"autocommit": True},
            name="sfm-consumer-ledger",
        )

    async def open(self) -> None:
        """Connect, and make the table where there is none. Raises DatabaseUnavailable; may be called again then."""
        async with _border():
            await self._pool.open()
            async with self._pool.connection() as connection, connection.transaction():
                await connection.execute(_ALONE)
                await connection.execute(_TABLE)

    async def last(self, topic: str, places: Collection[Place]) -> Mapping[Place, int]:
        logs, keys = [place.log for place in places], [place.key for place in places]
        async with _border(), self._pool.connection() as connection:
            rows = await connection.execute(_LAST, (self._consumer, topic, logs, keys))
            return {Place(log, key): sequence for log, key, sequence in await rows.fetchall()}

    async def record(self, topic: str, handled: Mapping[Place, int]) -> None:
        if not handled:
            return
        # Two that record the same places lock their rows in the same order.
        rows = sorted((place.log, place.key, sequence) for place, sequence in handled.items())
        columns = [list(column) for column in zip(*rows, strict=True)]
        async with _border(), self._pool.connection() as connection:
            await connection.execute(_RECORD, (self._consumer, topic, *columns))

    async def aclose(self) -> None:
        await self._pool.close()


@asynccontextmanager
async def _border() -> AsyncIterator[None]:
    """What the database or its absence raises becomes DatabaseUnavailable."""
    try:
        async with asyncio.timeout(_STATEMENT_SECONDS):
            yield
    except (psycopg.Error, TimeoutError) as error:
        raise DatabaseUnavailable(f"ledger: {type(error).__name__}: {error}") from error
