"""The change cursor loses nothing: writers with savepoints, rollbacks and idle transactions, several readers."""

import asyncio
import random

import psycopg
from psycopg import AsyncConnection

from sfm_graph.domain.position import Position
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.services.registry import Services
from sfm_graph.store.change_stream import Scope, read_slice
from sfm_graph.store.database import Database

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


async def _read(database: Database, namespace_id: int, stop: asyncio.Event, limit: int) -> list[tuple[int, int]]:
    async with database.read() as session:
        position = Position(Snapshot(session.snapshot))
    seen: list[tuple[int, int]] = []
    while True:
        last = stop.is_set()
        async with database.read() as session:
            part = await read_slice(session, Scope(namespace_id), position, limit)
        assert position.seen.precedes(part.until)
        seen += [(one.id, one.entity_id) for one in part.changes]
        position = position.after(part)
        if last and part.complete and part.until.text == session.snapshot:
            return seen
        await asyncio.sleep(0.003)


async def stress(services: Services, dsn: str, *, writers: int, rounds: int) -> int:
    """Write and read side by side; asserts that no reader loses, repeats or reorders anything. The rows written."""
    namespace = await services.namespaces.put("log", settings=None, model=None)
    database = Database(dsn, role="sfm_service")
    await database.open()
    stop, committed = asyncio.Event(), set[int]()
    idle = asyncio.create_task(_idle(dsn, namespace.id, stop))
    readers = [asyncio.create_task(_read(database, namespace.id, stop, limit)) for limit in (1_000, 7, 1)]
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
    database = Database(database_dsn, role="sfm_service")
    await database.open()
    async with database.read() as session:
        part = await read_slice(session, Scope(namespace.id), Position(Snapshot(row[1])), 10)
    await database.close()
    assert first < second
    assert by_watermark == []
    assert [change.id for change in part.changes] == [first]


def test_snapshots_are_comparable() -> None:
    assert Snapshot("10:10:").precedes(Snapshot("12:12:"))
    assert not Snapshot("12:12:").precedes(Snapshot("10:10:"))
    assert Snapshot("10:12:10").precedes(Snapshot("10:14:10,13"))
    assert not Snapshot("10:12:11").precedes(Snapshot("10:14:10,13"))
