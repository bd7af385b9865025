"""One contract for every ledger, and what is particular to each."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from sfm_consumers.ledger import Ledger, Place
from sfm_consumers.ledgers.postgres import PostgresLedger
from sfm_consumers.ledgers.sqlite import SqliteLedger
from sfm_graph.errors import DatabaseUnavailable

TOPIC = "memory.events"
A, B, C = Place("log", "kn/1"), Place("log", "kn/2"), Place("other", "kn/1")

Opener = Callable[[str], Awaitable[Ledger]]


@pytest.fixture(params=["sqlite", "postgres"])
def dsn(request: pytest.FixtureRequest) -> str | None:
    """The database's; None for SQLite."""
    return str(request.getfixturevalue("database_dsn")) if request.param == "postgres" else None


@pytest.fixture
async def opener(dsn: str | None, tmp_path: Path) -> AsyncIterator[Opener]:
    """Opens the same ledger again and again, for the group it is given."""
    opened: list[Ledger] = []

    async def open_ledger(group: str) -> Ledger:
        ledger = PostgresLedger(dsn, group) if dsn else SqliteLedger(tmp_path / "a" / "ledger.sqlite", group)
        await ledger.open()
        opened.append(ledger)
        return ledger

    yield open_ledger
    for ledger in opened:
        await ledger.aclose()


async def test_what_is_recorded_is_there_for_the_next_process(opener: Opener) -> None:
    first = await opener("g")
    await first.record(TOPIC, {A: 5, B: 2**63 - 1})
    second = await opener("g")
    assert await second.last(TOPIC, {A, B, C}) == {A: 5, B: 2**63 - 1}


async def test_groups_topics_and_logs_know_nothing_of_each_other(opener: Opener) -> None:
    ledger = await opener("g")
    await ledger.record(TOPIC, {A: 5})
    assert await ledger.last("link.events", {A}) == {}
    assert await ledger.last(TOPIC, {C}) == {}
    assert await (await opener("h")).last(TOPIC, {A}) == {}


async def test_a_place_never_goes_back(opener: Opener) -> None:
    ledger = await opener("g")
    await ledger.record(TOPIC, {A: 5, B: 5})
    await ledger.record(TOPIC, {A: 4, B: 6})
    assert await ledger.last(TOPIC, {A, B}) == {A: 5, B: 6}


async def test_nothing_is_nothing(opener: Opener) -> None:
    ledger = await opener("g")
    await ledger.record(TOPIC, {})
    assert await ledger.last(TOPIC, set()) == {}


async def test_names_are_data(opener: Opener) -> None:
    ledger = await opener("g'; drop table handled; --")
    place = Place("l'%s", "kä'\"\U0001f600/1")
    await ledger.record("t'%(x)s", {place: 1})
    assert await ledger.last("t'%(x)s", {place}) == {place: 1}


async def test_many_record_at_the_same_time_in_several_processes(opener: Opener) -> None:
    ledgers = [await opener("g"), await opener("g")]
    places = [Place("log", f"k{number}") for number in range(200)]

    async def record(ledger: Ledger, step: int) -> None:
        chosen = places[step % 7 :: 3] + places[: step % 5]
        await ledger.record(TOPIC, dict.fromkeys(reversed(chosen), step))

    await asyncio.gather(*(record(ledger, step) for step in range(1, 41) for ledger in ledgers))
    last = await ledgers[0].last(TOPIC, places)
    assert last == {
        place: max(step for step in range(1, 41) if place in (*places[step % 7 :: 3], *places[: step % 5]))
        for place in last
    }
    assert len(last) == len(places)


async def test_opening_at_the_same_time_makes_one(opener: Opener) -> None:
    ledgers = await asyncio.gather(*(opener("g") for _ in range(8)))
    await ledgers[0].record(TOPIC, {A: 1})
    assert await ledgers[7].last(TOPIC, {A}) == {A: 1}


async def test_sqlite_that_is_locked_or_damaged_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = SqliteLedger(path, "g", busy_seconds=0.05)
    await ledger.open()
    await ledger.record(TOPIC, {A: 1})
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("begin immediate")
        results = await asyncio.gather(*(ledger.record(TOPIC, {A: n}) for n in (2, 3)), return_exceptions=True)
        assert [type(result) for result in results] == [DatabaseUnavailable, DatabaseUnavailable]
        other.execute("rollback")
    other.close()
    await ledger.record(TOPIC, {A: 4})
    assert await ledger.last(TOPIC, {A}) == {A: 4}
    await ledger.aclose()
    path.write_bytes(b"no database at all, but long enough to be looked at" * 10)
    broken = SqliteLedger(path, "g")
    with pytest.raises(DatabaseUnavailable):
        await broken.open()
    await broken.aclose()


async def test_sqlite_goes_on_when_a_caller_is_cancelled(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "ledger.sqlite", "g")
    await ledger.open()
    cancelled = asyncio.create_task(ledger.record(TOPIC, {A: 1}))
    await asyncio.sleep(0)
    cancelled.cancel()
    await ledger.record(TOPIC, {B: 2})
    assert (await ledger.last(TOPIC, {A, B}))[B] == 2
    await ledger.aclose()


async def test_postgres_that_is_away_is_unavailable_until_it_is_back(database_dsn: str) -> None:
    away = PostgresLedger("postgresql://nobody@127.0.0.1:1/none", "g", timeout_seconds=0.1)
    with pytest.raises(DatabaseUnavailable):
        await away.open()
    with pytest.raises(DatabaseUnavailable):
        await away.last(TOPIC, {A})
    await away.aclose()
    ledger = PostgresLedger(database_dsn, "g")
    await ledger.open()
    await ledger.record(TOPIC, {A: 1})
    with psycopg.connect(make_conninfo(database_dsn), autocommit=True) as other:
        other.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() "
            "and datname = current_database()"
        )
    assert await ledger.last(TOPIC, {A}) == {A: 1}
    await ledger.aclose()
