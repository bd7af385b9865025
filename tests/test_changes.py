"""The change cursor loses nothing: writers with savepoints, rollbacks and idle transactions, several readers."""

import asyncio
import random

import psycopg
from psycopg import AsyncConnection

from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.services.registry import Services
from sfm_graph.store.database import Database
from sfm_graph.store.statements import statement

KEYS = 8


async def _write(dsn: str, namespace_id: int, seed: int, rounds: int, committed: set[int]) -> None:
    chosen = random.Random(seed)
    async with await AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("set role sfm_service")
        for _ in range(rounds):
            drawn: set[int] = set()
            try:
                async with connection.transaction():
                    for key in sorted(chosen.sample(range(KEYS), chosen.randint(1, 3))):
                        try:
                            async with connection.transaction():
                                drawn.add(await _append(connection, namespace_id, key))
                                if chosen.random() < 0.3:
                                    drawn.discard(max(drawn))
                                    raise psycopg.Rollback
                        except psycopg.Rollback:
                            pass
                        await asyncio.sleep(chosen.random() * 0.004)
                    if chosen.random() < 0.2:
                        drawn.clear()
                        raise psycopg.Rollback
            except psycopg.Rollback:
                pass
            committed |= drawn


async def _append(connection: AsyncConnection, namespace_id: int, key: int) -> int:
    # The row's lock first, then the change id: that is what makes ids order each key.
    await connection.execute("select pg_advisory_xact_lock(%s)", (key,))
    cursor = await connection.execute(
        "insert into changes (namespace_id, entity, entity_id, operation) "
        "values (%s, 'memory', %s, 'update') returning id",
        (namespace_id, key),
    )
    row = await cursor.fetchone()
    assert row
    return int(row[0])


async def _idle(dsn: str, namespace_id: int, stop: asyncio.Event) -> None:
    """A transaction that has an id and stays open for the whole run."""
    async with await AsyncConnection.connect(dsn) as connection:
        await connection.execute("select pg_current_xact_id()")
        await stop.wait()
        await connection.rollback()


async def _read(database: Database, namespace_id: int, stop: asyncio.Event) -> list[tuple[int, int]]:
    async with database.read() as session:
        since = session.snapshot
    seen: list[tuple[int, int]] = []
    while True:
        last = stop.is_set()
        async with database.read() as session:
            now = session.snapshot
            rows = await session.rows("changes_since", namespace_id=namespace_id, since=since)
        assert Snapshot(since).precedes(Snapshot(now))
        seen += [(row[0], row[2]) for row in rows]
        since = now
        if last:
            return seen
        await asyncio.sleep(0.003)


async def stress(services: Services, dsn: str, *, writers: int, rounds: int) -> int:
    """Write and read side by side; asserts that no reader loses, repeats or reorders anything. The rows written."""
    namespace = await services.namespaces.put("log", settings=None, model=None)
    database = Database(dsn, role="sfm_service")
    await database.open()
    stop, committed = asyncio.Event(), set[int]()
    idle = asyncio.create_task(_idle(dsn, namespace.id, stop))
    readers = [asyncio.create_task(_read(database, namespace.id, stop)) for _ in range(3)]
    await asyncio.sleep(0.05)
    await asyncio.gather(*(_write(dsn, namespace.id, seed, rounds, committed) for seed in range(writers)))
    stop.set()
    await idle
    for seen in await asyncio.gather(*readers):
        ids = [change for change, _ in seen]
        assert len(ids) == len(set(ids)), "a change was delivered twice"
        assert set(ids) == committed, "a change was lost"
        for key in range(KEYS):
            of_key = [change for change, entity in seen if entity == key]
            assert of_key == sorted(of_key), "one key's changes came out of order"
    await database.close()
    return len(committed)


async def test_a_cursor_loses_repeats_and_reorders_nothing(services: Services, database_dsn: str) -> None:
    assert await stress(services, database_dsn, writers=6, rounds=40) > 100


async def test_a_sequence_watermark_would_lose_changes(services: Services, database_dsn: str) -> None:
    """Why the cursor is a snapshot: a row with a lower id becomes visible after one with a higher id."""
    namespace = await services.namespaces.put("log", settings=None, model=None)
    async with (
        await AsyncConnection.connect(database_dsn) as slow,
        await AsyncConnection.connect(database_dsn) as quick,
    ):
        first = await _append(slow, namespace.id, 1)
        second = await _append(quick, namespace.id, 2)
        await quick.commit()
        cursor = await quick.execute("select max(id), pg_current_snapshot()::text from changes")
        row = await cursor.fetchone()
        assert row
        await quick.rollback()
        await slow.commit()
        by_watermark = await (await quick.execute("select id from changes where id > %s", (row[0],))).fetchall()
        by_snapshot = await (
            await quick.execute(statement("changes_since"), {"namespace_id": namespace.id, "since": row[1]})
        ).fetchall()
    assert first < second
    assert by_watermark == []
    assert [change[0] for change in by_snapshot] == [first]


def test_snapshots_are_comparable() -> None:
    assert Snapshot("10:10:").precedes(Snapshot("12:12:"))
    assert not Snapshot("12:12:").precedes(Snapshot("10:10:"))
    assert Snapshot("10:12:10").precedes(Snapshot("10:14:10,13"))
    assert not Snapshot("10:12:11").precedes(Snapshot("10:14:10,13"))
