"""An audit in a Postgres table."""

from collections.abc import Sequence

import orjson
import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from sfm_consumers.contract import Poison, Received, Retry
from sfm_consumers.effects.audit_chain import record_of

_CREATE = """
create table if not exists sfm_audit (
    id            text collate "C" primary key,
    received_at   timestamptz not null default now(),
    log           text collate "C" not null,
    sequence      bigint not null,
    at            timestamptz not null,
    namespace     text collate "C" not null,
    namespace_id  bigint not null,
    entity        text collate "C" not null,
    entity_id     bigint not null,
    operation     text collate "C" not null,
    before        jsonb,
    after         jsonb,
    truncated     boolean not null default false
)"""
_CREATE_INDEX = "create index if not exists sfm_audit_entity on sfm_audit (namespace, entity, entity_id, sequence)"
_INSERT = """
insert into sfm_audit (id, log, sequence, at, namespace, namespace_id, entity, entity_id, operation, before, after,
                       truncated)
values (%(id)s, %(log)s, %(sequence)s, %(at)s, %(namespace)s, %(namespace_id)s, %(entity)s, %(entity_id)s,
        %(operation)s, %(before)s::jsonb, %(after)s::jsonb, %(truncated)s)
on conflict (id) do nothing"""
# Of a table that an earlier release made.
_ADD_TRUNCATED = "alter table sfm_audit add column if not exists truncated boolean not null default false"
_EXISTS = """
select to_regclass('sfm_audit') is not null,
       exists (select from pg_attribute where attrelid = to_regclass('sfm_audit') and attname = 'truncated'
               and not attisdropped)"""


class AuditTable:
    """Inserts events into `sfm_audit`, each id once, one transaction a call. Raises Retry while it cannot."""

    def __init__(self, dsn: str, timeout_seconds: float) -> None:
        self._pool = AsyncConnectionPool(
            dsn, min_size=0, max_size=4, timeout=timeout_seconds, open=False,
            kwargs={"connect_timeout": max(int(timeout_seconds), 2)},
        )  # fmt: skip

    async def open(self) -> None:
        """Connect; make the table unless it is there."""
        await self._pool.open()
        try:
            async with self._pool.connection() as connection:
                there, complete = await (await connection.execute(_EXISTS)).fetchone() or (False, False)
                # A role that may only insert need not be allowed to create.
                if not there:
                    await connection.execute(_CREATE)
                    await connection.execute(_CREATE_INDEX)
                elif not complete:
                    await connection.execute(_ADD_TRUNCATED)
        except (psycopg.Error, PoolTimeout) as error:
            await self._pool.close()
            raise Retry(f"the audit's database refuses: {error}") from error

    async def append(self, events: Sequence[Received]) -> None:
        """Insert what is not there yet; committed when this returns. Raises Poison for what no row holds."""
        rows = [record_of(event, "") for event in events]
        for row in rows:
            row.setdefault("truncated", False)
            for state in ("before", "after"):
                row[state] = None if row[state] is None else orjson.dumps(row[state]).decode()
        try:
            async with self._pool.connection() as connection, connection.cursor() as cursor:
                await cursor.executemany(_INSERT, rows)
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            if len(events) == 1:
                raise Poison(f"the audit's table refuses it: {error}", events[0]) from error
            for event in events:  # which of them it is shows by themselves
                await self.append([event])
        except (psycopg.Error, PoolTimeout) as error:
            raise Retry(f"the audit's database refuses: {error}") from error

    async def aclose(self) -> None:
        """Close the connections."""
        await self._pool.close()
